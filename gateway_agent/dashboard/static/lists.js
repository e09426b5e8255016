// Events and the log's tail, newest first.
import { ago, byId, clock, el, keyed, set } from "./dom.js";
import { store } from "./store.js";

export function draw() {
  lines(byId("event-list"), store.events, "Nothing has happened yet.", (one) => [one.kind, `${one.about}: ${one.text}`, one.at]);
  lines(byId("log-list"), store.log, "The log is empty.", (one) => [one.level, one.text, one.at]);
}

function lines(list, entries, nothing, say3) {
  const items = entries.length ? [...entries].reverse() : [{ number: 0 }];
  keyed(list, items, (one) => one.number, (one) => {
    if (!one.number) return el("li", { class: "empty", text: nothing });
    const [kind, text, at] = say3(one);
    return el("li", {}, el("time", { datetime: new Date(at * 1000).toISOString(), text: clock(at) }), el("span", { class: `kind ${kind}`, text: kind }), el("span", { class: "text", text }));
  }, (line, one) => one.number && set(line.firstChild, "title", ago(say3(one)[2])));
}
