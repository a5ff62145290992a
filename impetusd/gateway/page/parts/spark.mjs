// The last numbers as one line, in one path of its own.
import { html, useComputed } from "../h.mjs";

const WIDTH = 84;
const HEIGHT = 20;
const POINTS = 60;
const LEAST = 10; // percent that the whole height stands for at least: noise at 0.1 % is no mountain

export function path(points, width = WIDTH, height = HEIGHT, most = Math.max(LEAST, ...points)) {
  if (!points.length) return "";
  const flat = points.length === 1; // it has not changed since
  if (flat) points = [points[0], points[0]];
  const step = flat ? width : width / (POINTS - 1);
  const from = width - (points.length - 1) * step;
  let made = "";
  for (const [place, value] of points.entries()) {
    const y = height - 1 - (value / most) * (height - 2);
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
