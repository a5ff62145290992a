// A new version of a unit takes over: the canary beside the old one, in numbers, and the way back while there is one.
import { html, useComputed, useRef, useSignal } from "../h.mjs";
import { deeds } from "../deeds.mjs";
import { act } from "../doing.mjs";
import { useAnswer } from "../cache.mjs";
import { lists, now, rows, since, usage_of, worst_first } from "../store.mjs";
import { href } from "../route.mjs";
import { brief, bytes, percent, t } from "../text.mjs";
import { plain } from "../plain.mjs";
import { shape, State } from "../parts/badge.mjs";
import { Copy, Do, may, typed } from "../parts/command.mjs";

const PHASES = ["loading", "first", "watch", "rolling", "parking", "ending", "done"];
const REVERSIBLE = ["loading", "first", "watch", "rolling", "parking"];

const ASKED = 2; // seconds between two questions for what was answered

// {requests, errors} of all of them, since they were seen first here: the old ones have served for long.
const sum = (all) => all.reduce((one, { requests, errors }) => ({ requests: one.requests + requests, errors: one.errors + errors }), { requests: 0, errors: 0 });

const shared = ({ requests, errors }) => `${errors}${requests ? ` (${percent((errors / requests) * 100)})` : ""}`;

function Slot({ row, answered }) {
  const usage = usage_of(row.name);
  const memory = useComputed(() => bytes(usage.value.memory));
  const cpu = useComputed(() => percent(usage.value.cpu));
  const bad = answered?.errors ? "number error" : "number";
  return html`<tr><th scope="row">${row.name}</th><td><${State} row=${row} /></td><td class="number">${brief(Math.max(0, now.value - (since(row) ?? now.value)))}</td>
    <td class="number">${memory}</td><td class="number">${cpu}</td><td class="number">${answered?.requests ?? "–"}</td><td class=${bad}>${answered ? shared(answered) : "–"}</td><td class="number">${answered?.latency_s == null ? "–" : `${(answered.latency_s * 1000).toFixed(1)} ms`}</td><td class="number">${row.restarts}</td></tr>`;
}

function Generation({ title, all, answers }) {
  const known = all.map((row) => answers.get(row.name)).filter(Boolean);
  return html`<section><header><h2>${title} <span class="count">${all.length}</span></h2>${known.length > 0 && html`<span class="mute">${t("reload.answered", { n: sum(known).requests, errors: shared(sum(known)) })}</span>`}</header>
    ${all.length ? html`<div class="scroll" tabindex="0" role="group"><table class="sheet"><thead><tr>${["name", "state", "since", "memory", "cpu", "requests", "errors", "latency", "restarts"].map((each) => html`<th scope="col">${t(`column.${each}`)}</th>`)}</tr></thead>
      <tbody>${all.map((row) => html`<${Slot} key=${row.name} row=${row} answered=${answers.get(row.name)} />`)}</tbody></table></div>` : html`<p class="none">${t("reload.nothing")}</p>`}</section>`;
}

export default function Reload({ name }) {
  lists.unit.value;
  lists.reload.value;
  lists.daemon.value;
  const canaries = useSignal(1);
  const watch = useSignal("");
  const all = worst_first.value.map((key) => rows.unit.get(key)?.value).filter((row) => row?.unit === name && row.kind !== "template");
  const reload = rows.reload.get(name)?.value;
  const phase = reload?.phase;
  const under_way = phase && !["done", "failed"].includes(phase);
  const generations = [...new Set(all.map((row) => row.generation ?? 0))].sort((a, b) => b - a);
  const fresh = under_way && generations.length > 1 ? all.filter((row) => row.generation === generations[0]) : [];
  const old = all.filter((row) => !fresh.includes(row));
  const { data } = useAnswer(`units/${encodeURIComponent(name)}`, ASKED);
  const first = useRef(new Map()); // slot and pid → what it had answered when it was seen first
  const answers = new Map();
  for (const { name: slot, pid, answered } of data?.units ?? []) {
    if (!answered) continue;
    const key = `${slot} ${pid}`;
    const before = first.current.get(key) ?? (fresh.some((row) => row.pid === pid) ? { requests: 0, errors: 0 } : answered);
    first.current.set(key, before);
    answers.set(slot, { ...answered, requests: answered.requests - before.requests, errors: answered.errors - before.errors });
  }
  const noticed = [...rows.daemon.values()].flatMap((each) => each.value.notices ?? []).find((each) => each.key === "being_watched" && each.facts?.unit === name);
  const mine = deeds.value.find((each) => each.method === "reload" && each.name === name && each.state === "running");
  const params = { canaries: Number(canaries.value) || 0, watch: watch.value === "" ? null : Number(watch.value) };
  const begin = (event) => {
    event.preventDefault();
    act("reload", name, params);
  };
  return html`<div class="headline"><h1>${t("reload.title", { name })}</h1><p><a href=${href("unit", name)}>${t("reload.back")}</a></p></div>
    <ol class="phases" aria-label=${t("reload.phases")}>${PHASES.map((each) => {
      const place = PHASES.indexOf(phase);
      const own = PHASES.indexOf(each);
      const state = phase === "done" || own < place ? "passed" : own === place ? "current" : "";
      return html`<li class=${state} aria-current=${state === "current" ? "step" : null}>${shape(state === "passed" ? "healthy" : state === "current" ? "STARTING" : "STOPPED", state === "passed" ? "good" : state === "current" ? "busy" : "mute")}${t(`phase.${each}`)}</li>`;
    })}</ol>
    ${["back", "failed"].includes(phase) && html`<div class="card bad" role="alert"><p class="cause">${t(`phase.${phase}`)}: ${reload.reason}</p>${reload.lines?.length > 0 && html`<pre class="words" tabindex="0" aria-label=${t("stderr")}>${reload.lines.map((line) => `${plain(line)}\n`)}</pre>`}</div>`}
    ${under_way || mine ? html`<div class="buttons"><${Do} method="cancel" name=${name} />
        <span class="mute">${noticed ? t("reload.left", { left: brief(noticed.facts.left_s) }) : REVERSIBLE.includes(phase) ? t("reload.reversible") : t("reload.forward")}</span><${Copy} command=${typed("cancel", name)} /></div>`
      : html`<form class="tools" onSubmit=${begin}><label>${t("reload.canaries")}<input type="number" min="0" max="1000" value=${canaries} onInput=${(event) => (canaries.value = event.target.value)} /></label>
        <label>${t("reload.watch")}<input type="number" min="0" max="604800" placeholder=${t("reload.configured")} value=${watch} onInput=${(event) => (watch.value = event.target.value)} /></label>
        <button class="primary" disabled=${!may("reload")}>${t("do.reload")}</button><${Copy} command=${typed("reload", name, params)} /></form>`}
    ${under_way && html`<${Generation} title=${t("reload.new")} all=${fresh} answers=${answers} />`}
    <${Generation} title=${t(under_way ? "reload.old" : "reload.serving")} all=${old} answers=${answers} />
    ${phase === "done" && html`<p class="mute">${t("reload.done", { n: reload.generation, took: (reload.took_s ?? 0).toFixed(2) })}${reload.cut ? ` ${t("reload.cut", { n: reload.cut })}` : ""}</p>`}`;
}
