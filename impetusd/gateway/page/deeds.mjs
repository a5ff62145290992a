// The commands that were given here, and how they go on.
import { signal } from "./h.mjs";
import { command, Problem, send } from "./api.mjs";
import { t } from "./text.mjs";
import { typed } from "./parts/command.mjs";

const KEPT = 5; // of those that are over

export const deeds = signal([]); // {id, title, command, state: running | done | failed, lines, began, took}
let count = 0;

const update = (id, change) => {
  deeds.value = deeds.peek().map((each) => (each.id === id ? { ...each, ...change(each) } : each));
};

// Give a command, and show how it goes on; returns its result, or undefined if it has failed (which is shown).
export async function act(method, name, params = {}, path = `units/${encodeURIComponent(name)}/${method}`) {
  const id = (count += 1);
  const began = performance.now();
  const over = deeds.peek().filter((each) => each.state !== "running").slice(-KEPT + 1);
  const going = deeds.peek().filter((each) => each.state === "running");
  const made = { id, method, name, command: typed(method, name, params), state: "running", lines: [], began };
  deeds.value = [...over, ...going, made];
  const states = new Map();
  try {
    const given = Object.fromEntries(Object.entries(params).filter(([, value]) => value != null));
    const result = await command(path, given, (said) => {
      states.set(said.name ?? "", said);
      update(id, () => ({ lines: [...states.values()].slice(-12) }));
    });
    const failed = result?.ok === false;
    const why = failed ? explained(result) : "";
    update(id, () => ({ state: failed ? "failed" : "done", error: why, result, took: (performance.now() - began) / 1000 }));
    return result;
  } catch (error) {
    const text = error instanceof Problem ? error.message : t("deed.broken", { why: error.message });
    update(id, () => ({ state: "failed", error: text, took: (performance.now() - began) / 1000 }));
    return undefined;
  }
}

function explained(result) {
  const reload = result.reloads?.find((each) => !each.ok);
  const unit = result.units?.find((row) => row.reason);
  return reload?.reason || unit?.reason || t("deed.not_all");
}

// Short ones, without progress.
export async function ask(method, path, body, title) {
  const id = (count += 1);
  try {
    await send(method, path, body);
    return true;
  } catch (error) {
    deeds.value = [...deeds.peek().slice(-KEPT), { id, command: title, state: "failed", lines: [], error: error.message }];
    return false;
  }
}

export const dismiss = (id) => {
  deeds.value = deeds.peek().filter((each) => each.id !== id);
};
