// How the commands that were given here go on: in the corner, until they are dismissed.
import { html } from "../h.mjs";
import { deeds, dismiss } from "../deeds.mjs";
import { span, t } from "../text.mjs";
import { Copy } from "./command.mjs";

export function Deeds() {
  if (!deeds.value.length) return null;
  return html`<section class="deeds" aria-label=${t("deeds")} aria-live="polite">
    ${deeds.value.map((each) => html`<article key=${each.id} class=${each.state}>
      <header><strong>${t(`deed.${each.state}`)}</strong>
        ${each.took != null && html`<span class="mute">${span(each.took)}</span>`}
        <button type="button" class="quiet" aria-label=${t("close")} onClick=${() => dismiss(each.id)}>✕</button></header>
      <${Copy} command=${each.command} />
      ${each.lines.length > 0 && html`<ul>${each.lines.map((line) => html`<li key=${line.name}>
        <b>${line.name}</b> ${line.state} <span class="mute">${line.reason}</span></li>`)}</ul>`}
      ${each.error && html`<p class="error">${each.error}</p>`}
    </article>`)}
  </section>`;
}
