"use strict";
// Niceties only: the page is complete without them.
for (const figure of document.querySelectorAll(".clip")) {
  const moving = figure.querySelector("img"), source = figure.querySelector("source");
  const film = moving.src, poster = source.srcset;
  let plays = moving.currentSrc !== poster;  // a reader may want nothing to move
  const button = document.createElement("button");
  button.type = "button";
  const show = () => {
    source.remove();
    moving.src = plays ? film : poster;
    button.textContent = plays ? "Stop" : "Play";
  };
  button.textContent = plays ? "Stop" : "Play";
  button.addEventListener("click", () => { plays = !plays; show(); });
  figure.querySelector("figcaption").prepend(button);
}
const dialog = document.createElement("dialog");
dialog.setAttribute("aria-label", "Enlarged image");
document.body.append(dialog);
dialog.addEventListener("click", () => dialog.close());
for (const image of document.querySelectorAll(".images img")) {
  image.classList.add("zoom");
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  const enlarge = () => { dialog.replaceChildren(image.cloneNode()); dialog.showModal(); };
  image.addEventListener("click", enlarge);
  image.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(); }
  });
}
