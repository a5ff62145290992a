// Texts by key from LANGUAGE.json, and how numbers, lengths of time and instants are written.

export const LANGUAGES = { en: "English", pt: "Português" };
const SIZES = ["B", "kB", "MB", "GB", "TB"];
const SPANS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

let texts = {};
let plural;
let clocks;
export let language = "en";

function chosen() {
  const asked = localStorage.getItem("impetusd.language");
  if (asked in LANGUAGES) return asked;
  return navigator.languages.map((each) => each.slice(0, 2)).find((each) => each in LANGUAGES) ?? "en";
}

export async function load() {
  language = chosen();
  const answer = await fetch(new URL(`./${language}.json`, import.meta.url));
  if (!answer.ok) throw new Error(`${language}.json: ${answer.status}`);
  texts = await answer.json();
  plural = new Intl.PluralRules(language);
  const time = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  clocks = {
    time: new Intl.DateTimeFormat(language, { ...time, second: "2-digit" }),
    short: new Intl.DateTimeFormat(language, time),
    date: new Intl.DateTimeFormat(language, { ...time, day: "numeric", month: "short" }),
    whole: new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" }),
  };
  document.documentElement.lang = language;
}

export function choose(code) {
  localStorage.setItem("impetusd.language", code);
  location.reload();
}

// The text of `key`, with {name} replaced; of one with a count, `key.one` or `key.other`, by the language's rule for `n`.
export function t(key, values = {}) {
  const text = texts[key] ?? texts[`${key}.${plural.select(values.n)}`] ?? texts[`${key}.other`] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export function bytes(value) {
  if (value == null) return "–";
  let place = 0;
  while (value >= 1000 && place < SIZES.length - 1) {
    value /= 1024;
    place += 1;
  }
  return `${value >= 10 || !place ? Math.round(value) : value.toFixed(1)} ${SIZES[place]}`;
}

export const percent = (value) => (value == null ? "–" : `${value >= 10 || !value ? Math.round(value) : value.toFixed(1)} %`);

// In its two greatest units, as the command line writes it.
export function span(seconds) {
  if (seconds == null) return "–";
  if (seconds > 0 && seconds < 1) return `${Math.max(1, Math.floor(seconds * 1000))} ms`;
  const whole = Math.floor(seconds);
  for (const [place, [size, unit]] of SPANS.entries()) {
    if (whole >= size) {
      const more = size > 1 ? Math.floor((whole % size) / SPANS[place + 1][0]) : 0;
      return `${Math.floor(whole / size)} ${unit}${more ? ` ${more} ${SPANS[place + 1][1]}` : ""}`;
    }
  }
  return "0 s";
}

// The greatest unit alone, for columns.
export const brief = (seconds) => (seconds == null ? "–" : span(seconds).split(" ").slice(0, 2).join(" "));

export const instant = (at) => (typeof at === "string" ? Date.parse(at) / 1000 : at);
const is_today = (date) => date.toDateString() === new Date().toDateString();

// 22:04:11; with the date in place of the seconds if that is not today's.
export function clock(at, short = false) {
  const date = new Date(instant(at) * 1000);
  return (is_today(date) ? (short ? clocks.short : clocks.time) : clocks.date).format(date);
}

// 22:04, whatever the day.
export const hour = (at) => clocks.short.format(new Date(at * 1000));

export const whole = (at) => clocks.whole.format(new Date(instant(at) * 1000));
