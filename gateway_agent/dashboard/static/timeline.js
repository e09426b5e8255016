// One frame: which node computed which tile when. A strip of the last frames chooses it.
import { arrows, byId, clock, el, ink, keyed, say, seconds, set, style, svg } from "./dom.js";
import { changed, colour, frame, point, store } from "./store.js";

const ROW = 34;
let width = 600;
let parts = null;

export function build() {
  const hatch = svg("pattern", { id: "hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, svg("rect", { width: 2.4, height: 7, class: "hatch" }));
  parts = { axis: svg("g", { class: "axis" }), rows: svg("g"), tail: svg("g"), bars: svg("g") };
  parts.svg = svg("svg", { role: "group" }, svg("defs", {}, hatch), parts.axis, parts.rows, parts.tail, parts.bars);
  parts.empty = el("p", { class: "empty", text: "No frame has ended yet." });
  byId("gantt").append(parts.svg, parts.empty);
  new ResizeObserver(([entry]) => {
    width = entry.contentRect.width;
    draw();
  }).observe(byId("gantt"));
  arrows(byId("strip"), "[role=option]");
  arrows(parts.bars, "[role=img]");
  byId("newest").addEventListener("click", () => choose(store.chosen === null ? (frame()?.number ?? null) : null));
}

function choose(number) {
  store.chosen = number;
  changed();
}

export function draw() {
  if (!parts) return;
  const shown = frame();
  strip(shown);
  set(byId("newest"), "aria-pressed", store.chosen === null ? "true" : "false");
  parts.empty.hidden = Boolean(shown);
  set(parts.svg, "hidden", !shown);
  say(byId("frame-title"), shown ? `${shown.source} ${shown.count} · ${clock(shown.at)} · ${shown.status === "ok" ? `${seconds(shown.latency_s)}${shown.says ? ` · ${shown.says}` : ""}` : `failed: ${shown.reason}`}` : "");
  set(byId("frame-title"), "class", shown && shown.status !== "ok" ? "hint bad" : "hint");
  if (shown) gantt(shown);
}

function strip(shown) {
  const longest = Math.max(0.001, ...store.frames.map((one) => one.latency_s));
  keyed(byId("strip"), store.frames, (one) => one.number, newBar, (bar, one) => {
    const chosen = one === shown;
    style(bar.firstChild, "height", `${Math.max(6, (one.latency_s / longest) * 100).toFixed(0)}%`);
    set(bar, "aria-selected", chosen ? "true" : "false");
    set(bar, "tabindex", chosen ? 0 : -1);
  });
}

function newBar(one) {
  const label = `${one.source} ${one.count}: ${one.status === "ok" ? seconds(one.latency_s) : `failed, ${one.reason}`}`;
  const pick = () => choose(one.number);
  return el("div", { role: "option", class: one.status === "ok" ? "bar" : "bar failed", "aria-label": label, title: label, onclick: pick, onkeydown: (event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), pick()), onfocus: (event) => event.target.matches(":focus-visible") && pick() }, el("span"));
}

function gantt(shown) {
  const names = [...new Set(shown.tiles.map(([, node]) => node))].sort((a, b) => (b === shown.source) - (a === shown.source) || a.localeCompare(b, "en", { numeric: true }));
  const left = Math.min(96, width * 0.22);
  const right = 12;
  const end = Math.max(shown.latency_s, ...shown.tiles.map((tile) => tile[4]), 0.001);
  const x = (at) => left + (at / end) * (width - left - right);
  const rows = [...names, "gateway"];
  const height = rows.length * ROW + 26;
  set(set(parts.svg, "viewBox", `0 0 ${width} ${height}`), "height", height);
  set(parts.svg, "aria-label", `Frame ${shown.count} of ${shown.source}: ${shown.tiles.length} tiles by ${names.length} nodes in ${seconds(shown.latency_s)}`);
  axis(end, x, height);
  keyed(parts.rows, rows, (name) => name, (name) => svg("g", {}, svg("line", { class: "rule" }), svg("text", { class: "rowname" }, document.createTextNode(name))), (group, name) => {
    const y = rows.indexOf(name) * ROW;
    const [rule, text] = group.children;
    set(set(set(set(rule, "x1", 0), "x2", width), "y1", y + ROW), "y2", y + ROW);
    set(set(text, "x", 0), "y", y + ROW / 2 + 4);
    say(text, name.length * 7 > left - 8 ? `${name.slice(0, Math.floor((left - 14) / 7))}…` : name);
    set(group, "class", store.node && store.node !== name ? "dim" : "");
  });
  const last = Math.max(0, ...shown.tiles.map((tile) => tile[4]));
  keyed(parts.tail, shown.status === "ok" ? [shown] : [], (one) => one.number, () => svg("rect", { class: "tailbar", rx: 3 }, svg("title")), (bar) => {
    set(set(set(set(bar, "x", x(last)), "y", (rows.length - 1) * ROW + 6), "width", Math.max(2, x(shown.latency_s) - x(last))), "height", ROW - 12);
    say(bar.firstChild, `merge, tail and decoding: ${seconds(shown.latency_s - last)}`);
  });
  const tiles = [...shown.tiles].sort((a, b) => names.indexOf(a[1]) - names.indexOf(b[1]) || a[3] - b[3]);
  keyed(parts.bars, tiles, (tile) => `${shown.number}/${tile[0]}`, (tile) => newTile(tile), (group, tile) => {
    const [index, node, stolen, start, stop] = tile;
    const [fill, hatch, text] = group.children;
    const y = names.indexOf(node) * ROW + 5;
    const wide = Math.max(3, x(stop) - x(start) - 1);
    for (const rect of [fill, hatch]) set(set(set(set(rect, "x", x(start)), "y", y), "width", wide), "height", ROW - 10);
    set(fill, "fill", colour(node));
    set(hatch, "hidden", !stolen);
    set(hatch, "fill", stolen ? "url(#hatch)" : "none");
    set(set(text, "x", x(start) + wide / 2), "y", y + (ROW - 10) / 2 + 4);
    set(text, "fill", ink(colour(node)));
    say(text, wide > 16 ? String(index) : "");
    const dim = (store.node && store.node !== node) || (store.tile !== null && store.tile !== index);
    set(group, "class", `tile${dim ? " dim" : ""}`);
    set(group, "tabindex", group.previousSibling ? -1 : 0);
    const label = `tile ${index}, ${node}${stolen ? ", stolen" : ""}: ${seconds(start)} to ${seconds(stop)}`;
    set(group, "aria-label", label);
    say(group.lastChild, label);
  });
}

function newTile(tile) {
  const on = () => point({ tile: tile[0] });
  const off = () => point({ tile: null });
  return svg("g", { role: "img", onmouseenter: on, onmouseleave: off, onfocus: on, onblur: off }, svg("rect", { rx: 3 }), svg("rect", { rx: 3 }), svg("text", { "text-anchor": "middle", class: "index" }), svg("title"));
}

function axis(end, x, height) {
  const raw = end / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const marks = [];
  for (let i = 0; i * step <= end * 1.0001; i += 1) marks.push(i * step);
  keyed(parts.axis, marks.map((at, i) => ({ at, i })), (mark) => mark.i, () => svg("g", {}, svg("line", {}), svg("text", { "text-anchor": "middle" })), (group, { at, i }) => {
    const [line, text] = group.children;
    set(set(set(set(line, "x1", x(at)), "x2", x(at)), "y1", 0), "y2", height - 22);
    set(set(text, "x", i === 0 ? x(at) : Math.min(x(at), width - 22)), "y", height - 7);
    say(text, i === 0 ? "0" : step < 1 && end < 1 ? `${Math.round(at * 1000)} ms` : `${Number(at.toFixed(2))} s`);
  });
}
