// The cluster as a graph: the gateway in the middle, its nodes around it, and stolen tiles on their way.
import { byId, bytes, celsius, count, el, keyed, number, percent, say, seconds, set, style, svg } from "./dom.js";
import { point, store } from "./store.js";

const R = 30;
let width = 600;
let parts = null;

export function build() {
  const box = byId("graph");
  const arrow = svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" }, svg("path", { d: "M0 0 8 4 0 8z", fill: "var(--muted)" }));
  parts = { links: svg("g"), flows: svg("g"), nodes: svg("g") };
  parts.svg = svg("svg", { role: "group", "aria-label": "The cluster" }, svg("defs", {}, arrow), parts.links, parts.flows, parts.nodes);
  parts.empty = el("div", { class: "empty", hidden: true }, el("p", { class: "strong", text: "No node has joined yet." }), el("p", { text: "On another machine, or in another terminal here:" }), (parts.command = el("code", {})));
  box.append(parts.svg, parts.empty);
  new ResizeObserver(([entry]) => {
    width = entry.contentRect.width;
    draw();
  }).observe(box);
}

// Nodes on an ellipse that fills the box, whatever their number; the gateway where their middle is.
function layout(nodes, radius) {
  const n = nodes.length;
  if (n < 2) return { height: n ? 200 : 0, hub: { x: width * 0.7, y: 82 }, places: new Map(nodes.map((one) => [one.name, { x: width * 0.3, y: 82 }])) };
  const height = n === 2 ? 240 : Math.min(540, 344 + Math.max(0, n - 6) * 20);
  const turns = nodes.map((_, i) => (i / n) * 2 * Math.PI - (n === 2 ? Math.PI : Math.PI / 2));
  const unit = turns.map((turn) => ({ x: Math.cos(turn), y: Math.sin(turn) }));
  const [top, low] = n === 2 ? [-1, 1] : [Math.min(...unit.map((u) => u.y)), Math.max(...unit.map((u) => u.y))];
  const from = radius + (n === 2 ? 30 : 44);
  const span = height - from - radius - 42;
  const spread = Math.min(width / 2 - 56, n < 5 ? 230 : 290);
  const y = (u) => from + ((u - top) / (low - top)) * span;
  const places = new Map(nodes.map((one, i) => [one.name, { x: width / 2 + unit[i].x * spread, y: y(unit[i].y), above: n > 2 && unit[i].y < -0.3 }]));
  return { height, hub: { x: width / 2, y: n === 3 ? y(0.24) : y(0) - (n === 2 ? 0 : 4) }, places };
}

export function draw() {
  if (!parts || !store.state) return;
  const { nodes, flows, gateway, totals } = store.state;
  const radius = nodes.length > 10 ? 22 : R;
  const { height, hub, places } = layout(nodes, radius);
  parts.empty.hidden = nodes.length > 0;
  if (parts.empty.hidden === false) say(parts.command, `dt edge --gateway ${gateway.broker || "HOST"}`);
  set(parts.svg, "hidden", nodes.length === 0);
  set(parts.svg, "viewBox", `0 0 ${width} ${height}`);
  set(parts.svg, "height", height);
  keyed(parts.links, nodes, (one) => one.name, () => svg("line", {}), (line, one) => {
    const place = places.get(one.name);
    set(set(set(set(line, "x1", hub.x), "y1", hub.y), "x2", place.x), "y2", place.y);
    set(line, "class", one.online ? "link" : "link off");
  });
  const flowing = flows.filter((flow) => flow.tiles && places.has(flow.from) && places.has(flow.to));
  keyed(parts.flows, flowing, (flow) => `${flow.from}>${flow.to}`, newFlow, (path, flow) => {
    set(path, "d", arc(places.get(flow.from), places.get(flow.to), radius + 7));
    const speed = flow.rate <= 0 ? "still" : flow.rate < 1 ? "slow" : flow.rate < 5 ? "steady" : "fast";
    const dim = store.node && store.node !== flow.from && store.node !== flow.to;
    set(path, "class", `flow ${speed}${dim ? " dim" : ""}`);
    style(path, "--tile", nodes.find((one) => one.name === flow.to).colour);
    say(path.firstChild, `${flow.to} has stolen ${count(flow.tiles)} tiles of ${flow.from}, ${number(flow.rate)} a second`);
  });
  const hubView = { name: "gateway", gateway: true, online: gateway.connected, ...gateway };
  keyed(parts.nodes, [hubView, ...nodes], (one) => one.name, newNode, (group, one) => update(group, one, one.gateway ? hub : places.get(one.name), radius));
  const stolen = totals.tiles ? `${percent(totals.stolen / totals.tiles)} of all tiles were stolen` : "";
  say(byId("flow-hint"), stolen);
  keyed(byId("node-rows"), [hubView, ...nodes], (one) => one.name, newRow, updateRow);
}

function newFlow() {
  return svg("path", { "marker-end": "url(#arrow)" }, svg("title"));
}

