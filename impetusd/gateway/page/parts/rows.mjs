// Slots as a table; each row is redrawn by its own signal alone.
import { html, useComputed } from "../h.mjs";
import { as_wanted, checks_of, now, rows, since, usage_of } from "../store.mjs";
import { href } from "../route.mjs";
import { brief, percent, t, whole } from "../text.mjs";
import { Probe, State } from "./badge.mjs";
import { Memory } from "./bar.mjs";
import { Spark } from "./spark.mjs";

const COLUMNS = ["state", "name", "want", "since", "memory", "cpu", "spark", "probe", "restarts", "pid"];

// Bound: only its text changes, and only when the words do.
export function Since({ at }) {
  const from = at ?? null;
  return html`${useComputed(() => (from == null ? "–" : brief(Math.max(0, now.value - from))))}`;
}

function Row({ slot }) {
  const found = rows.unit.get(slot);
  return found && html`<${Known} row=${found.value} />`;
}

function Known({ row }) {
  const usage = usage_of(row.name);
  const cpu = useComputed(() => percent(usage.value.cpu));
  const began = since(row);
  const ok = as_wanted(row);
  return html`<div role="row" class=${ok ? "" : "wrong"}>
    <span role="cell" class="c-state"><${State} row=${row} /></span>
    <span role="cell" class="c-name"><a data-walk href=${href("unit", row.unit)}>${row.name}</a>${row.reason && !ok && html`<small title=${row.reason}>${row.reason}</small>`}</span>
    <span role="cell" class="c-want">${t(`want.${row.want}`)}</span>
    <span role="cell" class="c-since number" title=${began ? whole(began) : ""}><${Since} key=${began} at=${began} /></span>
    <span role="cell" class="c-memory"><${Memory} usage=${usage} limit=${row.memory_limit_bytes} /></span>
    <span role="cell" class="c-cpu number">${cpu}</span>
    <span role="cell" class="c-spark"><${Spark} usage=${usage} /></span>
    <span role="cell" class="c-probe"><${Probe} checks=${checks_of(row)} /></span>
    <span role="cell" class=${`c-restarts number ${row.restarts ? "" : "mute"}`}>${row.restarts}</span>
    <span role="cell" class="c-pid number mute">${row.pid ?? "–"}</span>
  </div>`;
}

export function Rows({ slots, label }) {
  return html`<div role="table" aria-labelledby=${label} class="rows slots">
    <div role="row" class="head">${COLUMNS.map((name) => html`<span role="columnheader" class=${`c-${name}`}>${t(`column.${name}`)}</span>`)}</div>
    ${slots.map((key) => html`<${Row} key=${key} slot=${key} />`)}
  </div>`;
}
