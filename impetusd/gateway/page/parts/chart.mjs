// Charts over time by uPlot, which is loaded with the first of them: lines by slot, marks, a ceiling; a drag selects a window.
import { html, signal, useEffect, useRef, useSignal } from "../h.mjs";
import { clock, t } from "../text.mjs";

const PALETTE = 8;
const HEIGHT = 150;
const MARKS = { exit: "×", restart: "▲", deploy: "◆", command: "■" };
let library;
const probe = document.createElement("span");
probe.hidden = true;

// A colour of the style sheet as the canvas needs it.
function colour(name) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

// {slot: [[at, value]…]} as uPlot wants it: all instants, then each slot's values at these.
export function joined(series) {
  const names = Object.keys(series);
  const instants = [...new Set(names.flatMap((name) => series[name].map(([at]) => at)))].sort((a, b) => a - b);
  const place = new Map(instants.map((at, index) => [at, index]));
  const values = names.map((name) => {
    const found = new Array(instants.length).fill(null);
    for (const [at, value] of series[name]) found[place.get(at)] = value;
    return found;
  });
  return { names, data: [instants, ...values] };
}

export const selected = signal(null); // [from, to] of a drag, Unix seconds

function draw_marks(chart, marks, ceiling, show) {
  const { ctx } = chart;
  const { left, top, width, height } = chart.bbox;
  const scale = devicePixelRatio;
  ctx.save();
  ctx.font = `${10 * scale}px sans-serif`;
  ctx.textAlign = "center";
  for (const mark of marks) {
    const x = chart.valToPos(mark.at, "x", true);
    if (x < left || x > left + width) continue;
    ctx.strokeStyle = ctx.fillStyle = colour(mark.kind === "exit" ? "--bad" : mark.kind === "deploy" ? "--accent" : "--soft");
    ctx.globalAlpha = 0.35;
    ctx.beginPath();
    ctx.moveTo(x, top);
    ctx.lineTo(x, top + height);
    ctx.stroke();
    ctx.globalAlpha = 1;
    ctx.fillText(MARKS[mark.kind] ?? "·", x, top - 2 * scale);
  }
  if (ceiling) {
    const y = chart.valToPos(ceiling, "y", true);
    ctx.strokeStyle = ctx.fillStyle = colour("--bad");
    ctx.setLineDash([5 * scale, 4 * scale]);
    ctx.beginPath();
    ctx.moveTo(left, y);
    ctx.lineTo(left + width, y);
    ctx.stroke();
    ctx.textAlign = "right";
    ctx.fillText(t("chart.ceiling", { value: show(ceiling) }), left + width - 4 * scale, y - 4 * scale);
  }
  ctx.restore();
}

function options(uPlot, { width, names, marks, ceiling, show, range, increments, moved }) {
  const axis = { stroke: () => colour("--soft"), font: "11px sans-serif", ticks: { show: false }, grid: { stroke: () => colour("--line-soft"), width: 1 } };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    padding: [14, 8, 0, 0],
    cursor: { sync: { key: "unit" }, drag: { x: true, y: false, setScale: false }, y: false, points: { size: 5 } },
    scales: {
      x: { range: () => range },
      y: { range: (_, __, most) => [0, Math.max(most || 1, ceiling ?? 0) * 1.08] },
    },
    axes: [
      { ...axis, size: 24, space: 70, values: (_, splits) => splits.map((at) => clock(at, true)) },
      { ...axis, size: 58, space: 34, incrs: increments ?? undefined, values: (_, splits) => splits.map((value) => show(value)) },
    ],
    series: [{}, ...names.map((_, index) => ({ stroke: () => colour(`--c${index % PALETTE}`), width: 1.4, dash: index >= PALETTE ? [4, 3] : undefined, points: { show: false }, spanGaps: false }))],
    hooks: {
      draw: [(chart) => draw_marks(chart, marks, ceiling, show)],
      setCursor: [(chart) => moved(chart.cursor.idx)],
      setSelect: [
        (chart) => {
          const { left, width: wide } = chart.select;
          if (wide > 3) selected.value = [left, left + wide].map((x) => Math.round(chart.posToVal(x, "x")));
        },
      ],
    },
  };
}

export function Chart({ title, series, show, marks = [], ceiling = null, range, increments = null }) {
  const box = useRef();
  const place = useSignal(null);
  const failed = useSignal("");
  const { names, data } = joined(series);
  useEffect(() => {
    let chart = null;
    let watch = null;
    let over = false;
    const element = box.current;
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const redraw = () => chart?.redraw();
    (library ??= import("../vendor/uplot.mjs")).then(
      ({ default: uPlot }) => {
        if (over) return;
        chart = new uPlot(options(uPlot, { width: element.clientWidth, names, marks, ceiling, show, range, increments, moved: (index) => (place.value = index) }), data, element);
        watch = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT }));
        watch.observe(element);
        scheme.addEventListener("change", redraw);
      },
      (error) => {
        library = undefined;
        failed.value = error.message;
      },
    );
    return () => {
      over = true;
      watch?.disconnect();
      chart?.destroy();
      scheme.removeEventListener("change", redraw);
    };
  }, [JSON.stringify(range), names.join(), data[0].at(-1), data[0].length, marks.length, ceiling]);
  const last = (values) => values.findLast((value) => value != null);
  const at = (index) => (place.value == null ? last(data[index + 1]) : data[index + 1][place.value]);
  return html`<figure class="chart"><figcaption><b>${title}</b><span class="mute number">${place.value == null ? "" : clock(data[0][place.value] ?? 0)}</span></figcaption>
    <div ref=${box} class="plot" aria-hidden="true">${failed.value && html`<p class="error">${failed}</p>`}</div>
    <ul>${names.map((name, index) => html`<li key=${name}><i class=${`k${index % PALETTE} ${index >= PALETTE ? "dashed" : ""}`}></i>${name} <span class="number">${at(index) == null ? "–" : show(at(index))}</span></li>`)}</ul></figure>`;
}
