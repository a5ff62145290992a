// What the supervisor says, as signals: one for each row, so that a change redraws what shows it and nothing else.
//
// One stream a page. It is closed while nobody looks at the tab, and goes on where it ended. Changes are gathered until the
// next frame is drawn: 500 units that change each second are 500 small updates in one frame.
import { batch, computed, signal } from "./h.mjs";
import * as api from "./api.mjs";

export const KINDS = ["unit", "timer", "check", "reload", "daemon"];
const POINTS = 60; // of a sparkline
const SEEDED = 100; // slots whose past is asked for
const LATER = [1, 2, 5, 10]; // seconds until the next try to connect
const STALE = 12; // seconds of silence; "alive" comes each 5
const PAUSE = 400; // milliseconds between two questions for incidents
const SHAPE = ["state", "want", "unit", "name", "kind", "reason"]; // fields of a unit's row by which lists are sorted and counted, and it is read

export const me = signal(undefined); // undefined: not asked yet; null: not logged in
export const stream = signal("connecting"); // connecting, live, lost
export const now = signal(Date.now() / 1000); // the server's clock, each second
export const rows = Object.fromEntries(KINDS.map((kind) => [kind, new Map()])); // kind → key → signal of the row
export const lists = Object.fromEntries(KINDS.map((kind) => [kind, signal(0)])); // goes up when one comes, goes or moves
const shapes = new Map(); // slot's key → signal, which goes up with each change of those
export const lost_lines = signal(0); // of logs
export const usage = new Map(); // slot → signal of {memory, cpu, points}
export const records = signal([]); // the ledger's latest records, oldest first
export const incidents = signal(null); // null: not asked yet
export const trouble = signal(""); // with the page itself
export const said = signal(""); // for screen readers

let skew = 0;
let heard = 0; // when the last word came, by performance.now()
let last = null; // life:n
let life = "";
let source = null;
let retry = null;
let tries = 0;
let queue = [];
let frame = 0;
let step = 2; // seconds that a point of a sparkline stands for
let asked = -PAUSE;
let asking = null;
let closing = null;

export const server_now = () => Date.now() / 1000 + skew;
export const age = computed(() => (now.value && heard ? (performance.now() - heard) / 1000 : 0));
export const is_stale = computed(() => stream.value !== "live" || age.value > STALE);

export const as_wanted = (row) => row.want !== "up" || (["RUNNING", "EXITED"].includes(row.state) && !row.held);

// Since when it is as it is, Unix time; null where that is not known.
export function since(row) {
  if (row.since) return row.since;
  if (row.uptime_s != null) return row.at - row.uptime_s;
  return row.last_exit?.at ? Date.parse(row.last_exit.at) / 1000 : null;
}

export function shape_of(key) {
  let found = shapes.get(key);
  if (!found) shapes.set(key, (found = signal(0)));
  return found;
}

export function usage_of(name) {
  let found = usage.get(name);
  if (!found) usage.set(name, (found = signal({ memory: null, cpu: null, points: [], at: 0 })));
  return found;
}

function measure(name, memory, cpu, at) {
  const found = usage_of(name);
  const before = found.peek();
  const points = before.points;
  if (cpu != null) {
    if (at - before.at < step && points.length) points[points.length - 1] = Math.max(points.at(-1), cpu);
    else points.push(cpu);
    if (points.length > POINTS) points.shift();
  }
  const began = at - before.at < step ? before.at : at;
  found.value = { memory, cpu, points, at: began };
}

// The last hour of CPU, a point a minute, where the history has it.
function seed(series) {
  step = 60;
  batch(() => {
    for (const [name, points] of Object.entries(series)) {
      const found = usage_of(name);
      const past = points.slice(-POINTS + 1).map(([, value]) => value ?? 0);
      found.value = { ...found.peek(), points: [...past, ...found.peek().points.slice(-1)] };
    }
  });
}

// `more`: of which unit, as a part of the query.
export async function ask_past(more = "") {
  if (!me.peek().history || rows.unit.size > SEEDED) return;
  const from = Math.floor(now.peek()) - POINTS * 60;
  const answer = await api.get(`history?series=cpu&from=${from}${more}`).catch(() => ({}));
  seed(answer.series?.cpu ?? {});
}

