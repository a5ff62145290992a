// A state as a shape and a word; the colour only repeats it.
import { html } from "../h.mjs";
import { age, as_wanted, is_stale, stream } from "../store.mjs";
import { span, t } from "../text.mjs";

// Each in a box of 12 × 12.
const SHAPES = {
  RUNNING: "M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1Z",
  STARTING: "M6 1v2a3 3 0 1 0 3 3h2A5 5 0 1 1 6 1Z",
  STOPPING: "M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1Zm0 2v6a3 3 0 0 0 0-6Z",
  BACKOFF: "M6 .8 11.6 11H.4Z",
  FATAL: "m2.6 1.2 3.4 3.4 3.4-3.4 1.4 1.4L7.4 6l3.4 3.4-1.4 1.4L6 7.4l-3.4 3.4-1.4-1.4L4.6 6 1.2 2.6Z",
  STOPPED: "M6 1a5 5 0 1 1 0 10A5 5 0 0 1 6 1Zm0 2a3 3 0 1 0 0 6 3 3 0 0 0 0-6Z",
  EXITED: "M6 .6 11.4 6 6 11.4.6 6Z",
  held: "M2 1h3v10H2zM7 1h3v10H7z",
  healthy: "m4.6 10.4-4-4L2 5l2.6 2.6L10 2.2l1.4 1.4Z",
  unhealthy: "M6 .8 11.6 11H.4Zm-.8 4v3h1.6v-3zm0 3.8v1.4h1.6v-1.4z",
  unknown: "M2 5h8v2H2z",
};
const TONES = { RUNNING: "good", FATAL: "bad", BACKOFF: "warn", STARTING: "busy", STOPPING: "busy", healthy: "good", unhealthy: "bad" };

export const shape = (name, tone = "") =>
  html`<svg class=${`shape ${tone}`} viewBox="0 0 12 12" width="10" height="10" aria-hidden="true"><path d=${SHAPES[name] ?? SHAPES.unknown} fill-rule="evenodd" /></svg>`;

export function State({ row }) {
  const name = row.held ? "held" : row.state;
  const tone = row.held ? "bad" : row.state === "STOPPED" && !as_wanted(row) ? "bad" : (TONES[row.state] ?? "mute");
  return html`<span class=${`state ${tone}`}>${shape(name, tone)}${row.held ? t("state.held") : row.state}</span>`;
}

export function Probe({ checks }) {
  if (!checks.length) return html`<span class="mute">–</span>`;
  const worst = checks.find((each) => each.state === "unhealthy") ?? checks[0];
  const tone = TONES[worst.state] ?? "mute";
  const latency = worst.state === "healthy" && worst.latency_ms != null ? `${worst.latency_ms < 10 ? worst.latency_ms.toFixed(1) : Math.round(worst.latency_ms)} ms` : t(`probe.${worst.state}`);
  return html`<span class=${`state ${tone}`} title=${`${worst.what}: ${worst.reason || worst.state}`}>
    ${shape(SHAPES[worst.state] ? worst.state : "unknown", tone)}${latency}</span>`;
}

// Whether what is shown is how it is now: "live", or for how long nothing has come.
export function Live() {
  const stale = is_stale.value;
  const tone = stale ? "warn" : "good";
  const key = stream.value === "connecting" ? "connecting" : stale ? "stale" : "live";
  const text = t(`stream.${key}`, { age: stale ? span(Math.max(1, Math.floor(age.value))) : "" });
  return html`<span class=${`state live ${tone}`}>${shape(stale ? "BACKOFF" : "RUNNING", tone)}${text}</span>`;
}
