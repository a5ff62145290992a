// Lines that programs write: colours become classes, everything else that a terminal would act on is dropped.
import { BIDI, INERT } from "./plain.mjs";

const SGR = /^(?:\x1b\[|\x9b)([0-9;:]*)m$/;

function changed(style, codes) {
  for (let place = 0; place < codes.length; place += 1) {
    const code = codes[place];
    if (code === 0) style = { colour: "", bold: false, dim: false };
    else if (code === 1) style = { ...style, bold: true };
    else if (code === 2) style = { ...style, dim: true };
    else if (code === 22) style = { ...style, bold: false, dim: false };
    else if (code === 39) style = { ...style, colour: "" };
    else if (code >= 30 && code <= 37) style = { ...style, colour: `a${code - 30}` };
    else if (code >= 90 && code <= 97) style = { ...style, colour: `a${code - 90}` };
    else if (code === 38 || code === 48) place += codes[place + 1] === 5 ? 2 : 4; // 256 colours, or any
  }
  return style;
}

// [[text, classes]…] of a line.
export function parts(line) {
  const found = [];
  let style = { colour: "", bold: false, dim: false };
  let from = 0;
  const add = (text) => {
    if (!text) return;
    found.push([text.replace(BIDI, "�"), [style.colour, style.bold && "bold", style.dim && "dim"].filter(Boolean).join(" ")]);
  };
  for (const match of line.matchAll(INERT)) {
    add(line.slice(from, match.index));
    from = match.index + match[0].length;
    const sgr = SGR.exec(match[0]);
    if (sgr) style = changed(style, sgr[1].split(/[;:]/).map(Number));
  }
  add(line.slice(from));
  return found;
}
