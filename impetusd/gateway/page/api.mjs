// Requests to /api/v1: JSON, newline-delimited JSON while a command goes on, and problems as exceptions.

export class Problem extends Error {
  constructor(status, detail, title = "") {
    super(detail || title || `HTTP ${status}`);
    this.status = status;
  }
}

export const BASE = "api/v1/";
let logged_out = () => {};

// `call` is called when an answer says that nobody is logged in (any more).
export function on_logout(call) {
  logged_out = call;
}

async function problem(answer) {
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) logged_out();
  return new Problem(answer.status, body.detail, body.title);
}

export async function request(path, options = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, error.message);
  }
  if (!answer.ok && answer.status !== 304) throw await problem(answer);
  return answer;
}

export const get = async (path, options) => (await request(path, options)).json();

export const send = (method, path, body = {}) =>
  request(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });

// A command: `progress` gets each notification; returns its result. Problem, if it was refused or has failed.
export async function command(path, body, progress = () => {}) {
  const answer = await send("POST", path, body);
  let rest = "";
  let result;
  const take = (line) => {
    if (!line.trim()) return;
    const said = JSON.parse(line);
    if (said.error) throw new Problem(422, said.error.text);
    if (said.progress) progress(said.progress);
    if ("result" in said) result = said.result;
  };
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    lines.forEach(take);
  }
  take(rest);
  return result;
}

export const query = (values) => {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const each of [value].flat()) if (each !== "" && each != null) made.append(name, each);
  }
  const text = made.toString();
  return text ? `?${text}` : "";
};
