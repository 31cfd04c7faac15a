"use strict";
// The frames lie in the page as text, one element each ("f<video>-<position>"), and are decoded
// when they are shown. A film is one video; a position counts its frames in the page from 0.
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const KEPT = 48;  // decoded frames
const clip = (value, low, high) => Math.max(low, Math.min(high, value));
const given = (value) => value !== null && value !== undefined;
const mean = (values) => values.length ? values.reduce((sum, v) => sum + v, 0) / values.length : null;
const number = (value, digits) => given(value) ? value.toFixed(digits) : "–";

let film = data.videos[0];
let video = 0;      // position of the film
let at = 0;         // frame on the screen
let wanted = 0;     // frame that is on its way
let playing = false;
let rounds = 0;      // of playing, so far
let zoom = { factor: 1, x: 0.5, y: 0.5 };  // what part of the frame is in the middle of the stage
let chosen = null;  // joint under the mouse: {person, joint}; person null for everybody
let visited = -1;   // place in the list of the worst frames
let spots = [];     // joints on the screen, for the mouse
let mouse = null;   // its last event on the stage, while it is there
const decoded = new Map();

function element(tag, attributes = {}, text = null, space = "http://www.w3.org/2000/svg") {
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== null) made.textContent = text;
  return made;
}
const html = (tag, attributes, text) => element(tag, attributes, text, "http://www.w3.org/1999/xhtml");

// People -----------------------------------------------------------------------------------------

const people = () => film.people[at];
const others = () => (film.others ? film.others[at] : []);
const color = (person, index) => data.palette[(person.t >= 0 ? person.t : index) % data.palette.length];
const title = (person, index) =>
  person.t < 0 ? `person ${index + 1}` : data.tracks[person.t] ?? `track ${person.t}`;
const score = (person, joint) => (person.s && given(person.s[joint]) ? person.s[joint] : null);
const labelled = (person, joint) => given(person.x[joint]);
const below = (person, joint) => {
  const sure = score(person, joint);
  return sure !== null && sure < Number($("threshold").value);
};
const shown = (person, joint) => labelled(person, joint) && !below(person, joint) &&
  $(score(person, joint) === null ? "show-human" : "show-predicted").checked;

function distance(person, joint, frame) {
  const other = given(person.m) ? film.others[frame][person.m] : null;
  if (!other || !labelled(person, joint) || !labelled(other, joint)) return null;
  return Math.hypot(person.x[joint] - other.x[joint], person.y[joint] - other.y[joint]);
}
const MEASURES = {
  confidence: (person, frame) => mean(data.joints.map((_, j) => score(person, j)).filter(given)),
  distance: (person, frame) => mean(data.joints.map((_, j) => distance(person, j, frame)).filter(given)),
};

// The frame and the marks on it ------------------------------------------------------------------

const frameSize = () => film.sizes[at] ?? film.size;

function view() {  // of a pixel (x, y) of the frame: left + (x + 0.5) * scale, ...
  const [width, height] = frameSize(), { clientWidth, clientHeight } = $("stage");
  const scale = zoom.factor * Math.min(clientWidth / width, clientHeight / height);
  return {
    scale, left: clientWidth / 2 - zoom.x * width * scale, top: clientHeight / 2 - zoom.y * height * scale,
  };
}

function decode(position) {
  const key = `f${video}-${position}`, text = $(key);
  if (!text) return Promise.resolve(null);
  if (!decoded.has(key)) {
    const image = new Image();
    image.src = `data:image/${data.format};base64,${text.textContent}`;
    decoded.set(key, image.decode().then(() => image, () => null));
    if (decoded.size > KEPT) decoded.delete(decoded.keys().next().value);
  }
  return decoded.get(key);
}

async function show(position) {
  position = clip(position, 0, film.numbers.length - 1);
  wanted = position;
  const of = video, image = await decode(position);
  if (wanted !== position || of !== video) return;  // a later wish came in between
  at = position;
  const picture = $("picture"), [width, height] = image ? [image.naturalWidth, image.naturalHeight] : frameSize();
  picture.width = width;  // which clears it: grey where the frame is missing
  picture.height = height;
  if (image) picture.getContext("2d").drawImage(image, 0, 0);
  picture.setAttribute("aria-label", `Frame ${film.numbers[at]} of ${film.name}`);
  $("fault").hidden = image !== null;
  $("fault").textContent = film.missing[at] ?? "This frame cannot be decoded.";
  place();
  drawMarks();
  fillTable();
  if (mouse) tip(mouse);  // another joint may be under it now
  for (let ahead = 1; ahead <= 4 && at + ahead < film.numbers.length; ahead++) decode(at + ahead);
}

