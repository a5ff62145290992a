// One unit: its slots, how they did over time, how processes of it ended, its probes, its environment and its configuration.
import { html, useEffect, useSignal } from "../h.mjs";
import { useAnswer } from "../cache.mjs";
import { ask_past, cards, checks_of, lists, me, now, rows, worst_first } from "../store.mjs";
import { act, ask, silence } from "../doing.mjs";
import { href, refine, route } from "../route.mjs";
import { bytes, clock, percent, span, t, whole } from "../text.mjs";
import { plain } from "../plain.mjs";
import { Probe } from "../parts/badge.mjs";
import { Card } from "../parts/card.mjs";
import { Chart, selected } from "../parts/chart.mjs";
import { Copy, Do, may, typed } from "../parts/command.mjs";
import { ending } from "../parts/record.mjs";
import { Rows } from "../parts/rows.mjs";

const RANGES = { "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800, "60d": 5184000 };
const amount = (value) => (value >= 100 ? Math.round(value) : value >= 10 ? value.toFixed(1) : value.toFixed(value ? 2 : 0)).toString().replace(/\.0+$/, "");
const SERIES = { memory: bytes, cpu: percent, requests: (value) => `${amount(value)}/s`, latency: span_of, lag: span_of, connections: amount };
const MEGABYTES = [1, 2, 5, 10, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384].map((each) => each * 2 ** 20); // of an axis
const POOL = ["requests", "latency", "lag", "connections"]; // of workers only
const SIGNALS = ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "CONT"];
const EXITS = 12;

function span_of(seconds) {
  return seconds >= 1 ? `${amount(seconds)} s` : `${amount(seconds * 1000)} ms`;
}

function Actions({ name, all, pool }) {
  const up = all.some((row) => row.pid != null || row.state === "BACKOFF");
  const scale = () =>
    ask({
      title: t("ask.title", { what: t("do.scale"), name }),
      body: html`<label>${t("scale.to")}<input name="n" type="number" min="0" max="10000" required autofocus value=${all.filter((row) => row.kind === "worker").length} /></label>`,
      command: typed("scale", name, { n: "N" }),
      confirm: t("do.scale"),
      run: ({ n }) => act("scale", name, { n: Number(n) }),
    });
  const signal = () =>
    ask({
      title: t("ask.title", { what: t("do.signal"), name }),
      body: html`<label>${t("signal")}<select name="signal">${SIGNALS.map((each) => html`<option>${each}</option>`)}</select></label>`,
      command: typed("signal", name, { signal: "SIGNAL" }),
      confirm: t("do.signal"),
      run: (given) => act("signal", name, { signal: given.signal }),
    });
  return html`<div class="buttons">
    ${up ? html`<a class="button primary" href=${href("reload", name)}>${t("do.reload")}…</a>` : html`<${Do} primary method="start" name=${name} />`}
    <${Do} method="restart" name=${name} />${up && html`<${Do} method="stop" name=${name} />`}
    ${pool && html`<button type="button" disabled=${!may("scale")} title=${typed("scale", name, { n: "N" })} onClick=${scale}>${t("do.scale")}…</button>`}
    <button type="button" disabled=${!may("signal")} title=${typed("signal", name, { signal: "SIGNAL" })} onClick=${signal}>${t("do.signal")}…</button>
    <${Do} method=${all.length ? "disable" : "enable"} name=${name} />
    <a class="button" href=${href("logs", "", { unit: name })}>${t("nav.logs")}</a>
    <button type="button" onClick=${() => silence(name)}>${t("silence.do")}…</button></div>`;
}

