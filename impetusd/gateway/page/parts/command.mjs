// A command to copy, and buttons that give one. What happens then is loaded when the first is pressed.
import { html, useSignal } from "../h.mjs";
import { me, trouble } from "../store.mjs";
import { t } from "../text.mjs";

const ROLES = ["viewer", "operator", "admin"];
const ADMIN = ["enable", "disable", "apply"]; // take this role; all others take operator

const needed = (method) => (ADMIN.includes(method) ? "admin" : "operator");
export const may = (method) => ROLES.indexOf(me.value?.role) >= ROLES.indexOf(needed(method));

// As one would type it.
export function typed(method, name = "", params = {}) {
  const words = ["impetusd", method === "cancel" ? "reload --cancel" : method];
  if (params.rolling) words.push("--rolling");
  if (params.cancel) words.push("--cancel");
  if (params.canaries) words.push("--canary", params.canaries);
  if (params.watch != null) words.push("--watch", `${params.watch}s`);
  if (params.signal) words.push(params.signal);
  if (name) words.push(name);
  if (params.n != null) words.push(params.n);
  return words.join(" ");
}

// Call what ../doing.mjs has by this name.
export async function doing(what, ...args) {
  try {
    return await (await import("../doing.mjs"))[what](...args);
  } catch (error) {
    trouble.value = `${t("broken")}: ${error.message}`;
    return undefined;
  }
}

// Without a secure context (plain HTTP to another host) there is no clipboard: the text is selected instead.
export async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

export function Copy({ command }) {
  const done = useSignal(false);
  const press = async (event) => {
    done.value = await copy(command, event.currentTarget.querySelector("code"));
    setTimeout(() => (done.value = false), 1500);
  };
  return html`<button type="button" class="copy" onClick=${press}>
    <code>${command}</code><span class="hint" aria-live="polite">${t(done.value ? "copied" : "copy")}</span></button>`;
}

export function Do({ method, name, params, primary, label }) {
  const allowed = may(method);
  return html`<button type="button" class=${primary ? "primary" : ""} disabled=${!allowed}
    title=${allowed ? typed(method, name, params) : t("role.needed", { role: needed(method) })} onClick=${() => doing("give", method, name, params)}>
    ${label ?? t(`do.${method}`)}</button>`;
}
