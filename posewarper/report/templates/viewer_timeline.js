// Time line --------------------------------------------------------------------------------------

function drawTimeline() {
  const count = film.numbers.length, kind = $("measure").value, curves = new Map();
  film.people.forEach((list, frame) => list.forEach((person, index) => {
    const value = MEASURES[kind](person, frame);
    if (value === null) return;
    if (!curves.has(person.t)) curves.set(person.t, new Map());
    const curve = curves.get(person.t);  // people without tracks share one curve, of their mean
    curve.set(frame, [...(curve.get(frame) ?? []), value]);
  }));
  let top = 1;
  if (kind === "distance") {
    const all = [...curves.values()].flatMap((curve) => [...curve.values()].map(mean)).sort((a, b) => a - b);
    top = Math.max(1, 1.1 * (all[Math.floor(0.98 * (all.length - 1))] ?? 1));
  }
  const chart = $("chart");
  chart.setAttribute("viewBox", `0 0 ${count} 100`);
  chart.replaceChildren();
  const ticks = (positions, name, y, height) => positions.length && chart.append(element("path", {
    class: name, d: positions.map((frame) => `M${Number(frame) + 0.5} ${y}v${height}`).join(""),
  }));
  ticks(Object.keys(film.missing), "missing", 0, 100);
  for (const [track, curve] of curves) {
    let path = "", last = -2;
    for (const [frame, values] of curve) {  // in the order of the frames
      const y = 4 + 78 * (1 - clip(mean(values) / top, 0, 1));
      path += `${frame === last + 1 ? "L" : "M"}${frame + 0.5} ${y.toFixed(2)}${frame === last + 1 ? "" : "h0"}`;
      last = frame;
    }
    chart.append(element("path", { class: "curve", d: path, stroke: color({ t: track }, 0), "data-track": track }));
  }
  ticks(film.human, "human", curves.size ? 86 : 40, 60);
  $("timeline").classList.toggle("flat", !curves.size);
  $("high").textContent = curves.size ? (kind === "distance" ? `${top.toFixed(1)} px apart` : "confidence 1") : "";
  $("low").textContent = curves.size ? "0" : "";
  drawLevel();
  const present = new Map();
  film.people.forEach((list) => list.forEach((person) => person.t >= 0 && present.set(person.t, person)));
  $("tracks").replaceChildren(...[...present.values()].sort((a, b) => a.t - b.t).slice(0, 40).map((person) => {
    const key = html("span", { class: "key" }), dot = html("i", { class: "dot" });
    dot.style.background = color(person, 0);
    key.append(dot, title(person, 0));
    return key;
  }));
}

function drawLevel() {
  const level = Number($("threshold").value);
  $("threshold-value").textContent = level.toFixed(2);
  $("level").hidden = level === 0 || $("measure").value !== "confidence";
  $("level").style.top = `${4 + 78 * (1 - level)}%`;
}

/** Frames from the worst on; none near one that is worse, so that one fault is visited once. */
function ranking() {
  const kind = $("measure").value, sign = kind === "distance" ? -1 : 1, near = Math.max(2, Math.round(film.fps / 5));
  const worst = film.people.map((list, frame) => {
    const values = list.map((person) => MEASURES[kind](person, frame)).filter(given).map((value) => sign * value);
    return { frame, value: values.length ? Math.min(...values) : Infinity };
  }).filter((entry) => entry.value < Infinity).sort((a, b) => a.value - b.value || a.frame - b.frame);
  const kept = [], taken = new Set();
  for (const { frame } of worst) {
    if (taken.has(frame)) continue;
    kept.push(frame);
    for (let other = frame - near; other <= frame + near; other++) taken.add(other);
  }
  return kept;
}
