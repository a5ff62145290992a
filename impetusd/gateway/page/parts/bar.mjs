// Memory against its ceiling.
import { html, useComputed } from "../h.mjs";
import { bytes } from "../text.mjs";

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
