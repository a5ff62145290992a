// The ledger: what happened, and who asked for it, as the kernel says.
import { html, useComputed } from "../h.mjs";
import { useAnswer } from "../cache.mjs";
import { records, unit_names } from "../store.mjs";
import { href, refine, route } from "../route.mjs";
import { clock, t, whole } from "../text.mjs";
import { plain } from "../plain.mjs";
import { moment } from "../parts/moment.mjs";
import { sentence, subject, who } from "../parts/record.mjs";

const KINDS = ["command", "exit", "start", "reload", "config", "rule", "health", "timer", "daemon", "hold", "lost"];
const QUIET = ["ready", "stderr", "gone"]; // shown with what they belong to
const LAST = 500;

export default function Audit() {
  const query = route.value.query;
  const [unit, kind, from, until] = ["unit", "kind", "from", "to"].map((key) => query.get(key) ?? "");
  const words = (query.get("q") ?? "").toLowerCase();
  const { data, error, at } = useAnswer(`events?last=${LAST}${unit ? `&unit=${encodeURIComponent(unit)}` : ""}`);
  const late = useComputed(() => records.value);
  const known = data?.events ?? [];
  const n = known.at(-1)?.n ?? 0;
  const fits = (record) => !unit || [record.unit, record.slot?.split(":")[0], ...(record.names ?? [])].includes(unit);
  const all = [...known, ...late.value.filter((record) => record.n > n && at && fits(record))];
  const shown = all
    .filter((record) => (kind ? record.kind === kind : !QUIET.includes(record.kind)) && (!from || record.at >= from) && (!until || record.at <= until))
    .filter((record) => !words || `${subject(record)} ${sentence(record)} ${who(record)?.user ?? ""}`.toLowerCase().includes(words))
    .reverse();
  return html`<div class="headline"><h1>${t("nav.audit")}</h1><p class="mute">${t("audit.about")}</p></div>
    <form class="tools" onSubmit=${(event) => event.preventDefault()}>
      <label class="filter"><span class="unseen">${t("filter")}</span><input data-filter type="search" placeholder=${t("filter")} value=${query.get("q") ?? ""} onInput=${(event) => refine({ q: event.target.value })} /><kbd>/</kbd></label>
      <select aria-label=${t("audit.kind")} onChange=${(event) => refine({ kind: event.target.value })}><option value="">${t("audit.all")}</option>${KINDS.map((each) => html`<option value=${each} selected=${each === kind}>${t(`kind.${each}`)}</option>`)}</select>
      <select aria-label=${t("column.name")} onChange=${(event) => refine({ unit: event.target.value })}><option value="">${t("logs.all")}</option>${unit_names.value.map((each) => html`<option selected=${each === unit}>${each}</option>`)}</select>
      <label>${t("from")}<input type="datetime-local" step="1" value=${moment.show(from)} onChange=${(event) => refine({ from: moment.read(event.target.value) })} /></label>
      <label>${t("to")}<input type="datetime-local" step="1" value=${moment.show(until)} onChange=${(event) => refine({ to: moment.read(event.target.value) })} /></label>
      <span class="mute grow" role="status">${t("audit.count", { n: shown.length })}</span></form>
    ${error && html`<p class="error" role="alert">${error.message}</p>`}
    ${shown.length ? html`<div class="scroll" tabindex="0" role="group"><table class="sheet audit"><thead><tr>${["at", "kind", "name", "what", "who"].map((each) => html`<th scope="col">${t(`column.${each}`)}</th>`)}</tr></thead>
      <tbody>${shown.map((record) => {
        const by = who(record);
        const bad = record.outcome === "refused" || record.outcome === "failed" || (record.kind === "exit" && !record.asked) || record.ok === false;
        return html`<tr key=${record.n}><td class="number" title=${whole(record.at)}>${clock(record.at)}</td><td><span class=${`tag ${record.kind}`}>${t(`kind.${record.kind}`)}</span></td>
          <td>${record.unit ? html`<a data-walk href=${href("unit", record.unit)}>${subject(record)}</a>` : subject(record)}</td><td class=${bad ? "bad" : ""}>${plain(sentence(record))}</td>
          <td>${by && html`<b>${by.user}</b> <small>${by.role}${by.how && ` · ${by.how}`}</small>`}</td></tr>`;
      })}</tbody></table></div>` : at ? html`<p class="empty">${t("filter.none")}</p>` : html`<div class="loading" role="status"><i></i><i></i></div>`}`;
}
