// What the page knows, and who is told when it changes. Nothing here draws.
export const store = {
  state: null, // the newest snapshot
  plan: null,
  frames: [], // oldest first
  events: [],
  log: [],
  chosen: null, // number of the chosen frame; null: the newest
  node: null, // node that is pointed at
  tile: null, // tile that is pointed at
};

const LIMITS = { frames: 64, events: 100, log: 200 };
const listeners = new Set();

export const listen = (heard) => listeners.add(heard);

let due = false;
export function changed() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    for (const heard of listeners) heard(store);
  });
}

// `entries` follow what is there; the same number again (after the connection was lost) is not taken twice.
export function append(name, entries) {
  const last = store[name].at(-1)?.number ?? 0;
  store[name] = [...store[name], ...entries.filter((entry) => entry.number > last)].slice(-LIMITS[name]);
}

export function forget() {
  Object.assign(store, { plan: null, frames: [], events: [], log: [], chosen: null });
}

export const node = (name) => store.state?.nodes.find((one) => one.name === name);
export const colour = (name) => node(name)?.colour ?? "#8a94a3";
export const frame = () => store.frames.find((one) => one.number === store.chosen) ?? store.frames.at(-1) ?? null;

export function point(what) {
  Object.assign(store, what);
  changed();
}