function place() {
  const count = film.numbers.length, seconds = (film.numbers[at] - film.numbers[0]) / film.fps;
  $("place").textContent = `frame ${film.numbers[at]} · ${at + 1} of ${count} · ${seconds.toFixed(2)} s`;
  $("timeline").setAttribute("aria-valuenow", at);
  $("timeline").setAttribute("aria-valuetext", `frame ${film.numbers[at]}`);
  $("head").style.left = `${(100 * at) / count}%`;
  $("head").style.width = `${100 / count}%`;
}

function drawMarks() {
  const { scale, left, top } = view(), picture = $("picture"), svg = $("marks");
  const size = frameSize();
  picture.style.transform =
    `translate(${left}px, ${top}px) scale(${(size[0] * scale) / picture.width}, ${(size[1] * scale) / picture.height})`;
  $("stage").classList.toggle("zoomed", zoom.factor > 1);
  const put = (person, joint) =>
    [left + (person.x[joint] + 0.5) * scale, top + (person.y[joint] + 0.5) * scale].map((v) => Math.round(10 * v) / 10);
  const line = (a, b) => `M${a}L${b}`;
  const radius = clip(film.limb ? 0.13 * film.limb * scale : 4.5, 2.2, 6);
  const layers = [element("g"), element("g"), element("g"), element("g")];  // boxes, limbs, joints, names
  spots = [];

  people().forEach((person, index) => {
    const tint = color(person, index), seen = data.joints.map((_, joint) => shown(person, joint));
    if ($("show-boxes").checked && person.b && seen.includes(true)) {
      const [x, y, width, height] = person.b;
      layers[0].append(element("rect", {
        class: "box", x: left + x * scale, y: top + y * scale, width: width * scale, height: height * scale, stroke: tint,
      }));
    }
    const limbs = $("show-limbs").checked ? data.limbs.filter(([a, b]) => seen[a] && seen[b]) : [];
    const opacity = (joint) => 0.25 + 0.75 * clip(score(person, joint) ?? 1, 0, 1);
    if (limbs.length) {
      const path = limbs.map(([a, b]) => line(put(person, a), put(person, b))).join("");
      layers[1].append(element("path", { class: "rim", d: path, "stroke-width": radius * 0.75 + 1.5, "stroke-opacity": 0.35 }));
    }
    for (const [a, b] of limbs) {
      layers[1].append(element("path", {
        class: "limb", d: line(put(person, a), put(person, b)), stroke: tint, "stroke-width": radius * 0.75,
        "stroke-opacity": Math.min(opacity(a), opacity(b)),
      }));
    }
    seen.forEach((visible, joint) => {
      if (!visible) return;
      const [x, y] = put(person, joint), human = score(person, joint) === null;
      const names = { "data-person": index, "data-joint": joint };
      if (human) {
        const box = { x: x - radius, y: y - radius, width: 2 * radius, height: 2 * radius };
        layers[2].append(element("rect", { ...box, class: "rim", "stroke-width": 3 }));
        layers[2].append(element("rect", { ...box, ...names, class: "human", fill: tint, stroke: "#fff", "stroke-width": clip(radius / 3, 0.8, 1.5) }));
      } else {  // a ring that says where, filled as far as it is sure
        layers[2].append(element("circle", { cx: x, cy: y, r: radius, class: "rim", "stroke-width": 3.5 }));
        layers[2].append(element("circle", {
          cx: x, cy: y, r: radius, ...names, class: "predicted", fill: tint, "fill-opacity": opacity(joint) ** 2, stroke: tint, "stroke-width": 1.3,
        }));
      }
      if (chosen && chosen.joint === joint && (chosen.person === null || chosen.person === index)) {
        layers[3].append(element("circle", { cx: x, cy: y, r: radius + 5, class: "under", "stroke-width": 3.5 }));
        layers[3].append(element("circle", { cx: x, cy: y, r: radius + 5, class: "chosen" }));
      }
      if ($("show-names").checked) {
        layers[3].append(element("text", { x: x + radius + 3, y: y - radius }, data.joints[joint]));
      }
      spots.push({ x, y, index, joint });
    });
  });
  if ($("show-compare").checked) {
    const arm = Math.max(2, radius * 0.8), thick = clip(radius / 3, 0.8, 1.5);
    const partner = new Map(people().map((person) => [person.m, person]));
    others().forEach((other, index) => data.joints.forEach((_, joint) => {
      if (!labelled(other, joint)) return;
      const [x, y] = put(other, joint), owner = partner.get(index);
      if (owner && shown(owner, joint)) {
        layers[2].append(element("path", { class: "link", d: line([x, y], put(owner, joint)) }));
      }
      const cross = line([x - arm, y - arm], [x + arm, y + arm]) + line([x - arm, y + arm], [x + arm, y - arm]);
      layers[2].append(element("path", { class: "under", d: cross, "stroke-width": thick + 1.6 }));
      layers[2].append(element("path", { class: "other", d: cross, "stroke-width": thick, "data-person": index, "data-joint": joint }));
    }));
  }
  svg.replaceChildren(...layers);
}