function put(kind, key, value, at) {
  if (kind === "usage") {
    for (const [name, [memory, cpu]] of Object.entries(value ?? {})) measure(name, memory, cpu, at);
    return;
  }
  if (kind === "ledger") {
    records.value = [...records.peek().slice(-499), value];
    return;
  }
  const known = rows[kind];
  if (!known) return; // of a newer supervisor
  const found = known.get(key);
  if (value === null) {
    if (known.delete(key)) lists[kind].value += 1;
    if (kind === "unit") {
      usage.delete(key);
      shape_of(key).value += 1;
      shapes.delete(key);
      lost_lines.value -= found?.peek().dropped_lines ?? 0;
    }
    return;
  }
  const row = kind === "unit" ? { ...value, at: value.at ?? at, key } : value;
  if (kind === "unit" && "memory_bytes" in row) measure(row.name, row.memory_bytes, row.cpu_percent, at);
  if (kind === "unit") lost_lines.value += (row.dropped_lines ?? 0) - (found?.peek().dropped_lines ?? 0);
  if (!found) {
    known.set(key, signal(row));
    lists[kind].value += 1;
    return;
  }
  const before = found.peek();
  found.value = row;
  if (kind !== "unit" || SHAPE.some((name) => before[name] !== row[name]) || !before.held !== !row.held) {
    lists[kind].value += 1;
    if (kind === "unit") shape_of(key).value += 1;
    if (kind === "unit" && before.state !== row.state) announce(row, before);
  }
}

function announce(row, before) {
  if (as_wanted(row) !== as_wanted(before) || row.state === "FATAL") said.value = `${row.name}: ${row.state}. ${row.reason}`;
}

function whole(snapshot) {
  for (const kind of KINDS) {
    const found = snapshot.rows[kind] ?? {};
    for (const key of rows[kind].keys()) if (!(key in found)) put(kind, key, null, snapshot.at);
    for (const [key, row] of Object.entries(found)) put(kind, key, row, snapshot.at);
  }
  put("usage", "", snapshot.rows.usage?.[""], snapshot.at);
  life = snapshot.life;
  last = `${life}:${snapshot.n}`;
}

function draw() {
  frame = 0;
  const taken = queue;
  queue = [];
  batch(() => {
    for (const change of taken) {
      if (change.rows) whole(change);
      else put(change.kind, change.key, change.value, change.at);
    }
  });
  if (taken.some((change) => change.rows || change.kind !== "usage")) ask_incidents();
}

// A word from the supervisor. "alive" is the gateway's own, which may have lost the supervisor.
function hear({ type, data }) {
  const word = data ? JSON.parse(data) : {};
  tries = 0;
  if (type !== "alive" || stream.peek() === "live") live(word);
  return word;
}

function live(word) {
  heard = performance.now();
  stream.value = word.live === false ? "lost" : "live";
}

function take(change) {
  queue.push(change);
  frame ||= requestAnimationFrame(draw);
}

// What a test replays, as if it came over the stream.
export const replay = take;

function open() {
  if (source || document.hidden || !me.peek()) return;
  clearTimeout(retry);
  source = new EventSource(api.BASE + "stream" + api.query({ last }));
  source.addEventListener("snapshot", (event) => take(hear(event)));
  source.addEventListener("change", (event) => {
    if (event.lastEventId) last = event.lastEventId;
    take(hear(event));
  });
  for (const name of ["alive", "resumed"]) source.addEventListener(name, hear);
  source.addEventListener("lost", () => (stream.value = "lost")); // the gateway has lost the supervisor
  source.onerror = () => {
    stream.value = "lost";
    if (source?.readyState !== EventSource.CLOSED) return; // it tries again by itself
    close();
    retry = setTimeout(again, LATER[Math.min(tries++, LATER.length - 1)] * 1000);
  };
}

async function again() {
  await who().catch(() => {});
  if (me.peek()) open();
}

function close() {
  clearTimeout(retry);
  source?.close();
  source = null;
}

export async function ask_incidents() {
  const wait = asked + PAUSE - performance.now();
  if (asking || wait > 0) {
    asking ??= setTimeout(() => {
      asking = null;
      ask_incidents();
    }, Math.max(wait, 1));
    return;
  }
  asked = performance.now();
  try {
    incidents.value = (await api.get("incidents")).incidents;
    clearTimeout(closing);
    const ends = incidents.value.filter((each) => each.next?.what === "well").map((each) => each.next.at - server_now());
    if (ends.length) closing = setTimeout(ask_incidents, Math.max(1, Math.min(...ends)) * 1000); // nothing is said then
  } catch {
    incidents.value ??= []; // the cards that are made of rows alone stand in for it; the next change asks again
  }
}

