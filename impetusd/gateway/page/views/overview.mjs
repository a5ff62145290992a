// The first screen: what is wrong and why, what to do, the last day, and every unit, worst first.
import { html, useComputed, useEffect, useSignal } from "../h.mjs";
import { useAnswer } from "../cache.mjs";
import { ask_past, cards, count, last_change, lists, lost_lines, me, now, records, rows, stream, worst_first } from "../store.mjs";
import { href, refine, route } from "../route.mjs";
import { clock, instant, t, whole } from "../text.mjs";
import { Live, shape } from "../parts/badge.mjs";
import { Rows } from "../parts/rows.mjs";
import { Strip } from "../parts/strip.mjs";
import { Card } from "../parts/card.mjs";
import { doing } from "../parts/command.mjs";

const KINDS = { exit: "exit", reload: "deploy", config: "deploy", command: "command", start: "restart" };

function TopLine() {
  const [wrong, all] = count.value;
  const troubled = all && (wrong || cards.value.length);
  const began = Math.min(...cards.value.map((each) => instant(each.since) || Infinity));
  const change = last_change.value;
  const who = change && t("top.change", { who: change.by ?? change.user, what: [change.method, ...(change.names ?? [])].join(" "), at: clock(change.at, true) });
  const head = !all ? t(stream.value === "connecting" ? "loading" : "top.none") : troubled ? t(wrong ? "top.wrong" : "top.minor", { n: wrong || cards.value.length, all }) : t("top.well", { n: all });
  const tone = !troubled ? "good" : wrong || cards.value.some((each) => each.severity === "error") ? "bad" : "warn";
  return html`<div class=${`headline ${tone}`}>
    <h1>${shape(troubled ? "unhealthy" : "healthy", tone)}${head}
      ${Boolean(troubled) && Number.isFinite(began) && html` <span title=${whole(began)}>${t("top.since", { at: clock(began, true) })}</span>`}</h1>
    ${who && html`<p><a href=${href("audit")}>${who}</a></p>`}</div>`;
}

// Of the ledger's records, where there is no history.
function marks_of(all) {
  return all.filter((each) => each.kind in KINDS && (each.kind !== "exit" || !each.asked) && (each.kind !== "start" || each.why) && (each.kind !== "reload" || ["done", "rolled back"].includes(each.what)))
    .map((each) => ({ at: each.at, kind: KINDS[each.kind], unit: each.slot ?? each.unit ?? "", text: each.method ?? each.what ?? each.why ?? "" }));
}

function Day() {
  const has = me.value.history;
  const from = Math.floor(now.peek() / 3600) * 3600 - 86400;
  const { data } = useAnswer(has ? `history?from=${from}` : null, 60);
  const late = useComputed(() => marks_of(records.value));
  const known = data?.marks ?? [];
  const until = known.length ? known.at(-1).at : 0;
  return html`<${Strip} marks=${[...known, ...late.value.filter((mark) => mark.at > until + 0.5)]} />`;
}

const matches = (row, words) => words.every((word) => `${row.name} ${row.state} ${row.want} ${row.kind}`.toLowerCase().includes(word));

function Units() {
  const filter = route.value.query.get("q") ?? "";
  const words = filter.toLowerCase().split(/\s+/).filter(Boolean);
  const all = worst_first.value;
  const found = words.length ? all.filter((key) => rows.unit.has(key) && matches(rows.unit.get(key).peek(), words)) : all;
  return html`<section class="units" aria-labelledby="units-title">
    <header><h2 id="units-title">${t("units")} <span class="count">${words.length ? `${found.length} / ${all.length}` : all.length}</span></h2>
      <label class="filter"><span class="unseen">${t("filter")}</span><input data-filter type="search" placeholder=${t("filter")} value=${filter} onInput=${(event) => refine({ q: event.target.value })} /><kbd>/</kbd></label></header>
    ${found.length > 0 && html`<${Rows} slots=${found} label="units-title" />`}
    ${!found.length && html`<p class="empty">${t(all.length ? "filter.none" : "units.none")}</p>`}
  </section>`;
}

function NextTimers() {
  lists.timer.value;
  const next = [...rows.timer.values()].map((each) => each.value).filter((each) => each.next).sort((a, b) => instant(a.next) - instant(b.next)).slice(0, 3);
  if (!next.length) return null;
  return html`<p class="next-timers"><b>${t("timers.next")}</b>${next.map((each) => html`<a href=${href("timers")} key=${each.name}>${each.name} <span class="mute">${clock(each.next, true)}</span></a>`)}</p>`;
}

function Foot() {
  const { data } = useAnswer(me.value.alerts ? "alerts" : null, 30);
  const silences = data?.silences ?? [];
  return html`<footer class="foot">
    <span><${Live} /></span>
    ${me.value.alerts && html`<span class=${data?.undelivered ? "warn" : ""}>${t("foot.undelivered", { n: data?.undelivered ?? 0 })}</span>`}
    <span class=${lost_lines.value ? "warn" : ""}>${t("foot.lost", { n: lost_lines.value })}</span>
    ${silences.map((each) => html`<span class="warn" key=${each.id} title=${`${each.by}: ${each.why}`}>${t("foot.silenced", { name: each.name || t("foot.all"), at: clock(each.until, true), why: each.why })}
      <button type="button" class="quiet" onClick=${() => doing("end", each.id)}>${t("foot.unsilence")}</button></span>`)}
    ${me.value.alerts && html`<button type="button" class="quiet" onClick=${() => doing("silence", "")}>${t("silence.do")}</button>`}
    <span class="last"><kbd>?</kbd> ${t("keys.title")}</span></footer>`;
}

// It comes when the rest is there.
function OtherHosts() {
  const part = useSignal(() => html`<p role="status">${t("loading")}</p>`);
  useEffect(() => void import("../parts/hosts.mjs").then((module) => (part.value = module.Hosts), (error) => (part.value = () => `${t("broken")}: ${error.message}`)), []);
  return html`<${part.value} />`;
}

export default function Overview() {
  useEffect(() => void ask_past(), []);
  return html`<${TopLine} />
    ${cards.value.length > 0 && html`<section class="cards" aria-label=${t("incidents")}>${cards.value.map((each) => html`<${Card} key=${each.id} incident=${each} />`)}</section>`}
    ${me.value.hosts && html`<${OtherHosts} />`}
    <${Day} /><${NextTimers} /><${Units} /><${Foot} />`;
}
