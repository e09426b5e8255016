// The newest picture of each camera, loaded once for all who show it, and shown only with the boxes of its own frame.
import { changed, store } from "./store.js";

const loaded = new Map(); // source -> {frame, url}
const loading = new Set();

export function renew() {
  for (const source of store.state?.sources ?? []) {
    const wanted = source.picture;
    if (wanted && loaded.get(source.name)?.frame !== wanted.frame && !loading.has(source.name)) load(source.name, wanted.url);
  }
}

async function load(name, url) {
  loading.add(name);
  try {
    const answer = await fetch(url);
    if (!answer.ok) return;
    const made = URL.createObjectURL(await answer.blob());
    const image = new Image();
    image.src = made;
    await image.decode();
    const before = loaded.get(name);
    loaded.set(name, { frame: answer.headers.get("x-frame"), url: made });
    if (before) setTimeout(() => URL.revokeObjectURL(before.url), 2000);
    changed();
  } catch {
    // the next snapshot asks again
  } finally {
    loading.delete(name);
  }
}

const shown = new Map(); // source -> {url, picture}: a picture and the view that belongs to it

export function picture(source) {
  const have = loaded.get(source.name);
  if (have && source.picture && have.frame === source.picture.frame) shown.set(source.name, { url: have.url, picture: source.picture });
  return shown.get(source.name) ?? null;
}
