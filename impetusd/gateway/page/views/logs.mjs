// Lines of several units, merged: as they come, those around one line, or those found on the server by words and time.
import { html, signal, useComputed, useEffect, useRef, useSignal } from "../h.mjs";
import * as api from "../api.mjs";
import { me, rows, unit_names, worst_first } from "../store.mjs";
import { href, refine, route } from "../route.mjs";
import { clock, t, whole } from "../text.mjs";
import { plain } from "../plain.mjs";
import { parts } from "../sgr.mjs";
import { copy } from "../parts/command.mjs";
import { moment } from "../parts/moment.mjs";

const MOST = 100_000; // lines kept
const FIRST = 1000; // asked for when it begins
const HEIGHT = 20; // pixels of a line, as in views.css
const BEYOND = 12; // lines drawn above and below what is seen
const AROUND = 200; // lines on each side of a line that is linked to
const FOUND = 1000; // lines of one search
const LOGS = 32; // at once, of which each slot has two

// /x/ is a regular expression; anything else is to be in the line, whatever its case. null: one that cannot be read.
export function matcher(text) {
  if (!text) return () => true;
  const written = /^\/(.+)\/(i?)$/.exec(text);
  if (written) {
    try {
      const expression = new RegExp(written[1], written[2]);
      return (line) => expression.test(line);
    } catch {
      return null;
    }
  }
  const words = text.toLowerCase();
  return (line) => line.toLowerCase().includes(words);
}

// The lines, and which of them the filter lets through.
export class Lines {
  constructor() {
    this.all = [];
    this.shown = [];
    this.ids = new Set();
    this.drawn = signal(0); // goes up when they are others
    this.dropped = 0; // of those shown, since the last drawing
    this.match = () => true;
    this.frame = 0;
  }

  filter(match) {
    this.match = match;
    this.shown = this.all.filter((line) => match(line.plain));
    this.drawn.value += 1;
  }

  add(lines) {
    for (const line of lines) {
      if (line.id && this.ids.has(line.id)) continue;
      this.ids.add(line.id);
      const made = { ...line, plain: plain(line.text) };
      this.all.push(made);
      if (this.match(made.plain)) this.shown.push(made);
    }
    if (this.all.length > MOST * 1.1) this.cut();
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.drawn.value += 1;
    });
  }

  // A tenth at once, and not one line each time.
  cut() {
    const gone = this.all.splice(0, this.all.length - MOST);
    for (const line of gone) this.ids.delete(line.id);
    const last = gone.at(-1);
    let count = 0;
    const left = new Set(gone);
    while (count < this.shown.length && left.has(this.shown[count])) count += 1;
    this.shown.splice(0, count);
    this.dropped += last ? count : 0;
  }

  clear() {
    this.all = [];
    this.shown = [];
    this.ids.clear();
    this.drawn.value += 1;
  }
}

const hue = (name) => [...name].reduce((sum, char) => (sum * 31 + char.charCodeAt(0)) % 8, 0);

function marked(text, words) {
  if (!words) return text;
  const place = text.toLowerCase().indexOf(words);
  return place < 0 ? text : [text.slice(0, place), html`<mark>${text.slice(place, place + words.length)}</mark>`, text.slice(place + words.length)];
}

function Line({ line, words, chosen, place, choose }) {
  const query = { ...Object.fromEntries(["unit", "stream"].map((key) => [key, route.peek().query.getAll(key)])), line: line.id };
  return html`<div class=${`line ${chosen ? "chosen" : ""} ${line.stream}`} style=${{ transform: `translateY(${place * HEIGHT}px)` }} onClick=${() => choose(line)}>
    <a data-walk href=${href("logs", "", query)} title=${line.at ? whole(line.at) : ""} onClick=${(event) => (event.preventDefault(), event.stopPropagation(), choose(line))}>${line.at ? clock(line.at) : "–"}</a>
    <b class=${`u${hue(line.unit)}`} title=${line.unit}>${line.unit}</b><i>${line.stream === "err" || line.stream === "error" ? "err" : ""}</i>
    <span>${parts(line.text).map(([text, style]) => (style ? html`<span class=${style}>${marked(text, words)}</span>` : marked(text, words)))}</span>
  </div>`;
}

