// What runs by the clock: when next, how it went the last times, and a run now.
import { html, useComputed } from "../h.mjs";
import { lists, now, rows } from "../store.mjs";
import { href } from "../route.mjs";
import { clock, instant, span, t, whole } from "../text.mjs";
import { shape } from "../parts/badge.mjs";
import { Do } from "../parts/command.mjs";

const RUNS = 12;

function Left({ at }) {
  return html`${useComputed(() => (at ? span(Math.max(0, Math.ceil(instant(at) - now.value))) : "–"))}`;
}

const tone = (run) => (run.ok ? "good" : run.skipped ? "mute" : "bad");

function Timer({ row }) {
  const last = row.runs.find((run) => !run.skipped) ?? row.runs[0];
  return html`<tr class=${last && !last.ok && !last.skipped ? "wrong" : ""}>
    <th scope="row"><a data-walk href=${href("logs", "", { unit: row.name })}>${row.name}</a>${!row.enabled && html` <small>${t("timers.off")}</small>`}</th>
    <td title=${row.schedule}>${row.words}</td>
    <td class="number">${row.running_s != null ? html`<span class="state busy">${shape("STARTING", "busy")}${t("timers.running")}</span>` : html`<${Left} key=${row.next} at=${row.next} />`}</td>
    <td class="number mute" title=${row.next && whole(row.next)}>${row.next ? clock(row.next) : "–"}</td>
    <td>${last ? html`<span class=${`state ${tone(last)}`} title=${whole(last.at)}>${shape(last.ok ? "healthy" : last.skipped ? "unknown" : "FATAL", tone(last))}${last.result}</span> <span class="mute number">${clock(last.at)} · ${span(last.duration_s)}</span>` : html`<span class="mute">${t("timers.never")}</span>`}</td>
    <td><span class="runs" role="img" aria-label=${t("timers.runs", { n: row.runs.length, failed: row.runs.filter((run) => !run.ok && !run.skipped).length })}>${row.runs.slice(0, RUNS).reverse().map((run) => html`<span title=${`${clock(run.at)} ${run.result}`}>${shape(run.ok ? "healthy" : run.skipped ? "unknown" : "FATAL", tone(run))}</span>`)}</span></td>
    <td class="end"><${Do} method="trigger" name=${row.name} /></td></tr>`;
}

export default function Timers() {
  lists.timer.value;
  const all = [...rows.timer.values()].map((each) => each.value).sort((a, b) => (instant(a.next) || Infinity) - (instant(b.next) || Infinity));
  return html`<div class="headline"><h1>${t("nav.timers")}</h1><p class="mute">${t("timers.count", { n: all.length })}</p></div>
    ${all.length ? html`<div class="scroll" tabindex="0" role="group"><table class="sheet timers"><thead><tr>${["name", "schedule", "in", "at", "last", "runs"].map((each) => html`<th scope="col">${t(`column.${each}`)}</th>`)}<td></td></tr></thead>
      <tbody>${all.map((row) => html`<${Timer} key=${row.name} row=${row} />`)}</tbody></table></div>` : html`<p class="empty">${t("timers.none")}</p>`}`;
}