function Charts({ name, pool, ceiling }) {
  const query = route.value.query;
  const range = query.get("range") ?? "6h";
  const given = query.get("from") && [Number(query.get("from")), Number(query.get("to"))];
  const length = RANGES[range] ?? RANGES["6h"];
  const step = length > 172800 ? 900 : 60;
  const until = useSignal(Math.ceil(now.peek() / step) * step);
  useEffect(() => {
    const timer = setInterval(() => (until.value = Math.ceil(now.peek() / step) * step), 15000);
    until.value = Math.ceil(now.peek() / step) * step;
    selected.value = null;
    return () => clearInterval(timer);
  }, [step, name]);
  const [from, to] = given || [until.value - length, until.value];
  const wanted = Object.keys(SERIES).filter((each) => pool || !POOL.includes(each));
  const path = me.value.history ? `history?unit=${encodeURIComponent(name)}&series=${wanted}&from=${from}&to=${to}` : null;
  const { data, error } = useAnswer(path);
  const shown = useSignal(null);
  if (data) shown.value = { data, range: [from, to] };
  if (!path) return null;
  const known = shown.value;
  const drawn = wanted.filter((each) => Object.keys(known?.data.series?.[each] ?? {}).length);
  const window = selected.value;
  const query_of = window && { unit: name, from: window[0], to: window[1] };
  return html`<section aria-labelledby="charts"><header><h2 id="charts">${t("unit.charts")}</h2>
      ${window ? html`<div class="buttons window" role="status"><b class="number">${clock(window[0])} – ${clock(window[1])}</b>
          <button type="button" class="primary" onClick=${() => (refine({ from: window[0], to: window[1] }), (selected.value = null))}>${t("chart.zoom")}</button>
          <a class="button" href=${href("logs", "", query_of)}>${t("nav.logs")}</a><a class="button" href=${href("audit", "", query_of)}>${t("nav.audit")}</a>
          <button type="button" class="quiet" onClick=${() => (selected.value = null)}>✕</button></div>`
        : html`<span class="mute grow hint">${t("chart.hint")}</span>`}
      <div class="segments" role="group" aria-label=${t("chart.range")}>${Object.keys(RANGES).map((each) => html`<button type="button" aria-pressed=${!given && each === range} onClick=${() => refine({ range: each, from: "", to: "" })}>${each}</button>`)}</div></header>
    ${error && html`<p class="error">${error.message}</p>`}
    ${!known ? html`<div class="loading" role="status"><i></i><i></i></div>`
      : !drawn.length ? html`<p class="none">${t("unit.no_history")}</p>`
      : html`<div class="charts">${drawn.map((each) => html`<${Chart} key=${each} title=${t(`series.${each}`)} series=${known.data.series[each]} show=${SERIES[each]}
          marks=${known.data.marks} ceiling=${each === "memory" ? ceiling : null} increments=${each === "memory" ? MEGABYTES : null} range=${known.range} />`)}</div>`}
  </section>`;
}

function Exits({ name }) {
  const { data, error } = useAnswer(`events?last=200&unit=${encodeURIComponent(name)}`, 10);
  const records = data?.events ?? [];
  const exits = records.filter((record) => record.kind === "exit").slice(-EXITS).reverse();
  const words = (exit) => records.find((record) => record.kind === "stderr" && record.slot === exit.slot && record.pid === exit.pid && record.at >= exit.at - 1)?.lines ?? [];
  return html`<section aria-labelledby="exits"><header><h2 id="exits">${t("unit.exits")} <span class="count">${exits.length || ""}</span></h2></header>
    ${error && html`<p class="error">${error.message}</p>`}
    ${exits.length ? html`<ul class="sheet">${exits.map((exit) => html`<li key=${exit.n}><details open=${exit === exits[0] && words(exit).length > 0}><summary>
        <time title=${whole(exit.at)}>${clock(exit.at)}</time><b>${exit.slot}</b><span class=${exit.asked ? "" : "bad"}>${ending(exit)}</span>
        <span class="mute">${exit.ran_s != null && t("rec.after", { span: span(exit.ran_s) })}${exit.max_rss ? ` · ${bytes(exit.max_rss)}` : ""}</span><span class="mute grow">${exit.asked ? t("rec.asked") : exit.decision}</span>${exit.rule && html`<code>${exit.rule}</code>`}</summary>
        ${words(exit).length > 0 ? html`<pre class="words" tabindex="0" aria-label=${t("stderr")}>${words(exit).map((line) => `${plain(line)}\n`)}</pre>` : html`<p class="mute">${t("unit.no_words")}</p>`}</details></li>`)}</ul>`
      : html`<p class="none">${t("unit.no_exits")}</p>`}</section>`;
}

function Probes({ name, all }) {
  const found = new Map();
  for (const row of all) for (const check of checks_of(row)) found.set(`${check.name} ${check.target}`, check);
  if (!found.size) return null;
  return html`<section aria-labelledby="probes"><header><h2 id="probes">${t("unit.probes")}</h2></header>
    <div class="scroll" tabindex="0" role="group"><table class="sheet"><thead><tr>${["probe", "what", "target", "interval", "failures", "action"].map((each) => html`<th scope="col">${t(`column.${each}`)}</th>`)}</tr></thead>
    <tbody>${[...found.values()].map((check) => html`<tr><td><${Probe} checks=${[check]} /></td><td><code>${check.what}</code>${check.reason && html`<br /><small>${check.reason}</small>`}</td><td>${check.target}</td>
      <td class="number">${span(check.interval_s)}</td><td class="number">${check.failures} / ${check.threshold}</td><td>${check.action}</td></tr>`)}</tbody></table></div></section>`;
}

