// Slots as a table; each row is redrawn by its own signal alone, and its numbers only while it is in view or close to it.
import { batch, html, useComputed, useEffect, useRef, useSignal } from "../h.mjs";
import { as_wanted, checks_of, now, rows, shape_of, since, usage_of } from "../store.mjs";
import { href } from "../route.mjs";
import { brief, percent, t, whole } from "../text.mjs";
import { Probe, State } from "./badge.mjs";
import { Memory, Spark } from "./meters.mjs";

const AT_ONCE = 30; // rows that are drawn whole before it is known which are in view
const CLOSE = "400px";
const COLUMNS = ["state", "name", "want", "since", "memory", "cpu", "spark", "probe", "restarts", "pid"];

// Bound: only its text changes, and only when the words do.
export function Since({ at }) {
  const from = at ?? null;
  return html`${useComputed(() => (from == null ? "–" : brief(Math.max(0, now.value - from))))}`;
}

const closeness = new WeakMap(); // element of a row → signal
const watcher = new IntersectionObserver((entries) => batch(() => {
  for (const each of entries) closeness.get(each.target).value = each.isIntersecting;
}), { rootMargin: CLOSE });

// One that is out of view has its state, its name and its reason, for who searches the page or hears it.
function Row({ slot, close }) {
  const is_close = useSignal(close);
  const place = useRef();
  useEffect(() => {
    const element = place.current;
    closeness.set(element, is_close);
    watcher.observe(element);
    return () => watcher.unobserve(element);
  }, []);
  shape_of(slot).value;
  const found = rows.unit.get(slot);
  const row = is_close.value ? found?.value : found?.peek();
  return html`<div role="row" ref=${place} class=${!row || as_wanted(row) ? "" : "wrong"}>${row && html`<${Named} row=${row} />${is_close.value && html`<${Numbers} row=${row} />`}`}</div>`;
}

function Named({ row }) {
  const why = row.reason && !as_wanted(row);
  return html`<span role="cell" class="c-state"><${State} row=${row} /></span>
    <span role="cell" class="c-name"><a data-walk href=${href("unit", row.unit)}>${row.name}</a>${why && html`<small title=${row.reason}>${row.reason}</small>`}</span>`;
}

function Numbers({ row }) {
  const usage = usage_of(row.name);
  const cpu = useComputed(() => percent(usage.value.cpu));
  const began = since(row);
  return html`<span role="cell" class="c-want">${t(`want.${row.want}`)}</span>
    <span role="cell" class="c-since number" title=${began ? whole(began) : ""}><${Since} key=${began} at=${began} /></span>
    <span role="cell" class="c-memory"><${Memory} usage=${usage} limit=${row.memory_limit_bytes} /></span>
    <span role="cell" class="c-cpu number">${cpu}</span>
    <span role="cell" class="c-spark"><${Spark} usage=${usage} /></span>
    <span role="cell" class="c-probe"><${Probe} checks=${checks_of(row)} /></span>
    <span role="cell" class=${`c-restarts number ${row.restarts ? "" : "mute"}`}>${row.restarts}</span>
    <span role="cell" class="c-pid number mute">${row.pid ?? "–"}</span>`;
}

export function Rows({ slots, label }) {
  // The same object for the same slot: the list is put in another order without redrawing a row.
  const made = useRef(new Map());
  const before = made.current;
  made.current = new Map(slots.map((key, index) => [key, before.get(key) ?? html`<${Row} key=${key} slot=${key} close=${index < AT_ONCE} />`]));
  return html`<div role="table" aria-labelledby=${label} class="rows slots">
    <div role="row" class="head">${COLUMNS.map((name) => html`<span role="columnheader" class=${`c-${name}`}>${t(`column.${name}`)}</span>`)}</div>
    ${[...made.current.values()]}
  </div>`;
}
