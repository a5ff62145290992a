// Where one is: the fragment of the address, `#/unit/web?tab=x`. A fragment reaches no server log and needs no server route.
import { signal } from "./h.mjs";

function read() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const words = path.split("/").filter(Boolean).map(decodeURIComponent);
  return { view: words[0] ?? "", name: words.slice(1).join("/"), query: new URLSearchParams(query) };
}

export const route = signal(read());
addEventListener("hashchange", () => (route.value = read()));

export function href(view, name = "", query = {}) {
  const made = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const each of [value].flat()) if (each !== "" && each != null) made.append(key, each);
  }
  const text = made.toString();
  return `#/${view}${name ? `/${encodeURIComponent(name)}` : ""}${text ? `?${text}` : ""}`;
}

export const go = (...where) => {
  location.hash = href(...where);
};

// Change the query alone, without a new step in the history: a filter as it is typed.
export function refine(change) {
  const { view, name, query } = route.peek();
  const made = {};
  for (const key of query.keys()) made[key] = query.getAll(key);
  history.replaceState(null, "", href(view, name, { ...made, ...change }));
  route.value = read();
}
