// One modal dialog: the browser's own, which keeps the focus in it, ends with Escape, and gives the focus back.
import { html, signal, useRef } from "../h.mjs";
import { Copy } from "./command.mjs";
import { t } from "../text.mjs";

export const shown = signal(null); // {title, body, command, confirm, tone, run}

export const ask = (question) => (shown.value = question);
export const dismiss = () => (shown.value = null);

export function Dialog() {
  const box = useRef();
  const question = shown.value;
  const open = (element) => {
    box.current = element;
    if (element && !element.open) element.showModal();
  };
  if (!question) return null;
  const submit = (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    box.current.close();
    question.run?.(given);
  };
  return html`<dialog ref=${open} class=${question.wide ? "wide" : ""} aria-labelledby="dialog-title" onClose=${dismiss}
      onClick=${(event) => event.target === box.current && box.current.close()}>
    <form onSubmit=${submit}>
      <h2 id="dialog-title">${question.title}</h2>
      ${question.body}
      ${question.command && html`<${Copy} command=${question.command} />`}
      <div class="buttons">
        <button type="button" onClick=${() => box.current.close()}>${t(question.run ? "cancel" : "close")}</button>
        ${question.run && html`<button class=${`primary ${question.tone ?? ""}`} type="submit">${question.confirm}</button>`}
      </div>
    </form></dialog>`;
}
