// What the INI file as it is now would change, key by key; and apply, which does exactly that.
import { html, useSignal } from "../h.mjs";
import { revalidate, useAnswer } from "../cache.mjs";
import { act, ask } from "../doing.mjs";
import { me } from "../store.mjs";
import { t } from "../text.mjs";
import { Copy, may } from "../parts/command.mjs";

const SIGNS = { live: "~", reload: "↻", restart: "!", added: "+", removed: "−" };
const TONES = { live: "mute", reload: "good", restart: "warn", added: "good", removed: "bad" };

function Change({ change }) {
  return html`<article class="change"><header><span class=${`sign ${TONES[change.effect] ?? ""}`} aria-hidden="true">${SIGNS[change.effect] ?? "·"}</span>
      <h2>${change.kind}${change.name && html`<b>:${change.name}</b>`}</h2><span class=${TONES[change.effect] ?? ""}>${change.effect}</span><span class="mute">${t(`effect.${change.effect}`)}</span></header>
    ${change.keys.length > 0 && html`<table><tbody>${change.keys.map((key) => html`<tr><th scope="row"><code>${key.key}</code></th>
      <td><del><code>${key.from || t("plan.unset")}</code></del></td><td aria-hidden="true" class="mute">→</td><td><ins><code>${key.to || t("plan.unset")}</code></ins></td></tr>`)}</tbody></table>`}</article>`;
}

export default function Plan() {
  const { data, error, at } = useAnswer("plan", 10);
  const busy = useSignal(false);
  const changes = data?.changes ?? [];
  const problems = data?.problems ?? [];
  const apply = () =>
    ask({
      title: t("plan.ask", { n: changes.length }),
      body: html`<ul>${changes.map((each) => html`<li><b>${each.name || each.kind}</b> <span class=${TONES[each.effect]}>${each.effect}</span></li>`)}</ul>`,
      command: "impetusd apply",
      confirm: t("do.apply"),
      run: async () => {
        busy.value = true;
        await act("apply", "", { token: crypto.getRandomValues(new Uint32Array(2)).join("-") }, "apply");
        busy.value = false;
        revalidate("plan");
      },
    });
  return html`<div class="headline"><h1>${t("nav.plan")}</h1><p class="mute number">${me.value.instance.conf}</p>
      <div class="buttons"><button type="button" class="primary" disabled=${!changes.length || problems.length > 0 || busy.value || !may("apply")} title=${may("apply") ? "impetusd apply" : t("role.needed", { role: "admin" })} onClick=${apply}>${t("do.apply")}…</button>
        <button type="button" onClick=${() => revalidate("plan")}>${t("plan.again")}</button><${Copy} command="impetusd plan" /></div></div>
    ${error && html`<p class="error" role="alert">${error.message}</p>`}
    ${problems.length > 0 && html`<section role="alert"><h2 class="bad">${t("plan.problems", { n: problems.length })}</h2><ul class="sheet problems">${problems.map((each) => html`<li><code>${typeof each === "string" ? each : (each.text ?? JSON.stringify(each))}</code></li>`)}</ul></section>`}
    ${!at && !error ? html`<div class="loading" role="status"><i></i><i></i></div>` : !changes.length && !problems.length && !error ? html`<p class="empty">${t("plan.none")}</p>` : null}
    <div class="changes">${changes.map((each) => html`<${Change} key=${each.kind + each.name} change=${each} />`)}</div>`;
}
