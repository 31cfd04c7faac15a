// Moving about -----------------------------------------------------------------------------------

const jump = (position) => { pause(); return show(position); };

function toLabel(direction) {
  const found = direction > 0 ? film.human.find((p) => p > wanted) : film.human.findLast((p) => p < wanted);
  if (found !== undefined) jump(found);
}

function toWorst(direction) {
  if (!film.ranking.length) return;
  visited = (visited + direction + film.ranking.length) % film.ranking.length;
  if (visited < 0) visited = film.ranking.length - 1;
  jump(film.ranking[visited]);
}

function pause() {
  playing = false;
  $("play").textContent = "Play";
  $("play").setAttribute("aria-pressed", "false");
}

function play() {
  if (playing) return pause();
  playing = true;
  $("play").textContent = "Pause";
  $("play").setAttribute("aria-pressed", "true");
  const end = film.numbers.length - 1, round = ++rounds;
  let position = at >= end ? 0 : at, start, from, speed;
  const begin = () => {
    [start, from, speed] = [performance.now(), film.numbers[position], Number($("speed").value)];
  };
  const step = async () => {
    if (!playing || round !== rounds) return;  // paused, and perhaps started anew
    if (Number($("speed").value) !== speed) begin();
    const number = from + ((performance.now() - start) / 1000) * film.fps * speed;
    while (position < end && film.numbers[position + 1] <= number) position++;  // a slow machine leaves frames out
    if (position !== at) await show(position);
    if (!playing || round !== rounds) return;
    if (position >= end) return pause();
    const due = start + (1000 * (film.numbers[position + 1] - from)) / (film.fps * speed);
    setTimeout(step, clip(due - performance.now(), 1, 200));  // soon enough to heed a new speed
  };
  begin();
  step();
}

function zoomBy(factor, x, y) {  // the point (x, y) of the stage stays where it is
  const before = view(), [width, height] = frameSize(), { clientWidth, clientHeight } = $("stage");
  const after = clip(zoom.factor * factor, 1, 60), scale = (before.scale * after) / zoom.factor;
  zoom = {
    factor: after,
    x: ((x - before.left) / before.scale) / width + (clientWidth / 2 - x) / (width * scale),
    y: ((y - before.top) / before.scale) / height + (clientHeight / 2 - y) / (height * scale),
  };
  moveBy(0, 0);
}

function moveBy(dx, dy) {
  const { scale } = view(), [width, height] = frameSize(), fits = zoom.factor === 1;
  zoom.x = fits ? 0.5 : clip(zoom.x - dx / (width * scale), 0, 1);
  zoom.y = fits ? 0.5 : clip(zoom.y - dy / (height * scale), 0, 1);
  drawMarks();
}

function fit() { zoom = { factor: 1, x: 0.5, y: 0.5 }; drawMarks(); }

function openFilm(position, number = null) {
  pause();
  untip();
  film = data.videos[position];
  video = position;
  at = wanted = 0;
  $("video").value = position;
  zoom = { factor: 1, x: 0.5, y: 0.5 };
  $("stage").style.aspectRatio = `${film.size[0]} / ${film.size[1]}`;
  $("timeline").setAttribute("aria-valuemax", film.numbers.length - 1);
  const lengths = film.people.flat().slice(0, 400).flatMap((person) => data.limbs
    .filter(([a, b]) => labelled(person, a) && labelled(person, b))
    .map(([a, b]) => Math.hypot(person.x[a] - person.x[b], person.y[a] - person.y[b]))).sort((a, b) => a - b);
  film.limb = lengths[lengths.length >> 1] ?? 0;
  const scored = film.people.some((list) => list.some((person) => person.s)), compares = Boolean(film.others);
  $("measure").value = scored ? "confidence" : "distance";
  $("threshold-choice").hidden = !scored;
  $("compare-choice").hidden = !compares;
  $("measure-choice").hidden = !(scored && compares);
  $("human-key").hidden = !film.human.length;
  $("show-predicted").parentElement.hidden = !scored;
  $("show-human").parentElement.hidden = !film.people.some((list) => list.some((person) => !person.s));
  $("show-limbs").parentElement.hidden = !data.limbs.length;
  $("missing-key").hidden = !Object.keys(film.missing).length;
  for (const id of ["previous-label", "next-label"]) $(id).disabled = !film.human.length;
  measured();
  listProblems();
  const nearest = film.numbers.findIndex((n) => n >= number);
  return show(number === null ? 0 : nearest < 0 ? film.numbers.length - 1 : nearest);
}

function measured() {
  film.ranking = ranking();
  visited = -1;
  $("worst").disabled = !film.ranking.length;
  drawTimeline();
}

