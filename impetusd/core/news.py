"""What a change of a slot is worth telling later: the ledger's records of starts, ends and rules.

Pure: from the slot before and after to dicts; `supervisor.ledger` numbers, dates and keeps them. `core.ledger` has the
format as its readers see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from impetusd.core.lifecycle import Slot, State, Want
from impetusd.core.model import Autorestart
from impetusd.core.policy import Exit, Policy, signal_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    Record = dict[str, Any]

# What the reason of a rule that acted says, and the key that it is of.
RULES = (
    ("max_memory_kill", "memory-kill"),
    ("max_memory_restart", "memory"),
    ("max_age", "max_age"),
    ("cron_restart", "cron_restart"),
    ("(watchdog)", "watchdog"),
    ("not ready within", "listen_timeout"),
    ("unhealthy:", "health"),
    ("changed", "watch"),
)


def rule_of(reason: str) -> str:
    """Which rule gave this reason."""
    return next((rule for said, rule in RULES if said in reason), "other")


def of_change(policy: Policy, before: Slot, after: Slot, now: float) -> Iterator[Record]:
    """The records of one step of the machine; `now` is monotonic. They lack unit and slot."""
    if after.failed and not before.failed and rule_of(after.failed) in {"watchdog", "listen_timeout"}:
        yield {"kind": "rule", "pid": after.pid, "rule": rule_of(after.failed), "reason": after.failed}
    if after.last_exit is not None and after.last_exit is not before.last_exit:
        yield {
            "kind": "exit",
            "pid": before.pid,
            "ran_s": round(now - before.started, 3) if before.started is not None else None,
            **how(after.last_exit),
            **_decision(policy, before, after, now),
        }
    elif before.state is State.STOPPING and after.state is not State.STOPPING and before.started is not None:
        yield {"kind": "gone", **_decision(policy, before, after, now)}
    elif before.state is State.FATAL and after.half_open and not before.half_open:
        yield {"kind": "rule", "rule": "retry_after", "reason": f"tried once more (retry_after): {before.reason}"}
    if after.pid is not None and after.pid != before.pid:
        yield {"kind": "start", "pid": after.pid, "why": before.reason or after.reason}
    if after.state is State.RUNNING and before.state is State.STARTING:
        after_s = round(now - after.started, 3) if after.started is not None else None
        yield {"kind": "ready", "pid": after.pid, "after_s": after_s}


def how(end: Exit) -> Record:
    """How a process ended: code, signal, or the stage of the start that failed; and what it had used."""
    told: Record = {"code": end.code} if end.signal is None else {"signal": signal_name(end.signal)}
    if end.stage:
        told = {"stage": end.stage, "error": end.error}
    for name in ("core", "oom", "cpu_s", "max_rss"):
        if getattr(end, name):
            told[name] = getattr(end, name)
    return told


def _decision(policy: Policy, before: Slot, after: Slot, now: float) -> Record:
    """What was decided of a process that has ended, and by which key."""
    retry_s = round(max(0.0, after.deadline - now), 3) if after.deadline is not None else None
    return {
        "asked": before.asked or before.want is Want.DOWN or bool(before.due),
        "state": after.state.name,
        "rule": _sentence(policy, before, after),
        "restarts": after.restarts,
        "retry_s": retry_s if after.state in {State.BACKOFF, State.FATAL} else None,
    }


def _sentence(policy: Policy, before: Slot, after: Slot) -> str:
    match after.state:
        case State.STOPPED:
            return "stopped as asked"
        case State.STOPPING:
            return "what it left behind is being ended (treekill)"
        case State.EXITED:
            key = "stop_exit_codes" if policy.autorestart is Autorestart.ALWAYS else "autorestart"
            return f"left alone ({key} = {_shown(policy, key)})"
        case State.FATAL:
            return _why_fatal(policy, after)
        case State.BACKOFF:
            row = f"{after.failures} failed runs in a row" if after.failures > 1 else "restart_delay"
            within = f"{len(after.recent)} of {policy.max_restarts} restarts within {policy.restart_window:g} s"
            return f"started again after a wait ({row}; {within})"
    if before.asked:
        return "started again as asked"
    if before.due:
        return f"replaced: {before.due}"
    return f"started again at once (autorestart = {policy.autorestart.value})"


def _shown(policy: Policy, key: str) -> str:
    if key == "stop_exit_codes":
        return ", ".join(map(str, policy.stop_exit_codes))
    return policy.autorestart.value


def _why_fatal(policy: Policy, after: Slot) -> str:
    end = after.last_exit
    if end is not None and end.code is not None and end.code in policy.fatal_exit_codes:
        return "given up at once: trying again cannot help"
    if policy.autorestart is Autorestart.NEVER:
        return "left down (autorestart = never)"
    if after.half_open:
        return "given up again (retry_after)"
    return f"given up (max_restarts = {policy.max_restarts} within restart_window = {policy.restart_window:g} s)"
