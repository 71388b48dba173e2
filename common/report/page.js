"use strict";
const cases = JSON.parse(document.getElementById("cases").textContent);
const find = id => document.getElementById(id);
const HEAT = [[0, 0, 0], [90, 20, 110], [220, 60, 60], [250, 170, 40], [255, 255, 230]]; // of an uncertainty
const GAIN = 4; // differences reach full colour at a quarter of the grey scale
const SIDES = ["left", "right", "below"];
const state = { at: 0, left: 0, right: 1, below: -1, divider: 0.5, depth: 0, zoom: 1, x: 0.5, y: 0.5 };
const loaded = new Map(); // pictures by their text
let panes = [];

const current = () => cases[state.at];
const role = column => current().columns[column].role;

function picture(text) { // grey levels of a picture: {width, height, grey}
  if (!loaded.has(text)) {
    loaded.set(text, (async () => {
      const image = new Image();
      image.src = "data:image/webp;base64," + text;
      await image.decode();
      const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext("2d");
      pen.drawImage(image, 0, 0);
      const pixels = pen.getImageData(0, 0, image.width, image.height).data;
      return { width: image.width, height: image.height, grey: pixels.filter((_, i) => i % 4 === 0) };
    })());
  }
  return loaded.get(text);
}

function tinted({ width, height, grey }, colour) {
  const canvas = new OffscreenCanvas(width, height), pen = canvas.getContext("2d"), out = pen.createImageData(width, height);
  grey.forEach((level, i) => { const [r, g, b] = colour(level, i); out.data.set([r, g, b, 255], 4 * i); });
  pen.putImageData(out, 0, 0);
  return canvas;
}

function heat(level) {
  const at = level / 255 * (HEAT.length - 1), i = Math.min(HEAT.length - 2, Math.floor(at)), part = at - i;
  return HEAT[i].map((value, k) => value + part * (HEAT[i + 1][k] - value));
}

function change(before, after) {
  return (level, i) => {
    const by = Math.max(-1, Math.min(1, GAIN * (after.grey[i] - before.grey[i]) / 255));
    return by > 0 ? [255 * by, 150 * by, 30 * by] : [-60 * by, -150 * by, -255 * by];
  };
}

function place(canvas, image, aspect) { // where an image lies on a canvas: contained, zoomed about (x, y)
  const width = image.width, height = image.height * aspect;
  const scale = Math.min(canvas.width / width, canvas.height / height) * state.zoom;
  const left = canvas.width / 2 - state.x * width * scale, top = canvas.height / 2 - state.y * height * scale;
  return [left, top, width * scale, height * scale];
}

async function draw() {
  const shown = Object.assign({}, state);
  for (const pane of panes) {
    const slice = pane.plane.slices[Math.min(shown.depth, pane.plane.slices.length - 1)];
    const wanted = [shown.left, shown.right, Math.max(0, shown.below)].map(column => picture(slice.images[column]));
    const [left, right, below] = await Promise.all(wanted);
    if (shown.at !== state.at) return; // another case came in between
    for (const canvas of [pane.canvas, pane.other]) {
      const size = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
      canvas.width = canvas.height = size;
      const pen = canvas.getContext("2d");
      pen.imageSmoothingEnabled = false;
      const spot = pane.spot = place(canvas, left, pane.plane.aspect), cut = Math.round(size * state.divider);
      const side = (image, column) => tinted(image, role(column) === "uncertainty" ? heat : level => [level, level, level]);
      if (canvas === pane.other) {
        if (shown.below >= 0) pen.drawImage(side(below, shown.below), ...spot);
        else if (comparable()) pen.drawImage(tinted(left, change(left, right)), ...spot);
        continue;
      }
      pen.drawImage(side(left, shown.left), ...spot);
      pen.save();
      pen.beginPath(); pen.rect(cut, 0, size - cut, size); pen.clip();
      pen.fillRect(0, 0, size, size);
      pen.drawImage(side(right, shown.right), ...spot);
      pen.restore();
      pen.fillStyle = "#5aa9e6";
      pen.fillRect(cut - 1, 0, 2, size);
    }
    pane.caption.textContent = [pane.plane.title, slice.caption].filter(Boolean).join(", ");
  }
  document.body.dataset.drawn = JSON.stringify(shown);
}

const comparable = () => [state.left, state.right].every(column => current().columns[column].scale === "shared");

function label(parent, kind, text) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  parent.append(made);
  return made;
}

function pane(title) {
  const figure = document.createElement("figure"), canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  figure.append(canvas);
  find("planes").append(figure);
  return [figure, canvas];
}

