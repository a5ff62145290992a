"""Which changes of a slot are recorded: the ledger's records of starts, ends and rules.

Pure: from the slot before and after to dicts, with Reasons in them; `supervisor.disk.ledger` numbers, dates and keeps
them. `core.explain.ledger` has the format as its readers see it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from impetusd.core.config.model import Autorestart
from impetusd.core.reasons import Reason, because, rule_of
from impetusd.core.rules.lifecycle import Slot, State, Want
from impetusd.core.rules.policy import Exit, Policy, is_hopeless, signal_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    Record = dict[str, Any]

OF_THE_MACHINE = ("watchdog", "not_ready")  # reasons of rules that the state machine itself applies


def transition_records(
    policy: Policy, before: Slot, after: Slot, now: float, *, one_shot: bool = False
) -> Iterator[Record]:
    """The records of one step of the machine; `now` is monotonic. They lack unit and slot.

    `one_shot`: what follows an end is not decided by the restart policy, but by a timer.
    """
    decide = _nothing if one_shot else _decision
    if after.failed.key in OF_THE_MACHINE and not before.failed:
        yield {"kind": "rule", "pid": after.pid, "rule": rule_of(after.failed), "reason": after.failed}
    if after.last_exit is not None and after.last_exit is not before.last_exit:
        yield {
            "kind": "exit",
            "pid": before.pid,
            "ran_s": round(now - before.started, 3) if before.started is not None else None,
            **how(after.last_exit),
            **({"kills": before.kills} if before.kills else {}),
            **decide(policy, before, after, now),
        }
    elif before.state is State.STOPPING and after.state is not State.STOPPING and before.started is not None:
        yield {"kind": "gone", **decide(policy, before, after, now)}
    elif before.state is State.FATAL and after.half_open and not before.half_open:
        yield {"kind": "rule", "rule": "retry_after", "reason": because("tried_again", before=before.reason)}
    if after.pid is not None and after.pid != before.pid:
        yield {"kind": "start", "pid": after.pid, "why": before.reason or after.reason}
    if after.state is State.RUNNING and before.state is State.STARTING:
        after_s = round(now - after.started, 3) if after.started is not None else None
        yield {"kind": "ready", "pid": after.pid, "after_s": after_s}


def how(end: Exit) -> Record:
    """How a process ended: code, signal, or the failed stage of the start; and what it used."""
    told: Record = {"code": end.code} if end.signal is None else {"signal": signal_name(end.signal)}
    if end.failed:
        told = {"failed": end.failed}
    for name in ("core", "oom", "cpu_s", "max_rss"):
        if getattr(end, name):
            told[name] = getattr(end, name)
    return told


def _nothing(_: Policy, before: Slot, after: Slot, __: float) -> Record:
    return {"asked": before.want is Want.DOWN, "state": after.state.name}


def _decision(policy: Policy, before: Slot, after: Slot, now: float) -> Record:
    """What was decided after a process ended, and by which key."""
    retry_s = round(max(0.0, after.deadline - now), 3) if after.deadline is not None else None
    decision, rule = _decided(policy, before, after, retry_s or 0.0)
    if before.kills and not before.failed and after.state is not State.STOPPING:
        decision = because("killed_too", decision=decision, timeout_s=policy.kill_timeout)
    return {
        "asked": before.asked or before.want is Want.DOWN or bool(before.due),
        "state": after.state.name,
        "decision": decision,
        "rule": rule,
        "restarts": after.restarts,
        "retry_s": retry_s if after.state in {State.BACKOFF, State.FATAL} else None,
    }


def _decided(policy: Policy, before: Slot, after: Slot, wait: float) -> tuple[Reason, str]:
    """The decision, and the key that made it."""
    match after.state:
        case State.STOPPED:
            return because("stopped_as_asked"), ""
        case State.STOPPING:
            return because("ending_rest"), "treekill"
        case State.EXITED if policy.autorestart is Autorestart.ALWAYS:
            return because("left_by_code", codes=list(map(str, policy.stop_exit_codes))), "stop_exit_codes"
        case State.EXITED:
            return because("left_alone", autorestart=policy.autorestart.value), "autorestart"
        case State.FATAL:
            return _why_fatal(policy, after)
        case State.BACKOFF:
            rule = "exp_backoff_restart_delay" if after.failures > 1 else "restart_delay"
            return because("retried_in", wait_s=wait, rule=rule, **_within(policy, after)), rule
    if before.asked:
        return because("started_as_asked"), ""
    if before.due:
        return because("replaced", due=before.due), rule_of(before.due)
    return because("retried", autorestart=policy.autorestart.value, **_within(policy, after)), "autorestart"


def _within(policy: Policy, after: Slot) -> dict[str, float]:
    return {"count": len(after.recent), "most": policy.max_restarts, "window_s": policy.restart_window}


def _why_fatal(policy: Policy, after: Slot) -> tuple[Reason, str]:
    end = after.last_exit
    if end is not None and end.code is not None and end.code in policy.fatal_exit_codes:
        return because("hopeless_code", code=end.code), ""
    if policy.autorestart is Autorestart.NEVER:
        return because("left_down"), "autorestart"
    if end is not None and not after.recent and is_hopeless(end):
        return because("not_executable"), ""
    if after.half_open:
        return because("given_up_again", every_s=policy.retry_after), "retry_after"
    return because("given_up", most=policy.max_restarts, window_s=policy.restart_window), "max_restarts"
