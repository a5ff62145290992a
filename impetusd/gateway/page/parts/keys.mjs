// The keyboard: `/` filters, j and k walk the links of the list, Enter follows one (a link's own), g and a letter goes elsewhere.
import { go } from "../route.mjs";
import { doing } from "./command.mjs";

const PLACES = { o: "", l: "logs", t: "timers", p: "plan", a: "audit" };
let before = "";

const typing = (element) => element.matches("input:not([type=checkbox]), textarea, select, [contenteditable]");

function walk(by) {
  const all = [...document.querySelectorAll("[data-walk]")].filter((each) => each.offsetParent);
  if (!all.length) return;
  const place = all.indexOf(document.activeElement);
  const next = place < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, place + by));
  all[next].focus();
  all[next].scrollIntoView({ block: "nearest" });
}

export function listen() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { key, target } = event;
    if (typing(target)) {
      if (key === "Escape") target.blur();
      return;
    }
    const gone = before === "g" && PLACES[key] !== undefined;
    before = key;
    if (gone) go(PLACES[key]);
    else if (key === "j" || key === "k") walk(key === "j" ? 1 : -1);
    else if (key === "?") doing("keys");
    else if (key === "/") document.querySelector("[data-filter]")?.focus();
    else return;
    event.preventDefault();
  });
}