// From circle to circle, bent to one side: the way back lies on the other.
function arc(from, to, gap) {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const length = Math.hypot(dx, dy) || 1;
  const bend = { x: (from.x + to.x) / 2 + dy * 0.16, y: (from.y + to.y) / 2 - dx * 0.16 };
  const out = (a) => {
    const far = Math.hypot(bend.x - a.x, bend.y - a.y) || 1;
    return { x: a.x + ((bend.x - a.x) / far) * Math.min(gap, length / 3), y: a.y + ((bend.y - a.y) / far) * Math.min(gap, length / 3) };
  };
  const [start, end] = [out(from), out(to)];
  return `M${start.x.toFixed(1)} ${start.y.toFixed(1)}Q${bend.x.toFixed(1)} ${bend.y.toFixed(1)} ${end.x.toFixed(1)} ${end.y.toFixed(1)}`;
}

function newNode(one) {
  const group = svg("g", {}, svg("circle", { class: "disc" }), svg("circle", { class: "ring" }), svg("circle", { class: "load" }), svg("text", { class: "figure" }), svg("text", { class: "unit" }), svg("text", { class: "name" }), svg("text", { class: "about" }), svg("title"));
  if (!one.gateway) {
    set(group, "tabindex", 0);
    const on = () => point({ node: one.name });
    const off = () => point({ node: null });
    for (const [event, heard] of [["mouseenter", on], ["focus", on], ["mouseleave", off], ["blur", off]]) group.addEventListener(event, heard);
    if (one.camera) group.append(svg("path", { class: "camera", d: "M-8 -5h3l2-3h6l2 3h3v10H-8z M0 -3a3.2 3.2 0 1 0 .01 0z", "fill-rule": "evenodd" }));
  }
  return group;
}

function update(group, one, place, radius) {
  const [disc, ring, load, figure, unit, name, about, title] = group.children;
  const r = one.gateway ? radius * 0.92 : radius;
  set(group, "transform", `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})`);
  const dim = store.node && store.node !== one.name && !one.gateway;
  set(group, "class", `node${one.online ? "" : " off"}${one.gateway ? " hub" : ""}${dim ? " dim" : ""}`);
  for (const circle of [disc, ring, load]) set(circle, "r", r);
  style(group, "--node", one.gateway ? "var(--muted)" : one.colour);
  const round = 2 * Math.PI * r;
  set(load, "stroke-dasharray", `${((one.cpu ?? 0) * round).toFixed(1)} ${round.toFixed(1)}`);
  const fps = store.state.totals.fps;
  say(figure, one.online ? number(one.gateway ? fps : one.rate, (one.gateway ? fps : one.rate) >= 100 ? 0 : 1) : "off");
  say(unit, one.online ? (one.gateway ? "frames/s" : "tiles/s") : "");
  set(figure, "y", one.online ? 1 : 5);
  set(unit, "y", 13);
  set(name, "y", place.above ? -r - 23 : r + 17);
  say(name, one.name);
  set(about, "y", place.above ? -r - 9 : r + 31);
  const facts = [one.temperature_c == null ? null : celsius(one.temperature_c), one.memory_bytes == null ? null : bytes(one.memory_bytes), one.throttled ? "throttled" : null];
  say(about, one.online ? facts.filter(Boolean).join(" · ") : absent(one));
  const camera = group.querySelector(".camera");
  if (camera) set(camera, "transform", `translate(${(r * 0.76).toFixed(1)} ${(-r * 0.82).toFixed(1)})`);
  const ways = one.gateway || !one.straight ? "" : `, straight to ${one.straight.join(", ") || "nobody"}`;
  const said = `${one.name}${one.camera ? ", with a camera" : ""}: ${one.online ? `${number(one.gateway ? fps : one.rate)} ${one.gateway ? "frames" : "tiles"} a second, CPU ${percent(one.cpu)}, memory ${bytes(one.memory_bytes)}, ${celsius(one.temperature_c)}${ways}` : absent(one)}`;
  say(title, said);
  set(group, "aria-label", said);
  set(group, "role", "img");
}

function absent(one) {
  return one.fetched == null ? "gone" : `fetching its model: ${percent(one.fetched)}`;
}

function newRow(one) {
  const row = el("tr", {}, el("th", { scope: "row" }, el("i", { class: "swatch" }), el("span", { text: one.name })));
  for (let i = 0; i < 8; i += 1) row.append(el("td"));
  return row;
}

function updateRow(row, one) {
  style(row.querySelector(".swatch"), "background", one.gateway ? "var(--muted)" : one.colour);
  set(row, "class", one.online ? "" : "off");
  const cells = one.gateway
    ? ["", "", percent(one.cpu), celsius(one.temperature_c), bytes(one.memory_bytes), "", "", bytes(one.bytes_out)]
    : [one.online ? number(one.rate) : absent(one), seconds(one.tile_s), percent(one.cpu), celsius(one.temperature_c) + (one.throttled ? " throttled" : ""), bytes(one.memory_bytes), count(one.computed), count(one.stolen), bytes((one.bytes_out ?? 0) + (one.straight_out ?? 0))];
  cells.forEach((text, i) => say(row.children[i + 1], text));
}
