// The plan on a camera's picture: each tile's share, its halo when it is pointed at, and what was expected of it all.
import { arrows, byId, bytes, el, ink, keyed, number, say, seconds, set, svg } from "./dom.js";
import { newStage, onStage } from "./cameras.js";
import { picture } from "./pictures.js";
import { changed, colour, frame, point, store } from "./store.js";

let stage = null;
let over = null;
let source = "";
let expected = null;
let asked = "";

export function build() {
  stage = newStage();
  byId("plan-stage").replaceWith(stage);
  stage.id = "plan-stage";
  const drawing = stage.children[1];
  drawing.removeAttribute("aria-hidden");
  set(drawing, "role", "group");
  over = { tiles: svg("g"), halos: svg("g", { "aria-hidden": "true" }) };
  drawing.append(over.tiles, over.halos);
  arrows(over.tiles, "[role=img]", () => store.plan?.cols ?? 0);
  byId("halos").addEventListener("change", changed);
  byId("plan-source").addEventListener("change", (event) => {
    source = event.target.value;
    changed();
  });
  const saved = Number(localStorage.getItem("dt-rate"));
  if (saved > 0) byId("rate").value = saved; // empty: as measured
  byId("rate").addEventListener("change", () => {
    localStorage.setItem("dt-rate", byId("rate").value);
    changed();
  });
}

export function draw() {
  const { state, plan } = store;
  if (!stage || !state) return;
  const sources = state.sources;
  const one = sources.find((each) => each.name === source) ?? sources[0];
  byId("plan-source-label").hidden = sources.length < 2;
  keyed(byId("plan-source"), sources, (each) => each.name, (each) => el("option", { value: each.name, text: each.name }));
  if (plan) say(byId("plan-hint"), `${plan.model} · ${plan.rows}×${plan.cols} tiles${plan.blocks.length > 1 ? ` · ${plan.blocks.length} blocks` : ""}${plan.blocks.some((block) => block.reuse) ? " · reuse" : ""} · ${plan.exactness} · ${plan.digest.slice(0, 8)}`);
  const shown = one ? picture(one) : null;
  if (onStage(stage, shown, one ? `The plan on the picture of ${one.name}` : "") && plan) tiles(one, shown.picture);
  figures(one);
}

function tiles(one, size) {
  const view = store.plan.views[`${size.width}x${size.height}`];
  const chosen = frame();
  const work = chosen?.source === one.name && chosen.workers.length === store.plan.flops.length ? chosen : [...store.frames].reverse().find((each) => each.source === one.name && each.workers.length === store.plan.flops.length);
  const items = (view?.shares ?? []).map((share, index) => ({ index, share, halo: view.halos[index], node: work?.workers[index] ?? "", stolen: work?.stolen.includes(index) ?? false }));
  const line = size.width / 400;
  const text = size.width / 26;
  keyed(over.tiles, items, (tile) => tile.index, newTile, (group, tile) => {
    const [x0, y0, x1, y1] = tile.share;
    const [rect, hatch, disc, label, title] = group.children;
    for (const part of [rect, hatch]) set(set(set(set(part, "x", x0), "y", y0), "width", x1 - x0), "height", y1 - y0);
    set(set(rect, "stroke-width", line), "fill", tile.node ? colour(tile.node) : "#8a94a3");
    set(set(hatch, "fill", tile.stolen ? "url(#hatch)" : "none"), "opacity", 0.55);
    set(set(set(disc, "cx", x0 + text), "cy", y0 + text), "r", text * 0.72);
    set(disc, "fill", tile.node ? colour(tile.node) : "#8a94a3");
    set(set(set(label, "x", x0 + text), "y", y0 + text * 1.32), "font-size", text * 0.92);
    set(label, "fill", ink(tile.node ? colour(tile.node) : "#8a94a3"));
    say(label, String(tile.index));
    const dim = (store.node && store.node !== tile.node) || (store.tile !== null && store.tile !== tile.index);
    set(group, "class", `share${dim ? " dim" : ""}${store.tile === tile.index ? " on" : ""}`);
    set(group, "tabindex", tile.index === 0 ? 0 : -1);
    set(group, "aria-label", describe(tile));
    say(title, describe(tile));
  });
  const all = byId("halos").checked;
  const halos = items.filter((tile) => all || store.tile === tile.index);
  keyed(over.halos, halos, (tile) => tile.index, () => svg("rect", { class: "halo" }), (rect, tile) => {
    const [x0, y0, x1, y1] = tile.halo;
    set(set(set(set(rect, "x", x0 + line), "y", y0 + line), "width", x1 - x0 - 2 * line), "height", y1 - y0 - 2 * line);
    set(set(rect, "stroke-width", line * (store.tile === tile.index ? 2 : 1)), "stroke-dasharray", `${line * 5} ${line * 3}`);
    set(rect, "class", store.tile === null || store.tile === tile.index ? "halo" : "halo dim");
  });
  const pointed = items.find((tile) => tile.index === store.tile);
  say(byId("tile-text"), pointed ? describe(pointed) : "Point at a tile, or use Tab and the arrow keys: its halo appears, and who computed it.");
}

