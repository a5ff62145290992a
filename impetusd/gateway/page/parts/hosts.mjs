// Other hosts as their gateways give them: text alone, and one link each, which is the INI file's own url.
import { html, useComputed } from "../h.mjs";
import { useAnswer } from "../cache.mjs";
import { now } from "../store.mjs";
import { style } from "../style.mjs";
import { clock, span, t, whole } from "../text.mjs";
import { State, shape } from "./badge.mjs";

const EVERY = 5; // seconds
const RANK = { bad: 0, warn: 1, mute: 2, good: 3 };

// [tone, shape, words] of what an overview says, and of the host that gave it.
function sum({ all, wrong, incidents, more }) {
  if (wrong) return ["bad", "unhealthy", t("top.wrong", { n: wrong, all })];
  const cards = incidents.length + more;
  if (cards) return ["warn", "unhealthy", t("top.minor", { n: cards, all })];
  return ["good", "healthy", t(all ? "top.well" : "top.none", { n: all })];
}

function judge({ state, since, trouble, overview }) {
  if (state === "asking") return ["mute", "unknown", t("hosts.asking")];
  if (state === "well") return sum(overview);
  return ["bad", "FATAL", t(`hosts.${state}`, { at: clock(since, true), why: trouble })];
}

function Seen({ at }) {
  return html`${useComputed(() => (at ? t("hosts.seen", { ago: span(Math.max(0, Math.floor(now.value - at))) }) : t("hosts.never")))}`;
}

function Slot({ slot }) {
  return html`<li><${State} row=${slot} /> ${slot.name}${slot.reason && html` <small>${slot.reason}</small>`}</li>`;
}

function Host({ host, verdict: [tone, mark, words] }) {
  const { name, url, state, since, seen, overview } = host;
  const lost = state !== "well" && overview && sum(overview)[2];
  return html`<li class=${`host ${tone === "bad" ? "wrong" : ""}`}>
    <p class="line-up"><a class="link" href=${url} rel="noreferrer">${name}</a>
      <span class=${`state ${tone}`} title=${since ? whole(since) : ""}>${shape(mark, tone)}<span>${words}</span></span>
      <span class="mute grow"><${Seen} key=${seen} at=${seen} />${overview?.version && ` · impetusd ${overview.version}`}</span></p>
    ${lost && html`<p class="mute">${t("hosts.known", { what: lost })}</p>`}
    ${overview?.incidents.map((each) => html`<p class=${each.error ? "bad" : "warn"}>${each.units.join(", ")}${each.all > each.units.length && ` +${each.all - each.units.length}`}: ${each.text} ${each.since && html`<span class="mute">${t("since", { at: clock(each.since, true) })}</span>`}</p>`)}
    ${overview?.more > 0 && html`<p class="mute">+${overview.more}</p>`}
    ${overview?.all > 0 && html`<details><summary>${t("units")} <span class="count">${overview.all}</span></summary><ul>${overview.units.map((slot) => html`<${Slot} key=${slot.name} slot=${slot} />`)}</ul>
      ${overview.all > overview.units.length && html`<p class="mute">+${overview.all - overview.units.length}</p>`}</details>`}
  </li>`;
}

export function Hosts() {
  const { data, error } = useAnswer("hosts", EVERY);
  const found = (data?.hosts ?? []).map((host) => ({ host, verdict: judge(host) }));
  found.sort((a, b) => RANK[a.verdict[0]] - RANK[b.verdict[0]]);
  return html`<section class="hosts" aria-labelledby="hosts-title">
    <header><h2 id="hosts-title">${t("hosts")} <span class="count">${data ? found.length : ""}</span></h2>${error && html`<span class="error">${error.message}</span>`}</header>
    ${data ? html`<ul class="sheet">${found.map(({ host, verdict }) => html`<${Host} key=${host.name} host=${host} verdict=${verdict} />`)}</ul>` : html`<p class="mute" role="status">${!error && t("loading")}</p>`}
  </section>`;
}

await style("views.css");