function Environment({ name }) {
  const open = useSignal(false);
  const allowed = me.value.role === "admin";
  const { data, error } = useAnswer(open.value ? `units/${encodeURIComponent(name)}/env` : null);
  const slot = data?.slots?.[0];
  return html`<section aria-labelledby="env"><header><h2 id="env">${t("unit.env")}</h2><${Copy} command=${`impetusd env ${name}`} /></header>
    ${!allowed ? html`<p class="none">${t("role.needed", { role: "admin" })}</p>`
      : !open.value ? html`<button type="button" onClick=${() => (open.value = true)}>${t("unit.env.show")}</button>`
      : error ? html`<p class="error">${error.message}</p>`
      : slot && html`<p class="mute">${t("unit.env.of", { slot: slot.name, pid: slot.pid })}</p>${slot.unknown ? html`<p class="none">${slot.unknown}</p>`
        : html`<table class="sheet stack"><tbody>${(slot.variables ?? []).map(({ name: key, value }) => html`<tr><th scope="row"><code>${key}</code></th><td><code>${value}</code></td></tr>`)}</tbody></table>`}`}</section>`;
}

function Configuration({ data }) {
  const all = useSignal(false);
  const config = data?.config ?? [];
  const own = config.some((each) => each.origin !== config[0].origin); // each key has an origin of its own, and not its section's
  const is_set = (each) => [each.value].flat().join("") !== "" && (!own || (each.origin && each.origin !== "default"));
  const shown = config.filter((each) => all.value || is_set(each));
  return html`<section aria-labelledby="config"><header><h2 id="config">${t("unit.config")} <span class="count">${data?.profile ? t("unit.profile", { name: data.profile }) : ""}</span></h2>
      <label><input type="checkbox" checked=${all.value} onChange=${(event) => (all.value = event.target.checked)} />${t("unit.config.all", { n: config.length })}</label></header>
    ${shown.length ? html`<table class="sheet stack"><tbody>${shown.map((each) => html`<tr key=${each.key} class=${is_set(each) ? "" : "mute"}><th scope="row"><code>${each.key}</code></th><td><code>${[each.value].flat().join(", ")}</code></td><td class="mute number" title=${each.origin}>${is_set(each) ? each.origin.split("/").at(-1) : t("unit.default")}</td></tr>`)}</tbody></table>`
      : html`<p class="none">${t("unit.config.none")}</p>`}</section>`;
}

export default function Unit({ name }) {
  lists.unit.value;
  const known = lists.daemon.value > 0 && rows.daemon.size > 0; // once the snapshot is there: before, the buttons would be others
  const slots = worst_first.value.filter((key) => rows.unit.get(key)?.peek().unit === name);
  const all = slots.map((key) => rows.unit.get(key).peek());
  const pool = all.some((row) => ["worker", "template"].includes(row.kind));
  const { data, error } = useAnswer(`units/${encodeURIComponent(name)}`);
  useEffect(() => void ask_past(`&unit=${encodeURIComponent(name)}`), [name]);
  const own = cards.value.filter((each) => each.units.some((slot) => slot.split(":")[0] === name));
  const limits = all.map((row) => row.memory_limit_bytes).filter(Boolean);
  if (!all.length && error?.status === 404) return html`<div class="empty"><h1>${name}</h1><p>${error.message}</p><p><a href="#/">${t("nav.")}</a></p></div>`;
  return html`<div class="headline"><h1>${name}</h1><p class="mute">${known && t(pool ? "unit.pool" : "unit.program")}${data?.units?.[0]?.where ? html` · <span class="number">${data.units[0].where}</span>` : ""}</p>${known && html`<${Actions} name=${name} all=${all} pool=${pool} />`}</div>
    ${own.length > 0 && html`<div class="cards">${own.map((each) => html`<${Card} key=${each.id} incident=${each} />`)}</div>`}
    ${slots.length > 0 && html`<section aria-labelledby="slots"><h2 id="slots" class="unseen">${t("unit.slots")}</h2><${Rows} slots=${slots} label="slots" /></section>`}
    <${Charts} name=${name} pool=${pool} ceiling=${limits.length ? Math.max(...limits) : null} />
    <${Exits} name=${name} /><${Probes} name=${name} all=${all} />
    <div class="pair"><${Configuration} data=${data} /><${Environment} key=${name} name=${name} /></div>`;
}
