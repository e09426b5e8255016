// What may be set. A control shows what the gateway says it is set to, not what was asked for; the answer stands below.
import { byId, say, set } from "./dom.js";
import { store } from "./store.js";

const asking = new Set();
let held = false; // the slider is being moved

export function build() {
  byId("detection").addEventListener("click", () => ask("detection", !store.state?.controls.detection));
  const threshold = byId("threshold");
  threshold.addEventListener("input", () => {
    held = true;
    say(byId("threshold-value"), Number(threshold.value).toFixed(2));
  });
  threshold.addEventListener("change", () => {
    held = false;
    ask("threshold", Number(threshold.value));
  });
  byId("grid-form").addEventListener("submit", (event) => {
    event.preventDefault();
    byId("grid").blur();
    ask("grid", byId("grid").value.trim().toLowerCase());
  });
  const dialog = byId("restart-dialog");
  byId("restart").addEventListener("click", () => dialog.showModal());
  dialog.addEventListener("close", () => dialog.returnValue === "yes" && ask("restart", null));
}

async function ask(verb, value) {
  asking.add(verb);
  draw();
  tell(`${verb}: asking the gateway…`, "");
  try {
    const answer = await fetch("api/control", {
      method: "POST",
      headers: { "content-type": "application/json", "x-dt-request": "1" },
      body: JSON.stringify({ verb, value }),
    });
    const told = await answer.json();
    tell(answer.ok ? `${verb}${value === null ? "" : ` set to ${value === true ? "on" : value === false ? "off" : value}`}` : `${verb}: ${told.error}`, answer.ok ? "good" : "bad");
  } catch {
    tell(`${verb}: the gateway does not answer`, "bad");
  } finally {
    asking.delete(verb);
    draw();
  }
}

function tell(text, kind) {
  set(say(byId("control-text"), text), "class", `detail ${kind}`);
}

export function draw() {
  const controls = store.state?.controls;
  if (!controls) return;
  set(byId("detection"), "aria-checked", controls.detection ? "true" : "false");
  set(byId("detection"), "aria-busy", asking.has("detection") ? "true" : null);
  byId("threshold-row").hidden = controls.threshold === null;
  const threshold = byId("threshold");
  if (controls.threshold !== null && !held && !asking.has("threshold")) {
    threshold.value = controls.threshold;
    say(byId("threshold-value"), controls.threshold.toFixed(2));
  }
  const grid = byId("grid");
  say(byId("grid-hint"), controls.automatic ? "Chosen by the gateway, and again when the cluster changes." : "Rows x columns of tiles; auto lets the gateway choose.");
  if (document.activeElement !== grid && !asking.has("grid")) grid.value = controls.grid;
  for (const name of ["restart"]) set(byId(name), "disabled", asking.has(name));
}
