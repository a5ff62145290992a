// A record of the ledger in words: what happened, and who asked for it.
import { span, t } from "../text.mjs";
import { typed } from "./command.mjs";

export const ending = (record) => {
  if (record.stage) return t("rec.stage", { stage: record.stage, error: record.error });
  if (record.signal) return t(record.oom ? "rec.oom" : "rec.killed", { signal: record.signal });
  return record.code == null ? t("rec.unknown") : t("rec.code", { code: record.code });
};

export const subject = (record) =>
  record.slot || record.unit || record.check || (record.names?.length ? record.names.join(", ") : record.kind === "command" ? t("foot.all") : "impetusd");

// {user, how}: as the kernel says, or as the gateway has it.
export function who(record) {
  if (record.kind !== "command") return null;
  const how = [record.via ?? "", record.login && record.login !== record.user ? t("rec.login", { name: record.login }) : "", record.tty, record.comm ? `${record.comm} ${record.peer_pid ?? ""}` : ""];
  return { user: record.by ?? record.user ?? `uid ${record.uid}`, how: how.filter(Boolean).join(" · "), role: record.role };
}

export function sentence(record) {
  switch (record.kind) {
    case "command": {
      const said = typed(record.method, (record.names ?? []).join(" "), record.params ?? {});
      const times = record.times > 1 ? ` ×${record.times}` : "";
      return record.outcome === "done" ? said : `${said}: ${t(`rec.${record.outcome}`)}${times}${record.error ? `: ${record.error}` : ""}`;
    }
    case "exit":
      return `${ending(record)}${record.ran_s != null ? ` ${t("rec.after", { span: span(record.ran_s) })}` : ""}${record.decision ? `; ${record.decision}` : ""}`;
    case "start":
      return t("rec.start", { pid: record.pid }) + (record.why ? `: ${record.why}` : "");
    case "ready":
      return t("rec.ready") + (record.after_s ? ` ${t("rec.after", { span: span(record.after_s) })}` : "");
    case "stderr":
      return (record.lines ?? []).at(-1) ?? "";
    case "reload":
      return t("rec.reload", { n: record.generation, what: record.what }) + (record.reason ? `: ${record.reason}` : "");
    case "config":
      return `${t(`rec.config.${record.what}`)}: ${(record.changes ?? []).map((each) => `${each.name} ${each.effect}`).join(", ") || record.reason || ""}`;
    case "timer":
      return `${t(record.ok ? "rec.timer.ok" : "rec.timer.failed")} ${t("rec.after", { span: span(record.duration_s) })}: ${record.reason}`;
    case "health":
      return `${record.check}: ${record.state}${record.reason ? `: ${record.reason}` : ""}`;
    case "rule":
      return `${record.rule}: ${record.reason}`;
    default:
      return [record.what, record.reason ?? record.why].filter(Boolean).join(": ");
  }
}
