// What each camera sees, with what the model says of it; a camera whose frames fail says so.
import { byId, count, el, keyed, number, say, seconds, set, style, svg } from "./dom.js";
import { picture } from "./pictures.js";
import { store } from "./store.js";

export function draw() {
  const sources = store.state?.sources ?? [];
  const list = byId("camera-list");
  set(list, "data-count", Math.min(sources.length, 3));
  keyed(list, sources.length ? sources : [{ name: "", none: true }], (one) => one.name, (one) => (one.none ? none() : newCamera()), (card, one) => one.none || update(card, one));
  say(byId("camera-hint"), sources.length > 1 ? `${sources.length} cameras` : "");
}

function none() {
  return el("div", { class: "empty" }, el("p", { class: "strong", text: "No camera has joined yet." }), el("p", { text: "A node with a camera, a clip or a drawn scene:" }), el("code", { text: "dt edge --gateway HOST --source v4l2:///dev/video0" }));
}

function newCamera() {
  const stage = newStage();
  const badge = el("span", { class: "badge" });
  return el("article", { class: "camera" }, el("header", {}, el("h3"), badge), stage, el("p", { class: "says" }), el("p", { class: "hint" }));
}

export function newStage() {
  const stage = el("div", { class: "stage" }, el("img", { alt: "", hidden: true }), svg("svg", { "aria-hidden": "true" }), el("p", { class: "waiting", text: "waiting for the first picture" }), el("p", { class: "trouble", hidden: true }));
  style(stage, "--ratio", "4 / 3");
  return stage;
}

// Puts a picture on a stage and returns the drawing over it, in the pixels of the source's image; null if there is none.
export function onStage(stage, shown, alt) {
  const [image, over, waiting] = stage.children;
  waiting.hidden = Boolean(shown);
  image.hidden = !shown;
  if (!shown) return null;
  if (image.getAttribute("src") !== shown.url) image.src = shown.url;
  set(image, "alt", alt);
  const { width, height } = shown.picture;
  style(stage, "--ratio", `${width} / ${height}`);
  set(over, "viewBox", `0 0 ${width} ${height}`);
  return over;
}

function update(card, one) {
  const [head, stage, says, hint] = card.children;
  say(head.children[0], one.name);
  const shown = picture(one);
  const failed = one.degraded !== "";
  const badge = !one.online ? ["gone", "off"] : failed ? ["degraded", "bad"] : one.fps > 0 ? ["live", "good"] : ["waiting", "off"];
  say(head.children[1], badge[0]);
  set(head.children[1], "class", `badge ${badge[1]}`);
  set(card, "class", `camera${failed || !one.online ? " degraded" : ""}`);
  const seen = shown?.picture.seen;
  const text = seen?.says ?? "";
  const over = onStage(stage, shown, `What ${one.name} sees: ${text}`);
  if (over) drawSeen(over, shown.picture);
  const trouble = stage.querySelector(".trouble");
  trouble.hidden = !(failed || (!one.online && shown));
  say(trouble, failed ? `The last frame failed: ${one.degraded}.${shown ? " This is the last good picture." : ""}` : "This camera is gone. This is its last picture.");
  say(says, text || " ");
  const figures = [`${number(one.fps)} frames/s`, one.latency_s == null ? null : seconds(one.latency_s), `${count(one.frames)} frames`, one.dropped ? `${count(one.dropped)} dropped` : null, one.still ? `${count(one.still)} still` : null, one.failed ? `${count(one.failed)} failed` : null];
  say(hint, figures.filter(Boolean).join(" · "));
  set(hint, "title", one.uri || null);
}

function drawSeen(over, { width, frame, seen }) {
  if (over.shownFrame === frame) return;
  over.shownFrame = frame;
  const line = width / 320;
  const size = width / 30;
  const made = [];
  for (const found of [...(seen?.detections ?? [])].reverse()) {
    const [x0, y0, x1, y1] = found.box;
    const full = `${found.label} ${Math.round(found.score * 100)}%`;
    const label = full.length * size * 0.56 > x1 - x0 ? found.label : full; // neighbours' plates would meet
    const top = Math.max(y0 - size * 1.35, 0);
    made.push(svg("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, rx: line * 1.5, class: "box", stroke: found.colour, "stroke-width": line * 1.25 }));
    made.push(svg("rect", { x: x0, y: top, width: label.length * size * 0.56 + size * 0.5, height: size * 1.25, rx: line, class: "plate", stroke: found.colour, "stroke-width": line * 0.5 }));
    made.push(svg("text", { x: x0 + size * 0.25, y: top + size * 0.94, "font-size": size, class: "tag", text: label }));
  }
  for (const found of seen?.keypoints ?? []) if (found.score >= 0.3) made.push(svg("circle", { cx: found.x, cy: found.y, r: line * 2.5, class: "keypoint" }));
  const list = [...(seen?.classes ?? []).map((one) => [one.colour, one.label.split(",")[0], one.score]), ...(seen?.segments ?? []).map((one) => [one.colour, one.label, one.share])].slice(0, 5);
  list.forEach(([colour, label, share], i) => {
    const text = `${label} ${(share * 100).toFixed(1)}%`;
    made.push(svg("rect", { x: size * 0.4, y: size * (0.4 + i * 1.45), width: text.length * size * 0.56 + size, height: size * 1.3, rx: line, class: "plate", stroke: colour, "stroke-width": line * 0.5 }));
    made.push(svg("text", { x: size * 0.8, y: size * (1.35 + i * 1.45), "font-size": size, class: "tag", text }));
  });
  over.replaceChildren(...made);
}
