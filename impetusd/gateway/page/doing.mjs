// What happens when a button is pressed: questions, commands and how they go on. Loaded with the first press, it is drawn beside the views.
import { html, render } from "./h.mjs";
import { act } from "./deeds.mjs";
import { t } from "./text.mjs";
import { style } from "./style.mjs";
import { typed } from "./parts/command.mjs";
import { Deeds } from "./parts/deeds.mjs";
import { Dialog, ask } from "./parts/dialog.mjs";
import { end, silence } from "./parts/silence.mjs";

const CONFIRMED = ["stop", "restart", "disable"];
const KEYS = ["/", "j k", "Enter", "g o", "g l", "g t", "g p", "g a", "Esc", "?"];

// Asks first where something that serves would go, and shows the command.
export function give(method, name, params) {
  if (!CONFIRMED.includes(method)) return act(method, name, params);
  return ask({
    title: t("ask.title", { what: t(`do.${method}`), name }),
    body: html`<p>${t(`ask.${method}`, { name })}</p>`,
    command: typed(method, name, params),
    confirm: t(`do.${method}`),
    tone: method === "restart" ? "" : "danger",
    run: () => act(method, name, params),
  });
}

export function keys() {
  ask({
    title: t("keys.title"),
    body: html`<dl class="keys">${KEYS.map((key) => html`<div><dt>${key.split(" ").map((each) => html`<kbd>${each}</kbd>`)}</dt><dd>${t(`keys.${key}`)}</dd></div>`)}</dl>
      <p class="mute">${t("keys.commands")}</p>`,
  });
}

export { act, ask, end, silence };

await style("views.css");
const place = document.createElement("div");
document.body.append(place);
render(html`<${Deeds} /><${Dialog} />`, place);
