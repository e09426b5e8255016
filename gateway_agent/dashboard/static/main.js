// The page: listens to the gateway's events and lets every part draw what it knows. It decides nothing.
import { byId, el, keyed, number, percent, say, seconds, set, count } from "./dom.js";
import { append, changed, forget, listen, store } from "./store.js";
import * as cameras from "./cameras.js";
import * as controls from "./controls.js";
import * as graph from "./graph.js";
import * as lists from "./lists.js";
import * as pictures from "./pictures.js";
import * as plan from "./plan.js";
import * as timeline from "./timeline.js";

const SILENT_S = 8; // without a snapshot for so long the gateway is stuck, or the line to it
const RETRY_MS = 3000;
let heardAt = 0;
let snapshotAt = 0;

for (const part of [graph, timeline, plan, controls]) part.build();
for (const part of [{ draw: summary }, graph, cameras, timeline, plan, controls, lists]) listen(() => store.state && part.draw());

function absent(totals) {
  const gone = totals.nodes - totals.online - totals.fetching;
  const parts = [totals.fetching ? `${totals.fetching} fetching the model` : "", gone ? `${gone} gone` : ""].filter(Boolean);
  return parts.join(", ") || (totals.nodes ? "all here" : "none yet");
}

function summary() {
  const { totals, gateway, controls: set_ } = store.state;
  say(byId("subtitle"), `${gateway.root} · ${set_.model} · ${set_.grid} tiles`);
  const items = [
    ["frames a second", number(totals.fps, 1), set_.detection ? `${count(totals.frames)} so far` : "detection is off"],
    ["latency", seconds(totals.latency_s), "smoothed, over all cameras"],
    ["nodes", `${totals.online}`, absent(totals)],
    ["tiles stolen", totals.tiles ? percent(totals.stolen / totals.tiles) : "–", `${count(totals.stolen)} of ${count(totals.tiles)}`],
    ["frames failed", count(totals.failed), totals.failed ? "see events" : "none"],
  ];
  keyed(byId("summary"), items, (item) => item[0], (item) => el("div", {}, el("dt", { text: item[0] }), el("dd", { class: "value" }), el("dd", { class: "hint" })), (box, item) => {
    say(box.children[1], item[1]);
    say(box.children[2], item[2]);
    set(box, "class", item[0] === "frames failed" && totals.failed ? "warn" : "");
  });
  say(byId("footer"), `gateway ${gateway.version}${gateway.uptime_s ? ` · up ${Math.floor(gateway.uptime_s / 60)} min` : ""}${gateway.broker ? ` · broker ${gateway.broker}` : ""}`);
}

function link() {
  const now = performance.now() / 1000;
  const silent = now - snapshotAt;
  const words =
    now - heardAt > SILENT_S + 2 || !snapshotAt
      ? ["lost", snapshotAt ? "connection lost" : "connecting"]
      : silent > SILENT_S
        ? ["stuck", "gateway is silent"]
        : store.state && !store.state.gateway.connected
          ? ["stuck", "broker lost"]
          : ["live", "live"];
  if (!snapshotAt && now < 4) words[0] = "loading";
  set(document.body, "data-link", words[0]);
  say(byId("link-text"), words[1]);
  const lost = byId("lost");
  lost.hidden = !(words[0] === "lost" || words[0] === "stuck") || words[1] === "connecting";
  if (!lost.hidden) say(lost, { "connection lost": `The gateway does not answer; trying again. What you see is ${Math.round(silent)} s old.`, "gateway is silent": `The gateway has sent nothing new for ${Math.round(silent)} s. What you see may be old.`, "broker lost": "The gateway has lost its broker: no tile travels until it is back." }[words[1]] ?? "");
}

function connect() {
  const source = new EventSource("events");
  const on = (name, take) =>
    source.addEventListener(name, (event) => {
      heardAt = performance.now() / 1000;
      take(JSON.parse(event.data));
    });
  source.addEventListener("open", forget); // all that the gateway remembers comes again
  on("ping", () => link());
  on("end", () => source.close() || lose());
  on("plan", (told) => (store.plan = told));
  for (const name of ["frames", "events", "log"]) on(name, (entries) => (append(name, entries), changed()));
  on("state", (told) => {
    snapshotAt = heardAt;
    store.state = told;
    pictures.renew();
    link();
    changed();
  });
  source.addEventListener("error", () => {
    heardAt = -Infinity;
    link();
    if (source.readyState === EventSource.CLOSED) lose();
  });
}

// The browser has given up: a refusal. Either we must log in (the page itself tells) or others hold all places.
let losing = false;
async function lose() {
  if (losing) return;
  losing = true;
  heardAt = -Infinity;
  link();
  setTimeout(async () => {
    losing = false;
    try {
      if ((await fetch("api/state")).status === 401) return location.reload();
    } catch {
      // still away
    }
    connect();
  }, RETRY_MS);
}

const THEMES = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  localStorage.setItem("dt-theme", name);
  say(byId("theme-name"), name);
  set(byId("theme"), "aria-label", `Theme: ${name === "auto" ? "as the system" : name}`);
}
theme(localStorage.getItem("dt-theme") ?? "auto");
byId("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(byId("theme-name").textContent) + 1) % THEMES.length]));

connect();
link();
setInterval(link, 1000);
