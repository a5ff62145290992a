// What a unit uses: memory against its ceiling as a bar, and the last numbers as a line.
import { html, useComputed } from "../h.mjs";
import { bytes } from "../text.mjs";

const WIDTH = 84;
const HEIGHT = 20;
const POINTS = 60;
const LEAST = 10; // percent that the whole height stands for at least: noise at 0.1 % is no mountain

export function Memory({ usage, limit }) {
  const text = useComputed(() => bytes(usage.value.memory));
  const width = useComputed(() => Math.min(100, ((usage.value.memory ?? 0) / (limit || 1)) * 100).toFixed(1));
  const tone = useComputed(() => (width.value > 95 ? "bar bad" : width.value > 80 ? "bar warn" : "bar"));
  if (!limit) return html`<span class="memory"><span class="number">${text}</span></span>`;
  return html`<span class="memory" title=${`/ ${bytes(limit)}`}>
    <span class="number">${text}</span>
    <svg class=${tone} viewBox="0 0 100 4" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="4" /><rect class="fill" width=${width} height="4" /></svg>
    <span class="of">${bytes(limit)}</span></span>`;
}

function path(points) {
  if (!points.length) return "";
  const most = Math.max(LEAST, ...points);
  const flat = points.length === 1; // it has not changed since
  if (flat) points = [points[0], points[0]];
  const step = flat ? WIDTH : WIDTH / (POINTS - 1);
  const from = WIDTH - (points.length - 1) * step;
  let made = "";
  for (const [place, value] of points.entries()) {
    const y = HEIGHT - 1 - (value / most) * (HEIGHT - 2);
    made += `${place ? "L" : "M"}${(from + place * step).toFixed(1)} ${y.toFixed(1)}`;
  }
  return made;
}

// `usage`: the signal of a slot. The path is bound to it: a new number redraws this attribute alone.
export function Spark({ usage }) {
  const line = useComputed(() => path(usage.value.points));
  return html`<svg class="spark" viewBox="0 0 ${WIDTH} ${HEIGHT}" width=${WIDTH} height=${HEIGHT} preserveAspectRatio="none" aria-hidden="true">
    <path d=${line} /></svg>`;
}
