// An incident: its cause, the rule that decided, what happens next, the last lines on stderr, and what to do.
import { html, useComputed } from "../h.mjs";
import { now, rows } from "../store.mjs";
import { href } from "../route.mjs";
import { clock, instant, span, t, whole } from "../text.mjs";
import { plain } from "../plain.mjs";
import { shape } from "./badge.mjs";
import { Copy, Do, doing } from "./command.mjs";

const unit_of = (slot) => slot.split(":")[0];

function Next({ next }) {
  const left = useComputed(() => {
    if (!next) return t("next.none");
    const seconds = next.at == null ? null : instant(next.at) - now.value;
    if (next.what === "well") return t("next.well", { left: span(Math.max(1, Math.ceil(seconds))) });
    const what = t(`next.${next.what}`);
    if (seconds == null) return what;
    return seconds > 0 ? t("next.in", { what, left: span(Math.ceil(seconds)) }) : t("next.now", { what });
  });
  return html`${left}`;
}

const place_of = (slot) => (rows.timer.has(slot) ? href("timers") : [...rows.unit.values()].some((row) => row.peek().unit === unit_of(slot)) ? href("unit", unit_of(slot)) : href("audit"));

function Names({ slots }) {
  const shown = slots.slice(0, 6);
  const more = slots.length - shown.length;
  return html`${shown.map((slot) => html`<a key=${slot} href=${place_of(slot)}>${slot}</a>`)}${more > 0 && html`<span class="mute">+${more}</span>`}`;
}

// What has become of it, in words.
function kind_of({ event, cause, next }) {
  if (!event) return "";
  if (next?.what === "well" && event !== "daemon") return t("event.again");
  return t(cause.key === "skipped_missed" ? "event.missed" : `event.${event}`);
}

export function Card({ incident }) {
  const units = [...new Set(incident.units.map(unit_of))];
  const tone = incident.severity === "error" ? "bad" : "warn";
  const root = incident.root ?? units[0];
  const own = incident.units.filter((slot) => unit_of(slot) === root);
  const others = incident.units.filter((slot) => !own.includes(slot) && slot !== root);
  const rule = incident.rule;
  return html`<article class=${`card ${tone}`}>
    <header>
      <h2>${shape(tone === "bad" ? "FATAL" : "BACKOFF", tone)}<span class="names"><${Names} slots=${own.length ? own : [root]} /></span><span class=${`kind ${tone}`}>${kind_of(incident)}</span></h2>
      ${Boolean(incident.since) && html`<span class="mute" title=${whole(incident.since)}>${t("since", { at: clock(incident.since) })}</span>`}</header>
    <p class="cause">${incident.cause.text}</p>
    <dl>
      ${others.length > 0 && html`<div><dt>${t("affects")}</dt><dd class="names"><${Names} slots=${others} /></dd></div>`}
      ${rule && html`<div><dt>${t("rule")}</dt><dd><code>${rule.key}</code> ${rule.file && html`<span class="mute number">${rule.file}:${rule.line}</span>`}</dd></div>`}
      ${incident.hint && html`<div><dt>${t("hint")}</dt><dd>${incident.hint}</dd></div>`}
      ${incident.look?.map((each) => html`<div key=${each.command}><dt>${t("look")}</dt><dd class="look"><${Copy} command=${each.command} /><span class="mute">${each.purpose}</span></dd></div>`)}
      ${incident.next !== undefined && html`<div><dt>${t("next")}</dt><dd><${Next} key=${JSON.stringify(incident.next)} next=${incident.next} /></dd></div>`}</dl>
    ${incident.stderr.length > 0 && html`<pre class="words" tabindex="0" aria-label=${t("stderr")}>${incident.stderr.map((line) => `${plain(line)}\n`)}</pre>`}
    <div class="buttons">
      ${incident.action && html`<${Do} primary method=${incident.action.method} name=${incident.action.name} params=${incident.action.params} label=${t("do.it", { what: t(`do.${incident.action.method}`), name: incident.action.name })} />`}
      <${Copy} command=${incident.command} />
      <a class="button" href=${href("logs", "", { unit: units })}>${t("nav.logs")}</a>
      <button type="button" onClick=${() => doing("silence", units[0])}>${t("silence.do")}</button></div>
  </article>`;
}