function tip(event) {
  mouse = event;
  const corner = $("stage").getBoundingClientRect();
  const x = event.clientX - corner.left, y = event.clientY - corner.top, reach = event.pointerType === "touch" ? 26 : 14;
  let nearest = null, least = reach;
  for (const spot of spots) {
    const far = Math.hypot(spot.x - x, spot.y - y);
    if (far < least) [nearest, least] = [spot, far];
  }
  choose(nearest && { person: nearest.index, joint: nearest.joint });
  $("tip").hidden = !nearest;
  if (!nearest) return;
  const person = people()[nearest.index], joint = nearest.joint, sure = score(person, joint), far = distance(person, joint, at);
  $("tip").textContent = `${data.joints[joint]} · ${title(person, nearest.index)}\n` +
    (sure === null ? "labelled by a human" : `confidence ${sure.toFixed(2)}`) +
    `\nx ${person.x[joint].toFixed(1)}, y ${person.y[joint].toFixed(1)}` + (far === null ? "" : `\n${far.toFixed(1)} px apart`);
  const { offsetWidth, offsetHeight } = $("tip");
  $("tip").style.left = `${clip(nearest.x + 14, 0, corner.width - offsetWidth)}px`;
  $("tip").style.top = `${clip(nearest.y + 14, 0, corner.height - offsetHeight)}px`;
}

function untip() {
  mouse = null;
  choose(null);
  $("tip").hidden = true;
}

function choose(joint) {
  if (JSON.stringify(joint) === JSON.stringify(chosen)) return;
  chosen = joint;
  drawMarks();
  [...$("joints").tBodies].forEach((body) => [...body.rows].forEach((row, index) =>
    row.classList.toggle("chosen", chosen !== null && chosen.joint === index)));
}

function fillTable() {
  const table = $("joints"), list = people(), compares = Boolean(film.others);
  table.replaceChildren();
  $("table-title").textContent = list.length ? `Joints in frame ${film.numbers[at]}` : `Nobody in frame ${film.numbers[at]}`;
  if (!list.length) return;
  const head = table.createTHead(), names = head.insertRow(), units = head.insertRow();
  names.append(html("th", { scope: "col", rowspan: 2 }, "joint"));
  list.forEach((person, index) => {
    const cell = html("th", { scope: "colgroup", colspan: compares ? 2 : 1 });
    const dot = html("i", { class: "dot" });
    dot.style.background = color(person, index);
    cell.append(dot, title(person, index));
    names.append(cell);
    units.append(html("th", { scope: "col" }, "confidence"));
    if (compares) units.append(html("th", { scope: "col" }, "px apart"));
  });
  const body = table.createTBody();
  data.joints.forEach((name, joint) => {
    const row = body.insertRow();
    row.append(html("th", { scope: "row" }, name));
    row.addEventListener("pointerenter", () => choose({ person: null, joint }));
    row.addEventListener("pointerleave", () => choose(null));
    for (const person of list) {
      const sure = score(person, joint), cell = row.insertCell();
      cell.textContent = !labelled(person, joint) ? "–" : sure === null ? "label" : sure.toFixed(2);
      if (sure !== null) {
        cell.className = below(person, joint) ? "sure below" : "sure";
        cell.style.setProperty("--part", `${100 * clip(sure, 0, 1)}%`);
      }
      if (compares) row.insertCell().textContent = number(distance(person, joint, at), 1);
    }
  });
  const foot = table.createTFoot();
  const total = (name, confidence, apart) => {
    const row = foot.insertRow();
    row.append(html("th", { scope: "row" }, name));
    for (const person of list) {
      row.insertCell().textContent = number(confidence(person), 2);
      if (compares) row.insertCell().textContent = apart(person);
    }
  };
  total("mean", (person) => MEASURES.confidence(person, at), (person) => number(MEASURES.distance(person, at), 1));
  if (list.some((person) => given(person.p))) total("score", (person) => person.p, () => "");
}