// `following`: a signal; it is false as soon as one scrolls up, and true again at the end.
export function List({ lines, following, words, chosen, choose, focus }) {
  const box = useRef();
  const top = useSignal(0);
  const height = useSignal(600);
  const by_us = useRef(0);
  useEffect(() => {
    const element = box.current;
    const watch = new ResizeObserver(() => (height.value = element.clientHeight));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  lines.drawn.value;
  const count = lines.shown.length;
  useEffect(() => {
    const element = box.current;
    if (following.value) element.scrollTop = by_us.current = element.scrollHeight;
    else if (lines.dropped) element.scrollTop -= lines.dropped * HEIGHT;
    lines.dropped = 0;
    top.value = element.scrollTop;
  }, [lines.drawn.value, following.value, height.value]);
  useEffect(() => {
    const place = focus ? lines.shown.findIndex((line) => line.id === focus) : -1;
    if (place >= 0) box.current.scrollTop = Math.max(0, place * HEIGHT - height.value / 2);
  }, [focus, count > 0]);
  const scrolled = () => {
    const element = box.current;
    top.value = element.scrollTop;
    following.value = element.scrollTop + element.clientHeight >= element.scrollHeight - 2 * HEIGHT;
  };
  const from = Math.max(0, Math.floor(top.value / HEIGHT) - BEYOND);
  const until = Math.min(count, Math.ceil((top.value + height.value) / HEIGHT) + BEYOND);
  return html`<div ref=${box} class="lines" role="log" aria-live="off" aria-label=${t("nav.logs")} tabindex="0" onScroll=${scrolled} onPointerDown=${() => (following.value = false)}>
    <div class="all" style=${{ height: `${count * HEIGHT}px` }}>
      ${lines.shown.slice(from, until).map((line, index) => html`<${Line} key=${line.id ?? from + index} line=${line} place=${from + index} words=${words} chosen=${line.id != null && line.id === chosen} choose=${choose} />`)}
    </div></div>`;
}

function Units({ chosen }) {
  const change = (name, on) => refine({ unit: on ? [...chosen, name] : chosen.filter((each) => each !== name), line: "" });
  const text = chosen.length ? chosen.join(", ") : t("logs.all");
  return html`<details class="choose"><summary title=${text}>${t("logs.units")}: <b>${text}</b></summary>
    <div>${chosen.length > 0 && html`<button type="button" class="quiet" onClick=${() => refine({ unit: [], line: "" })}>${t("logs.all")}</button>`}
    ${unit_names.value.map((name) => html`<label key=${name}><input type="checkbox" checked=${chosen.includes(name)} onChange=${(event) => change(name, event.target.checked)} />${name}</label>`)}</div></details>`;
}

function Chosen({ line, words, close }) {
  const context = useSignal(null);
  const done = useSignal("");
  const box = useRef();
  const around = async () => {
    try {
      context.value = (await api.get(`logs/context${api.query({ id: line.id, before: 20, after: 20 })}`)).lines;
    } catch (error) {
      done.value = error.message;
    }
  };
  useEffect(() => box.current.scrollIntoView?.({ block: "nearest" }), []);
  const link = new URL(href("logs", "", { unit: line.unit.split(":")[0], line: line.id }), location.href).href;
  const take = async (text, what, event) => {
    await copy(text, event.currentTarget.closest("aside").querySelector("pre"));
    done.value = t(what);
  };
  return html`<aside ref=${box} class="chosen-line" aria-label=${t("logs.line")}>
    <header><b>${line.unit}</b><span class="mute">${line.stream}${line.at ? ` · ${whole(line.at)}` : ""}</span>
      <button type="button" onClick=${around}>${t("logs.context")}</button>
      <button type="button" onClick=${(event) => take(line.plain ?? plain(line.text), "copied", event)}>${t("logs.copy")}</button>
      <button type="button" onClick=${(event) => take(link, "logs.link_copied", event)}>${t("logs.link")}</button>
      <span role="status" class="mute">${done}</span>
      <button type="button" class="quiet" aria-label=${t("close")} onClick=${close}>✕</button></header>
    <pre tabindex="0">${(context.value ?? [line]).map((each) => html`<span class=${each.id === line.id && context.value ? "this" : ""}>${context.value ? `${each.at ? clock(each.at) : "–"}  ` : ""}${parts(each.text).map(([text, style]) => html`<span class=${style}>${marked(text, words)}</span>`)}${"\n"}</span>`)}</pre>
  </aside>`;
}

export default function Logs() {
  const query = route.value.query;
  const units = query.getAll("unit");
  const stream = query.get("stream") ?? "";
  const filter = query.get("q") ?? "";
  const line = query.get("line") ?? "";
  const [from, until] = [query.get("from") ?? "", query.get("to") ?? ""];
  const past = Boolean(from || until || query.get("past"));
  const lines = useRef(null);
  lines.current ??= new Lines();
  const following = useSignal(true);
  const chosen = useSignal(null);
  const error = useSignal("");
  const state = useSignal("");
  const seen = useSignal(0);
  const match = matcher(filter);
  const words = filter.startsWith("/") ? "" : filter.toLowerCase();
  // Without a choice: every unit, or of too many the worst ones.
  const per_slot = stream ? 1 : 2;
  const slots = new Map(); // unit → how many
  for (const key of worst_first.value) {
    const name = rows.unit.get(key)?.peek().unit;
    if (name) slots.set(name, (slots.get(name) ?? 0) + 1);
  }
  const logs = (names) => names.reduce((sum, name) => sum + (slots.get(name) ?? 1) * per_slot, 0);
  const fit = [];
  let room = LOGS;
  for (const [name, count] of slots) {
    if (count * per_slot > room) continue;
    room -= count * per_slot;
    fit.push(name);
  }
  const asked = { unit: units.length ? units : fit, stream };
  const left_out = units.length ? 0 : slots.size - fit.length;
  const too_many = !line && logs(asked.unit) > LOGS;
  const ready = line || (asked.unit.length > 0 && !too_many && (!past || filter));

  // The filter of lines that are here already; of a search, the server's.
  useEffect(() => {
    if (match && !past) lines.current.filter(match);
  }, [filter, past]);

  useEffect(() => {
    const own = lines.current;
    own.clear();
    if (past) own.match = () => true;
    error.value = "";
    state.value = ready ? "loading" : "";
    if (!ready) return undefined;
    let source = null;
    let over = false;
    const abort = new AbortController();
    const load = async () => {
      try {
        const path = line ? `logs/context${api.query({ id: line, before: AROUND, after: AROUND })}`
          : past ? `logs/search${api.query({ ...asked, q: filter, from, to: until, limit: FOUND })}`
          : `logs${api.query({ ...asked, last: FIRST })}`;
        const answer = await api.get(path, { signal: abort.signal });
        if (over) return;
        own.add(answer.lines);
        if (line) chosen.value = own.all.find((each) => each.id === line) ?? null;
        state.value = answer.more && past ? "more" : "";
        error.value = (answer.problems ?? []).map((each) => `${each.unit}: ${each.text}`).join("; ");
        following.value = !line && !past;
        if (!line && !past) follow();
      } catch (problem) {
        if (problem.name === "AbortError") return;
        state.value = "";
        error.value = problem.message;
      }
    };
    const follow = () => {
      if (over || document.hidden || source) return;
      source = new EventSource(api.BASE + "logs/stream" + api.query(asked));
      source.addEventListener("problem", (event) => (error.value = JSON.parse(event.data).text));
      source.addEventListener("line", (event) => own.add([JSON.parse(event.data)].flat()));
      source.onopen = () => (error.value = "");
      source.onerror = () => (error.value = t("logs.broken"));
    };
    const looked = async () => {
      if (document.hidden) {
        source?.close();
        source = null;
      } else if (!line && !past) load(); // what came meanwhile; known lines are not added twice
    };
    load();
    document.addEventListener("visibilitychange", looked);
    return () => {
      over = true;
      abort.abort();
      source?.close();
      cancelAnimationFrame(own.frame);
      own.frame = 0;
      document.removeEventListener("visibilitychange", looked);
    };
  }, [[...asked.unit].sort().join(), stream, line, past, from, until, past ? filter : "", Boolean(ready)]);

  const total = useComputed(() => (lines.current.drawn.value, lines.current.shown.length));
  if (following.value) seen.value = total.value;
  const lost = useComputed(() => {
    let sum = 0;
    for (const row of rows.unit.values()) if (!units.length || units.includes(row.value.unit)) sum += row.value.dropped_lines ?? 0;
    return sum;
  });
  const search = (event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    refine({ q: given.get("q"), from: moment.read(given.get("from")), to: moment.read(given.get("to")), past: "1", line: "" });
  };
  const choose = (each) => (chosen.value = each);
  const may = me.value.role !== "viewer";
  return html`<h1 class="unseen">${t("nav.logs")}</h1>
    <form class="tools" onSubmit=${search} key=${past}>
      <${Units} chosen=${units} />
      <select name="stream" aria-label=${t("logs.stream")} onChange=${(event) => refine({ stream: event.target.value, line: "" })}>
        ${["", "out", "err"].map((each) => html`<option value=${each} selected=${each === stream}>${t(`logs.stream.${each}`)}</option>`)}</select>
      <label class="filter"><span class="unseen">${t(past ? "logs.search" : "filter")}</span><input name="q" data-filter type="search" class=${match ? "" : "bad"} placeholder=${t(past ? "logs.search" : "logs.filter")} value=${filter} onInput=${(event) => past || refine({ q: event.target.value })} /><kbd>/</kbd></label>
      ${past && html`<label>${t("from")}<input name="from" type="datetime-local" step="1" value=${moment.show(from)} /></label>
        <label>${t("to")}<input name="to" type="datetime-local" step="1" value=${moment.show(until)} /></label><button class="primary">${t("logs.search")}</button>`}
      <button type="button" aria-pressed=${past || Boolean(line)} onClick=${() => refine(past || line ? { past: "", from: "", to: "", line: "" } : { past: "1" })}>${t(past || line ? "logs.live" : "logs.history")}</button>
      <span class="mute grow" role="status">${state.value === "loading" ? t("loading") : t("logs.count", { n: total.value })}${state.value === "more" && ` · ${t("logs.more", { n: FOUND })}`}${left_out > 0 && ` · ${t("logs.left_out", { n: left_out })}`}${lost.value > 0 && html` · <span class="warn">${t("foot.lost", { n: lost.value })}</span>`}</span>
    </form>
    ${!may && html`<p class="warn">${t("logs.role")}</p>`}
    ${error.value && html`<p class="error" role="alert">${error}</p>`}
    <div class="frame"><${List} lines=${lines.current} following=${following} words=${words} chosen=${chosen.value?.id} choose=${choose} focus=${line} />
      ${!following.value && !past && !line && html`<button type="button" class="primary follow" onClick=${() => (following.value = true)}>↓ ${t("logs.follow")}${total.value > seen.value ? ` · ${t("logs.new", { n: total.value - seen.value })}` : ""}</button>`}
      ${!total.value && state.value === "" && !error.value && html`<p class="empty over">${too_many ? t("logs.too_many", { n: logs(asked.unit), most: LOGS }) : past && !filter ? t("logs.what") : t(filter ? "filter.none" : "logs.none")}</p>`}</div>
    ${chosen.value && html`<${Chosen} key=${chosen.value.id} line=${chosen.value} words=${words} close=${() => (chosen.value = null)} />`}`;
}