function listProblems() {
  const entries = Object.entries(film.missing);
  $("problems").hidden = !entries.length;
  $("problems").querySelector("summary").textContent =
    `${entries.length} ${entries.length === 1 ? "frame" : "frames"} missing or damaged`;
  $("problems").querySelector("ul").replaceChildren(...entries.map(([position, message]) => {
    const item = html("li"), button = html("button", { type: "button" }, String(film.numbers[position]));
    button.addEventListener("click", () => jump(Number(position)));
    item.append(button, " " + message);
    return item;
  }));
}

// Mouse, fingers, keys ---------------------------------------------------------------------------

function listenToStage() {
  const stage = $("stage"), down = new Map();
  const inside = (event) => {
    const corner = stage.getBoundingClientRect();
    return [event.clientX - corner.left, event.clientY - corner.top];
  };
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomBy(Math.exp(-clip(event.deltaY * (event.deltaMode ? 16 : 1), -200, 200) / 400), ...inside(event));
  }, { passive: false });
  stage.addEventListener("dblclick", fit);
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, inside(event));
    tip(event);
  });
  stage.addEventListener("pointermove", (event) => {
    const last = down.get(event.pointerId), here = inside(event);
    if (!last) return tip(event);
    down.set(event.pointerId, here);
    if (down.size === 2) {
      const other = [...down].find(([id]) => id !== event.pointerId)[1];
      const apart = (p) => Math.max(1, Math.hypot(p[0] - other[0], p[1] - other[1]));
      zoomBy(apart(here) / apart(last), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
    }
    if (zoom.factor > 1) {
      stage.classList.add("dragged");
      moveBy((here[0] - last[0]) / down.size, (here[1] - last[1]) / down.size);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => { down.delete(event.pointerId); stage.classList.remove("dragged"); });
  }
  stage.addEventListener("pointerleave", untip);
}

function listenToTimeline() {
  const line = $("timeline");
  const seek = (event) => {
    const box = line.getBoundingClientRect();
    jump(Math.floor(((event.clientX - box.left) / box.width) * film.numbers.length));
  };
  line.addEventListener("pointerdown", (event) => { line.setPointerCapture(event.pointerId); seek(event); });
  line.addEventListener("pointermove", (event) => { if (line.hasPointerCapture(event.pointerId)) seek(event); });
}

const KEYS = {
  arrowleft: (event) => jump(wanted - (event.shiftKey ? 10 : 1)),
  arrowright: (event) => jump(wanted + (event.shiftKey ? 10 : 1)),
  home: () => jump(0),
  end: () => jump(film.numbers.length - 1),
  " ": play,
  n: () => toLabel(1),
  p: () => toLabel(-1),
  w: (event) => toWorst(event.shiftKey ? -1 : 1),
  "+": () => zoomBy(1.3, $("stage").clientWidth / 2, $("stage").clientHeight / 2),
  "-": () => zoomBy(1 / 1.3, $("stage").clientWidth / 2, $("stage").clientHeight / 2),
  0: fit,
};

function listen() {
  listenToStage();
  listenToTimeline();
  document.addEventListener("keydown", (event) => {
    const action = KEYS[event.key.toLowerCase()], { tagName, type } = event.target;
    const own = tagName === "SELECT" || type === "range" || (event.key === " " && /BUTTON|INPUT|SUMMARY/.test(tagName));
    if (!action || own || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action(event);
  });
  document.addEventListener("click", (event) => {  // so that the space bar plays after a click
    if (event.detail && event.target.closest("button")) document.activeElement.blur();
  });
  const actions = {
    "previous-label": () => toLabel(-1), "next-label": () => toLabel(1), back: () => jump(wanted - 1),
    forward: () => jump(wanted + 1), play, worst: () => toWorst(1), fit,
  };
  for (const [id, action] of Object.entries(actions)) $(id).addEventListener("click", action);
  for (const box of document.querySelectorAll("input[type=checkbox]")) box.addEventListener("change", drawMarks);
  $("threshold").addEventListener("input", () => { drawLevel(); drawMarks(); fillTable(); });
  $("measure").addEventListener("change", measured);
  $("video").addEventListener("change", () => openFilm(Number($("video").value)));
  addEventListener("resize", drawMarks);
  addEventListener("hashchange", fromAddress);
}

/** "#120" is frame 120 of the first video, "#2:120" of the second one. */
function fromAddress() {
  const [, of, number] = location.hash.match(/^#(?:(\d+):)?(\d+)$/) ?? [];
  return openFilm(clip(Number(of ?? 1) - 1, 0, data.videos.length - 1), number === undefined ? null : Number(number));
}

$("threshold").value = data.threshold;
document.querySelector("main").hidden = false;
listen();
fromAddress();
$("loading").remove();
