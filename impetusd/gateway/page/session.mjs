// Logging in and out.
import { on_logout, send } from "./api.mjs";
import { forget } from "./cache.mjs";
import { go, route } from "./route.mjs";
import { begin, leave, me, who } from "./store.mjs";

// After a login, and when the page is opened: who is logged in, and the stream. Nothing, if nobody is.
export async function enter(asked = who(), snapshot = null) {
  if (!(await asked)) return;
  const { view, query } = route.peek();
  if (view === "login" && query.has("code")) return; // its view uses the link, whoever is logged in
  if (view === "login") go("");
  begin(await snapshot);
}

export async function logout() {
  await send("POST", "logout").catch(() => {});
  ended();
}

// The next login may be another user's.
export function ended() {
  leave();
  forget();
  me.value = null;
}

on_logout(ended);