function describe(tile) {
  const [x0, y0, x1, y1] = tile.share.map(Math.round);
  const [a0, b0, a1, b1] = tile.halo.map(Math.round);
  const spare = ((a1 - a0) * (b1 - b0)) / Math.max(1, (x1 - x0) * (y1 - y0));
  const work = (store.plan.flops[tile.index] / 1e6).toFixed(0);
  const who = tile.node ? `${tile.node}${tile.stolen ? " (stolen)" : ""}` : "nobody yet";
  return `Tile ${tile.index}: ${who} · answers for ${x1 - x0}×${y1 - y0} px, needs ${a1 - a0}×${b1 - b0} (${number(spare, 2)}×) · ${work} MFLOP`;
}

function newTile(tile) {
  const on = () => point({ tile: tile.index });
  const off = () => point({ tile: null });
  return svg("g", { role: "img", onmouseenter: on, onmouseleave: off, onfocus: on, onblur: off }, svg("rect", { class: "area" }), svg("rect", {}), svg("circle", {}), svg("text", { "text-anchor": "middle" }), svg("title"));
}

function figures(one) {
  const frames = store.frames.filter((each) => each.status === "ok" && (!one || each.source === one.name)).map((each) => each.latency_s).sort((a, b) => a - b);
  const median = frames.length ? frames[Math.floor(frames.length / 2)] : null;
  ask(frames[0] < expected?.bound_s);
  const told = expected?.latency_s == null ? {} : expected;
  const rows = [
    ["latency", seconds(told.latency_s), seconds(median), "Predicted for a frame alone; measured: median of the last frames"],
    ["best latency", told.bound_s == null ? "not known" : `${seconds(told.bound_s)} (bound)`, seconds(frames[0] ?? null), "No plan of these tiles can be faster than the bound"],
    ["frames/s", number(told.fps, 2), number(store.state.totals.fps, 2), "A slow camera gives fewer frames than the cluster could take"],
    ["redundant work", told.redundancy == null ? "–" : `${number((told.redundancy - 1) * 100, 1)} %`, "", "Operations of all tiles beyond those of the undivided network; reuse on a node saves some of them"],
    ["bytes a frame", bytes(told.wire_bytes), bytes(perFrame()), "Over all nodes"],
  ];
  keyed(byId("figures"), rows, (row) => row[0], (row) => el("tr", { title: row[3] }, el("th", { scope: "row", text: row[0] }), el("td"), el("td")), (tr, row) => {
    say(tr.children[1], row[1]);
    say(tr.children[2], row[2]);
  });
}

function perFrame() {
  const { nodes, totals } = store.state;
  const sent = nodes.reduce((sum, one) => sum + (one.bytes_out ?? 0) + (one.straight_out ?? 0), 0);
  return totals.frames ? sent / totals.frames : null;
}

// The prediction is asked for again where the plan, the nodes or the rate have changed, or a frame was quicker than its bound;
// speeds drift, so now and then, too.
async function ask(quicker) {
  const here = store.state.nodes.filter((one) => one.online && one.flops_s > 0);
  const rate = byId("rate").value;
  const key = [store.plan?.digest, here.map((one) => one.name), rate, quicker, Math.floor(Date.now() / 20000)].join();
  if (key === asked || !here.length) return;
  asked = key;
  try {
    const answer = await fetch(`api/expected?rate=${encodeURIComponent(rate)}`);
    const told = await answer.json();
    if (key !== asked) return;
    expected = answer.ok ? told : null;
    say(byId("expected-hint"), answer.ok ? told.says : told.error);
    changed();
  } catch {
    asked = "";
  }
}
