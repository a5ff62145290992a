// Answers of GET requests: at once what is known, then what the server says now. The least recently used go beyond MOST.
import { signal, useEffect } from "./h.mjs";
import { request } from "./api.mjs";

export const MOST = 50;
const entries = new Map(); // path → entry; the last one is the one used last

function entry_of(path) {
  let entry = entries.get(path);
  if (entry) entries.delete(path);
  else entry = { answer: signal({ data: undefined, error: null, at: 0 }), etag: null, under_way: null };
  entries.set(path, entry);
  if (entries.size > MOST) entries.delete(entries.keys().next().value);
  return entry;
}

export const size = () => entries.size;
export const forget = () => entries.clear();

// The signal {data, error, at} of a path: what is known of it. `at`: milliseconds; 0 while nothing is.
export const known = (path) => entry_of(path).answer;

// Ask the server, once at a time. Never raises: an error is in the answer, beside the data known before.
export function revalidate(path) {
  const entry = entry_of(path);
  entry.under_way ??= ask(path, entry).finally(() => {
    entry.under_way = null;
  });
  return entry.under_way;
}

async function ask(path, entry) {
  const before = entry.answer.peek();
  try {
    const answer = await request(path, entry.etag ? { headers: { "If-None-Match": entry.etag } } : {});
    const data = answer.status === 304 ? before.data : await answer.json();
    entry.etag = answer.headers.get("ETag");
    entry.answer.value = { data, error: null, at: Date.now() };
  } catch (error) {
    entry.answer.value = { ...before, error };
  }
}

// In a component: the answer for `path` (null: none), asked for anew when it appears, and each `every` seconds while it is shown.
export function useAnswer(path, every = 0) {
  const answer = path ? known(path) : null;
  useEffect(() => {
    if (!path) return undefined;
    revalidate(path);
    if (!every) return undefined;
    const timer = setInterval(() => document.hidden || revalidate(path), every * 1000);
    return () => clearInterval(timer);
  }, [path, every]);
  return answer ? answer.value : { data: undefined, error: null, at: 0 };
}
