// Alerts are silenced for a while, with a reason.
import { html } from "../h.mjs";
import { ask as request } from "../deeds.mjs";
import { revalidate } from "../cache.mjs";
import { t } from "../text.mjs";
import { ask } from "./dialog.mjs";

const TIMES = { "30m": 1800, "1h": 3600, "4h": 14400, "1d": 86400 }; // seconds

export function silence(name) {
  ask({
    title: t("silence.title", { name: name || t("foot.all") }),
    body: html`<label>${t("silence.for")}<select name="for">${Object.keys(TIMES).map((each) => html`<option selected=${each === "1h"}>${each}</option>`)}</select></label>
      <label>${t("silence.why")}<input name="why" required maxlength="200" autofocus /></label>`,
    command: `impetusd silence ${name ? `${name} ` : ""}1h --why …`,
    confirm: t("silence.do"),
    run: async (given) => {
      await request("POST", "silences", { name, for: TIMES[given.for], why: given.why }, `impetusd silence ${name}`);
      revalidate("alerts");
    },
  });
}

export async function end(id) {
  await request("DELETE", `silences/${encodeURIComponent(id)}`, {}, "impetusd silence --end");
  revalidate("alerts");
}
