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
    const what = t(`next.${next.what}`);
    if (next.at == null) return what;
    const seconds = instant(next.at) - now.value;
    return seconds > 0 ? t("next.in", { what, left: span(Math.ceil(seconds)) }) : t("next.now", { what });
  });
  return html`${left}`;
}

export function Card({ incident }) {
  const units = [...new Set(incident.units.map(unit_of))];
  const tone = incident.severity === "error" ? "bad" : "warn";
  const shown = incident.units.slice(0, 6);
  const rule = incident.rule;
  const more = incident.units.length - shown.length;
  return html`<article class=${`card ${tone}`}>
    <header>
      <h2>${shape(tone === "bad" ? "FATAL" : "BACKOFF", tone)}<span class="names">${shown.map((slot) => html`<a key=${slot} href=${slot === "impetusd" ? href("audit") : rows.timer.has(slot) ? href("timers") : href("unit", unit_of(slot))}>${slot}</a>`)}${more > 0 && html`<span class="mute">+${more}</span>`}</span></h2>
      ${Boolean(incident.since) && html`<span class="mute" title=${whole(incident.since)}>${t("since", { at: clock(incident.since) })}</span>`}</header>
    <p class="cause">${incident.cause.text}</p>
    <dl>
      ${rule && html`<div><dt>${t("rule")}</dt><dd><code>${rule.key}</code> ${rule.file && html`<span class="mute number">${rule.file}:${rule.line}</span>`}</dd></div>`}
      ${incident.hint && html`<div><dt>${t("hint")}</dt><dd>${incident.hint}</dd></div>`}
      ${incident.next !== undefined && html`<div><dt>${t("next")}</dt><dd><${Next} next=${incident.next} /></dd></div>`}</dl>
    ${incident.stderr.length > 0 && html`<pre class="words" tabindex="0" aria-label=${t("stderr")}>${incident.stderr.map((line) => `${plain(line)}\n`)}</pre>`}
    <div class="buttons">
      ${incident.action && html`<${Do} primary method=${incident.action.method} name=${incident.action.name} params=${incident.action.params} label=${t("do.it", { what: t(`do.${incident.action.method}`), name: incident.action.name })} />`}
      <${Copy} command=${incident.command} />
      <a class="button" href=${href("logs", "", { unit: units })}>${t("nav.logs")}</a>
      <button type="button" onClick=${() => doing("silence", units[0])}>${t("silence.do")}</button></div>
  </article>`;
}
