// Whether what is shown is how it is now: "live", or for how long nothing has come.
import { html } from "../h.mjs";
import { age, is_stale, stream } from "../store.mjs";
import { span, t } from "../text.mjs";
import { shape } from "./badge.mjs";

export function Live() {
  const stale = is_stale.value;
  const tone = stale ? "warn" : "good";
  const key = stream.value === "connecting" ? "connecting" : stale ? "stale" : "live";
  const text = t(`stream.${key}`, { age: stale ? span(Math.max(1, Math.floor(age.value))) : "" });
  return html`<span class=${`state live ${tone}`}>${shape(stale ? "BACKOFF" : "RUNNING", tone)}${text}</span>`;
}
