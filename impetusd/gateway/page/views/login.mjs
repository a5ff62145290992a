// Name and password, or the one-time code of a link, which is used at once and taken out of the address.
import { html, useEffect, useSignal } from "../h.mjs";
import { send } from "../api.mjs";
import { refine, route } from "../route.mjs";
import { ended, enter } from "../session.mjs";
import { t } from "../text.mjs";

export default function Login() {
  const error = useSignal("");
  const busy = useSignal(false);
  const login = async (body) => {
    busy.value = true;
    error.value = "";
    try {
      await send("POST", "login", body);
      ended(); // who was logged in when the link was opened
      await enter();
    } catch (problem) {
      error.value = problem.status === 401 ? t(body.code ? "login.code_refused" : "login.refused") : problem.message;
    }
    busy.value = false;
  };
  const code = route.value.query.get("code"); // also of a link that is opened where this form is shown already
  useEffect(() => {
    if (!code) return;
    refine({ code: null });
    login({ code });
  }, [code]);
  const submit = (event) => {
    event.preventDefault();
    login(Object.fromEntries(new FormData(event.target)));
  };
  return html`<form class="login" onSubmit=${submit}>
    <svg class="mark" viewBox="0 0 32 32" width="40" height="40" aria-hidden="true"><rect width="32" height="32" rx="8" /><path d="M7 19h5l3-10 4 15 3-8h4" /></svg>
    <h1>${t("login.title", { host: location.hostname })}</h1>
    <label>${t("login.user")}<input name="user" autocomplete="username" required autofocus spellcheck="false" autocapitalize="none" /></label>
    <label>${t("login.password")}<input name="password" type="password" autocomplete="current-password" required /></label>
    <p class="error" role="alert">${error}</p>
    <button class="primary" type="submit" disabled=${busy}>${t(busy.value ? "login.busy" : "login")}</button>
    <p class="mute">${t("login.hint")} <code>impetusd passwd</code></p>
  </form>`;
}