// Who is logged in, and the server's clock.
export async function who() {
  try {
    const answer = await api.get("me");
    skew = answer.server_time - Date.now() / 1000;
    me.value = answer;
  } catch (error) {
    if (error.status !== 401) throw error;
    me.value = null;
  }
  return me.value;
}

// The stream, which goes on from `snapshot`, and begins with one if that is null. One that is open already is newer.
export function begin(snapshot) {
  if (snapshot && !source) batch(() => (live(snapshot), whole(snapshot)));
  open();
  ask_incidents();
  ask_records();
}

async function ask_records() {
  const { events: past } = await api.get("events?last=200").catch(() => ({ events: [] }));
  const known = new Set(records.peek().map((record) => record.n));
  records.value = [...past.filter((record) => !known.has(record.n)), ...records.peek()];
}

export function leave() {
  close();
  last = null;
  queue = [];
  stream.value = "connecting";
  batch(() => KINDS.forEach((kind) => (rows[kind].clear(), (lists[kind].value += 1))));
  usage.clear();
  shapes.clear();
  lost_lines.value = 0;
  records.value = [];
  incidents.value = null;
}

document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
setInterval(() => document.hidden || (now.value = server_now()), 1000);

// Lists that several views show.

const RANK = { FATAL: 0, BACKOFF: 1, STARTING: 2, STOPPING: 3, RUNNING: 5, EXITED: 6, STOPPED: 7 };
const ILL = 4;
// What is tried again is as wrong while it starts as while it waits for that.
const rank = (row) => (as_wanted(row) ? RANK[row.state] : row.held ? 0 : row.state === "STARTING" && (row.restarts || row.last_exit) ? 1 : Math.min(RANK[row.state], 2));
const is_about = ({ target }, row) => target === row.name || (target === row.unit && !["template", "standby"].includes(row.kind));
// The targets of checks that fail, in a text: it changes with these alone, not with each answer.
const ill = computed(() => (lists.check.value, [...rows.check.values()].map((each) => each.peek()).filter((each) => each.state === "unhealthy").map((each) => each.target).join()));
const natural = new Intl.Collator("en", { numeric: true }).compare;

// The slots, worst first: their keys. It changes when one changes its state, not with each of its numbers.
export const worst_first = computed(() => {
  lists.unit.value;
  const targets = ill.value.split(",");
  const place = (row) => (targets.some((target) => is_about({ target }, row)) ? Math.min(rank(row), ILL) : rank(row));
  const all = [...rows.unit].map(([key, row]) => [key, row.peek().name, place(row.peek())]);
  all.sort(([, a, first], [, b, second]) => first - second || natural(a, b));
  return all.map(([key]) => key);
});

// [wrong, all, units]: how many slots are not as wanted, of how many.
export const count = computed(() => {
  lists.unit.value;
  let wrong = 0;
  for (const row of rows.unit.values()) wrong += !as_wanted(row.peek());
  return [wrong, rows.unit.size];
});

export const unit_names = computed(() => {
  lists.unit.value;
  return [...new Set([...rows.unit.values()].map((row) => row.peek().unit))].sort(natural);
});

export const checks_of = (row) => {
  lists.check.value;
  return [...rows.check.values()].filter((each) => is_about(each.peek(), row)).map((each) => each.value);
};

// What the server says is wrong, and a card made of its row for each slot that it says nothing of yet.
export const cards = computed(() => {
  lists.unit.value;
  if (!incidents.value) return [];
  const covered = new Set(incidents.value.flatMap((each) => each.units));
  const made = [];
  for (const row of [...rows.unit.values()].map((each) => each.peek())) {
    if (as_wanted(row) || covered.has(row.name) || covered.has(row.unit)) continue;
    const same = made.find((each) => each.cause.text === row.reason && each.unit === row.unit);
    if (same) same.units.push(row.name);
    else {
      made.push({
        ...{ id: `row:${row.name}`, unit: row.unit, units: [row.name], cause: { ...row.cause, text: row.reason || row.state } },
        ...{ since: since(row) ?? row.at, rule: null, next: undefined, stderr: (row.tail ?? []).slice(-5) },
        ...{ command: `impetusd why ${row.unit}`, action: null, severity: row.state === "FATAL" ? "error" : "warning" },
      });
    }
  }
  return [...incidents.value, ...made];
});

// The last command that changed something: its record.
export const last_change = computed(() =>
  records.value.findLast((record) => record.kind === "command" && record.outcome === "done"),
);
