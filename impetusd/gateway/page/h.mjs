// What every view is made with.
import { h } from "./vendor/preact.mjs";
import htm from "./vendor/htm.mjs";

export const html = htm.bind(h);
export { Fragment, render } from "./vendor/preact.mjs";
export { useEffect, useMemo, useRef } from "./vendor/hooks.mjs";
export { batch, computed, effect, signal, useComputed, useSignal, useSignalEffect } from "./vendor/signals.mjs";
