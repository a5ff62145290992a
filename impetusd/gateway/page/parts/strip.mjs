// 24 hours as one strip: each exit, deploy and command is a mark, in a lane of its own.
import { html } from "../h.mjs";
import { href } from "../route.mjs";
import { now } from "../store.mjs";
import { clock, hour, t } from "../text.mjs";

const DAY = 86400;
const LANES = ["exit", "restart", "deploy", "command"];
const SHAPES = { exit: "M-3-3 3 3M3-3-3 3", restart: "M0-3.6 3.6 3H-3.6Z", deploy: "M0-4 4 0 0 4-4 0Z", command: "M-2.5-2.5h5v5h-5Z" };
const WIDTH = 1000;
const LANE = 14;

// One mark for what lies within 4 minutes, in one lane.
function gathered(marks) {
  const found = new Map();
  for (const mark of marks) {
    const key = `${mark.kind} ${Math.floor(mark.at / 240)}`;
    const known = found.get(key);
    if (known) known.more += 1;
    else found.set(key, { ...mark, more: 0 });
  }
  return [...found.values()];
}

export function Strip({ marks }) {
  const until = Math.ceil(now.value / 60) * 60;
  const from = until - DAY;
  const place = (at) => ((at - from) / DAY) * WIDTH;
  const shown = gathered(marks.filter((mark) => mark.at >= from && LANES.includes(mark.kind)));
  const hours = Array.from({ length: 9 }, (_, index) => Math.ceil(from / 10800) * 10800 + index * 10800).filter((at) => at <= until);
  const counts = LANES.map((lane) => t(`mark.${lane}`, { n: marks.filter((mark) => mark.at >= from && mark.kind === lane).length }));
  return html`<figure class="strip" aria-label=${`${t("strip")}: ${counts.join(", ")}`}>
    <figcaption><b>${t("strip")}</b>${LANES.map((lane, index) => html`<span class=${lane}>
      <svg viewBox="-5 -5 10 10" width="10" height="10" aria-hidden="true"><path class=${lane} d=${SHAPES[lane]} /></svg>${counts[index]}</span>`)}</figcaption>
    <svg class="lanes" viewBox="0 0 ${WIDTH} ${LANE * LANES.length + 16}" preserveAspectRatio="none" aria-hidden="true">
      ${LANES.map((lane, index) => html`<line class="lane" x1="0" x2=${WIDTH} y1=${index * LANE + 8} y2=${index * LANE + 8} />`)}
      ${hours.map((at) => html`<line class="hour" x1=${place(at)} x2=${place(at)} y1="0" y2=${LANE * LANES.length + 2} />`)}
    </svg>
    <div class="marks">${shown.map((mark) => html`<a key=${`${mark.kind}${mark.at}`} class=${mark.kind} tabindex="-1"
        style=${{ left: `${place(mark.at) / 10}%`, top: `${LANES.indexOf(mark.kind) * LANE + 2}px` }}
        href=${href("audit", "", { from: Math.floor(mark.at - 300), to: Math.ceil(mark.at + 300) })}
        title=${`${clock(mark.at)} ${mark.unit ?? ""} ${mark.text}${mark.more ? ` (+${mark.more})` : ""}`}>
        <svg viewBox="-5 -5 10 10" width="12" height="12" aria-hidden="true"><path d=${SHAPES[mark.kind]} /></svg></a>`)}
      ${hours.filter((at) => place(at) < WIDTH * 0.9).map((at) => html`<time style=${{ left: `${place(at) / 10}%` }}>${hour(at)}</time>`)}</div>
  </figure>`;
}