function show() { // after another case, or another choice of images
  const { planes, columns, name, setting, notes } = current();
  find("planes").replaceChildren();
  find("planes").classList.toggle("flat", planes.length === 1);
  panes = planes.map(plane => {
    const [figure, canvas] = pane(`${plane.title}: ${columns[state.left].title} and ${columns[state.right].title}`);
    label(figure, "a", columns[state.left].title);
    label(figure, "b", columns[state.right].title);
    label(figure, "l", plane.left);
    label(figure, "r", plane.right);
    return { plane, canvas, caption: label(figure, "c", "") };
  });
  for (const one of panes) {
    const difference = comparable() ? `${columns[state.right].title} − ${columns[state.left].title}` : "no difference: other scales";
    const text = state.below < 0 ? difference : columns[state.below].title;
    const [figure, canvas] = pane(`${one.plane.title}: ${text}`);
    label(figure, "a", text);
    one.other = canvas;
  }
  panes.forEach(one => [one.canvas, one.other].forEach(canvas => draggable(canvas, one)));
  find("notes").textContent = [setting, ...notes].filter(Boolean).join(" · ");
  find("case").value = state.at;
  const most = Math.max(...planes.map(plane => plane.slices.length)) - 1;
  find("depth").max = most;
  find("depths").hidden = most < 1;
  choose({});
}

function choose(change) { // after anything that only moves
  Object.assign(state, change);
  for (const key of ["divider", "depth", "zoom"]) find(key).value = key === "divider" ? 100 * state[key] : state[key];
  for (const id of SIDES) find(id).value = state[id];
  find("planes").classList.toggle("zoomed", state.zoom > 1);
  draw();
}

function open(at) {
  state.at = Math.max(0, Math.min(cases.length - 1, at));
  const roles = current().columns.map(column => column.role), result = roles.indexOf("result");
  for (const id of SIDES) find(id).replaceChildren(...current().columns.map((column, i) => new Option(column.title, i)));
  find("below").prepend(new Option("difference", -1));
  const depth = Math.floor((current().planes[0].slices.length - 1) / 2);
  Object.assign(state, { left: Math.max(0, roles.indexOf("input")), right: result, below: -1, depth, x: 0.5, y: 0.5 });
  show();
}

function zoom(by) {
  const value = Math.max(1, Math.min(8, state.zoom * by));
  choose(value === 1 ? { zoom: 1, x: 0.5, y: 0.5 } : { zoom: value });
}

function draggable(canvas, one) { // moves the divider, or a zoomed picture
  let from = null, moves = "";
  const drag = event => {
    const box = canvas.getBoundingClientRect(), at = (event.clientX - box.left) / box.width;
    if (event.type === "pointerdown") moves = state.zoom > 1 && Math.abs(at - state.divider) > 0.05 ? "picture" : "divider";
    if (moves === "divider") choose({ divider: Math.max(0, Math.min(1, at)) });
    else {
      const [, , width, height] = one.spot, by = (now, before, size) => (now - before) * devicePixelRatio / size;
      choose({
        x: Math.max(0, Math.min(1, state.x - by(event.clientX, from.clientX, width))),
        y: Math.max(0, Math.min(1, state.y - by(event.clientY, from.clientY, height))),
      });
    }
    from = event;
  };
  canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); from = event; drag(event); });
  canvas.addEventListener("pointermove", event => { if (from) drag(event); });
  canvas.addEventListener("pointerup", () => { from = null; });
}

cases.forEach(({ name, setting }, i) => find("case").append(new Option([name, setting].filter(Boolean).join(", "), i)));
find("case").addEventListener("change", event => open(Number(event.target.value)));
find("previous").addEventListener("click", () => open(state.at - 1));
find("next").addEventListener("click", () => open(state.at + 1));
find("blink").addEventListener("click", () => swap());
find("zoom").addEventListener("change", event => zoom(Number(event.target.value) / state.zoom));
find("divider").addEventListener("input", event => choose({ divider: event.target.value / 100 }));
find("depth").addEventListener("input", event => choose({ depth: Number(event.target.value) }));
for (const id of SIDES) {
  find(id).addEventListener("change", event => { state[id] = Number(event.target.value); show(); });
}

function swap() {
  [state.left, state.right] = [state.right, state.left];
  show();
}

const keys = {
  ArrowLeft: () => choose({ divider: Math.max(0, state.divider - 0.05) }),
  ArrowRight: () => choose({ divider: Math.min(1, state.divider + 0.05) }),
  ArrowUp: () => choose({ depth: Math.min(Number(find("depth").max), state.depth + 1) }),
  ArrowDown: () => choose({ depth: Math.max(0, state.depth - 1) }),
  "+": () => zoom(2), "=": () => zoom(2), "-": () => zoom(0.5),
  b: swap, n: () => open(state.at + 1), p: () => open(state.at - 1),
};
find("viewer").addEventListener("keydown", event => {
  const own = /^(SELECT|INPUT)$/.test(event.target.tagName) && event.key.startsWith("Arrow"); // the control's own keys
  const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || own || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
});
addEventListener("resize", () => draw());
open(0);
