// The frame around the views, and the way to them: each is loaded when it is asked for, with something to see meanwhile.
import { html, render, signal, useEffect, useRef } from "./h.mjs";
import { get } from "./api.mjs";
import { me, said, trouble, who } from "./store.mjs";
import { enter, logout } from "./session.mjs";
import { LANGUAGES, choose, language, load, t } from "./text.mjs";
import { href, route } from "./route.mjs";
import { style } from "./style.mjs";
import { Live } from "./parts/badge.mjs";
import { doing } from "./parts/command.mjs";
import { listen } from "./parts/keys.mjs";

const load_view = (name) => import(`./views/${name}.mjs`);
// With the rest of the style sheet, which the first view does without.
const styled = async (name) => (await Promise.all([load_view(name), style("views.css")]))[0];
const VIEWS = { "": () => load_view("overview") };
for (const name of ["login", "unit", "logs", "timers", "plan", "reload", "audit"]) VIEWS[name] = () => styled(name);
const NAV = ["", "logs", "timers", "plan", "audit"];
const views = new Map(); // name → signal of {View} or {error}; undefined while it loads

function view_of(name) {
  let found = views.get(name);
  if (!found) {
    views.set(name, (found = signal()));
    VIEWS[name]().then(
      (module) => (found.value = { View: module.default }),
      (error) => (found.value = { error }),
    );
  }
  return found;
}

function Fallback() {
  return html`<div class="loading" role="status"><span>${t("loading")}</span><i></i><i></i><i></i></div>`;
}

// After an upgrade of impetusd the files of this page are others: the whole page has to be loaded anew.
function Broken({ error }) {
  return html`<div class="empty" role="alert"><h1>${t("broken")}</h1><p>${error.message}</p>
    <button type="button" class="primary" onClick=${() => location.reload()}>${t("reload.page")}</button></div>`;
}

function Main() {
  const place = route.value;
  const logged_in = me.value;
  const name = logged_in === null ? "login" : place.view in VIEWS ? place.view : null;
  const main = useRef();
  const first = useRef(true);
  useEffect(() => {
    for (const [other, found] of views) if (other !== name && found.peek()?.error) views.delete(other); // to be tried again
    document.title = `${place.name || t(`nav.${name ?? "lost"}`)} · ${logged_in?.instance?.host ?? "impetusd"}`;
    if (!first.current) main.current.focus({ preventScroll: true });
    first.current = false;
    scrollTo(0, 0);
  }, [name, place.name]);
  if (name === null) return html`<main ref=${main} tabindex="-1" class="empty"><h1>${t("nav.lost")}</h1><p><a href="#/">${t("nav.")}</a></p></main>`;
  const found = view_of(name).value;
  return html`<main ref=${main} id="main" tabindex="-1" class=${`view ${name || "overview"}`}>
    ${!found ? html`<${Fallback} />` : found.error ? html`<${Broken} error=${found.error} />` : html`<${found.View} key=${name + place.name} name=${place.name} />`}
  </main>`;
}

const MODES = ["", "light", "dark"];
const mode = signal(localStorage.getItem("impetusd.mode") ?? "");

function set_mode(chosen) {
  mode.value = chosen;
  localStorage.setItem("impetusd.mode", chosen);
  document.documentElement.dataset.mode = chosen;
}

function Header() {
  const { user, role, instance } = me.value;
  const current = route.value.view;
  return html`<header class="top">
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), document.getElementById("main").focus())}>${t("skip")}</a>
    <a class="brand" href="#/"><svg viewBox="0 0 32 32" width="18" height="18" aria-hidden="true"><path d="M4 19h6l3-10 4 15 3-8h8" /></svg><b>${instance.host}</b></a>
    <nav aria-label=${t("nav")}>${NAV.map((name) => html`<a href=${href(name)} aria-current=${current === name || (name === "" && ["unit", "reload"].includes(current)) ? "page" : null}>${t(`nav.${name}`)}</a>`)}</nav>
    <${Live} />
    <details class="menu"><summary title=${t("menu")}><span class="who">${user}</span></summary>
      <div><p>${user} · ${t(`role.${role}`)}<br /><span class="mute">impetusd ${instance.version} · ${instance.conf}</span></p>
        <label>${t("language")}<select onChange=${(event) => choose(event.target.value)}>${Object.entries(LANGUAGES).map(([code, name]) => html`<option value=${code} selected=${code === language}>${name}</option>`)}</select></label>
        <label>${t("mode")}<select onChange=${(event) => set_mode(event.target.value)}>${MODES.map((each) => html`<option value=${each} selected=${each === mode.value}>${t(`mode.${each}`)}</option>`)}</select></label>
        <button type="button" onClick=${() => doing("keys")}>${t("keys.title")} <kbd>?</kbd></button>
        <button type="button" onClick=${logout}>${t("logout")}</button></div></details>
  </header>`;
}

function App() {
  const logged_in = me.value;
  if (logged_in === undefined) return html`<main class="view"><${Fallback} /></main>`;
  return html`${logged_in && html`<${Header} />`}${trouble.value && html`<p class="trouble" role="alert">${trouble}</p>`}<${Main} />
    <div class="unseen" aria-live="polite">${said}</div>`;
}

// Written as it is: the texts may be what could not be loaded.
function stop(error) {
  const message = document.createElement("p");
  message.className = "boot";
  message.textContent = `impetusd: ${error.message}`;
  const button = document.createElement("button");
  button.textContent = "↻";
  button.onclick = () => location.reload();
  document.getElementById("app").replaceChildren(message, button);
}

const SOON = 100; // milliseconds within which the first drawing waits for the state of all, to be the only one
document.documentElement.dataset.mode = mode.value;
listen();
const asked = who().catch((error) => error);
const snapshot = get("snapshot").catch(() => null); // as `me`, under way since index.html was read
try {
  if (route.peek().view in VIEWS) view_of(route.peek().view);
  await load();
  const answer = await asked;
  if (answer instanceof Error) throw answer;
  const begun = enter(answer, snapshot);
  await Promise.race([begun, new Promise((done) => setTimeout(done, SOON))]);
  document.getElementById("app").replaceChildren();
  render(html`<${App} />`, document.getElementById("app"));
  await begun;
} catch (error) {
  stop(error);
}
