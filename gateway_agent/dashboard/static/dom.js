// Small helpers: elements, lists that keep their elements, numbers for people.
export const byId = (id) => document.getElementById(id);

export function el(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  return fill(made, props, children);
}

export function svg(tag, props = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return fill(made, props, children);
}

function fill(made, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = value;
    else set(made, name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

// Only what has changed is touched: screen readers, selections and animations stay undisturbed.
export function set(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else {
    const text = value === true ? "" : String(value);
    if (node.getAttribute(name) !== text) node.setAttribute(name, text);
  }
  return node;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
  return node;
}

export function style(node, name, value) {
  if (node.style.getPropertyValue(name) !== value) node.style.setProperty(name, value);
  return node;
}

// One child for each item, in their order; a child lives as long as its key.
export function keyed(parent, items, key, make, update) {
  const had = (parent.keyed ??= new Map());
  const wanted = new Set(items.map(key));
  for (const [name, node] of had) {
    if (!wanted.has(name)) {
      node.remove();
      had.delete(name);
    }
  }
  let before = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    let node = had.get(name);
    if (!node) had.set(name, (node = make(item)));
    if (node === before) before = before.nextSibling;
    else parent.insertBefore(node, before);
    update?.(node, item);
  }
}

// Left and right (and up and down, by rows of `columns`) move the focus among an element's items.
export function arrows(parent, selector, columns = () => 0) {
  parent.addEventListener("keydown", (event) => {
    const items = [...parent.querySelectorAll(selector)];
    const at = items.indexOf(event.target.closest(selector));
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns(), ArrowDown: columns(), Home: -at, End: items.length - 1 - at }[event.key];
    if (at < 0 || step === undefined || (step === 0 && event.key.startsWith("Arrow"))) return;
    event.preventDefault();
    items[Math.min(Math.max(at + step, 0), items.length - 1)].focus();
  });
}

const NONE = "–";
const known = (value) => value !== null && value !== undefined;

export const number = (value, digits = 1) => (known(value) ? value.toFixed(digits) : NONE);
export const percent = (value) => (known(value) ? `${Math.round(value * 100)} %` : NONE);
export const celsius = (value) => (known(value) ? `${Math.round(value)} °C` : NONE);
export const count = (value) => (known(value) ? value.toLocaleString("en") : NONE);

export function seconds(value) {
  if (!known(value)) return NONE;
  if (value < 0.0995) return `${(value * 1000).toFixed(value < 0.00995 ? 1 : 0)} ms`;
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

export function bytes(value) {
  if (!known(value)) return NONE;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 1000 || unit === "GB") return `${value.toFixed(unit === "B" || value >= 100 ? 0 : 1)} ${unit}`;
    value /= 1000;
  }
}

export const clock = (at) => new Date(at * 1000).toLocaleTimeString("en-GB");

export function ago(at) {
  const passed = Math.max(0, Date.now() / 1000 - at);
  if (passed < 60) return `${Math.floor(passed)} s ago`;
  if (passed < 3600) return `${Math.floor(passed / 60)} min ago`;
  return passed < 86400 ? `${Math.floor(passed / 3600)} h ago` : `${Math.floor(passed / 86400)} d ago`;
}

// Dark or light text, whichever is read better on `colour` (#rrggbb).
export function ink(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#10141a" : "#ffffff";
}

export const calm = matchMedia("(prefers-reduced-motion: reduce)");
