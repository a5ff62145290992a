"""Writes the ledger and the daemon's own log: slots, rules, reloads, commands, and the daemon itself."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import impetusd
from impetusd.core.explain import news
from impetusd.core.rules import repeats
from impetusd.core.rules.health import Turn
from impetusd.core.rules.lifecycle import Slot, State
from impetusd.linux.priority import ERROR, INFO, WARNING
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots import record
from impetusd.supervisor.slots.entry import PASSING, Entry, Role

if TYPE_CHECKING:
    from impetusd.core.config.model import Health, Unit
    from impetusd.core.reasons import Reason
    from impetusd.core.rules.timer import Outcome
    from impetusd.supervisor.disk.ledger import Ledger
    from impetusd.supervisor.logs.writer import Writer
    from impetusd.supervisor.slots.engine import Engine

LEVELS = {State.FATAL: ERROR, State.BACKOFF: WARNING}


class Reporting:
    """Each thing that happens is a record, and a line where an operator should see it."""

    def __init__(
        self, ledger: Ledger, writer: Writer, shim: int, later: Callable[[float, Callable[[], object]], object]
    ) -> None:
        """`shim`: its pid. `later(seconds, act)` has `act` called."""
        self._ledger = ledger
        self._writer = writer
        self._shim = shim
        self._later = later
        self._repeats = repeats.Repeats()
        self.engine: Engine  # made next

    # Slots.

    def record(self, entry: Entry, kind: str, **fields: Any) -> None:
        """Record nothing of a health check's command: its output is in the `health` records, at each change of
        state."""
        if entry.role is not Role.CHECK:
            self._ledger.add(kind, unit=entry.unit.name, slot=self.engine.slots.shown(entry), **fields)

    def record_change(self, change: Change, now: float | None = None) -> None:
        """Within the round, or as soon as that is sent. `now`: when it was, monotonic, if that is over."""
        entry, before, after = change
        if entry.role is Role.CHECK:
            return
        now, one_shot = time.monotonic() if now is None else now, entry.role is Role.JOB
        for fields in news.transition_records(entry.policy, before, after, now, one_shot=one_shot):
            self.record(entry, **fields)

    def pay(self, blobs: Mapping[str, str]) -> Iterator[str]:
        """The records that a supervisor which was killed still owed (see `observers`). Yields the blobs' keys."""
        slots = self.engine.slots
        for key in (key for key in blobs if key.startswith(record.OWED)):
            name = key.removeprefix(record.OWED)
            if name in slots.entries:
                slots.faults.contain(name, "writing a delayed record", self._pay, slots.entries[name], blobs[key])
            yield key

    def _pay(self, entry: Entry, text: str) -> None:
        before, since = record.load_owed(text)
        if entry.slot.since == since:  # it has not changed again, which is recorded by itself
            self.record_change(Change(entry, before, entry.slot), since)

    def log_change(self, change: Change) -> None:
        """After it."""
        entry, before, after = change
        if entry.role is Role.CHECK or not _is_worth_a_line(change):
            return
        pid = after.pid or before.pid
        reason = self.engine.waits.reason(entry, after)
        process = f" (pid {pid})" if pid else ""
        level = LEVELS.get(after.state, INFO)
        cause = repeats.cause_of(after.last_exit) if after.state is State.BACKOFF else None
        if cause is not None:
            if not self._repeats.is_new(cause, self.engine.slots.shown(entry)):
                return
            self._later(repeats.WINDOW, functools.partial(self._log_repeats, cause))
        self._writer.line(f"{entry.name}: {after.state.name}{process}{f': {reason}' if reason else ''}", level)

    def _log_repeats(self, cause: repeats.Cause) -> None:
        """The failed starts of one cause since the last line on it."""
        if line := self._repeats.summary(cause):
            self._writer.line(line, WARNING)
            self._later(repeats.WINDOW, functools.partial(self._log_repeats, cause))

    # What acts on them.

    def timer_ran(self, retries: int, name: str, outcome: Outcome, attempt: int) -> None:
        """A run of a timer has ended; `retries`: how many attempts may follow the first."""
        told = {"ok": outcome.ok, "code": outcome.code, "duration_s": round(outcome.duration_s, 3), "why": outcome.why}
        self._ledger.add("timer", unit=name, **told, reason=outcome.result, attempt=attempt, retries=retries)

    def reload_turned(self, unit: Unit, **fields: Any) -> None:
        """A reload has gone over into another phase."""
        self._ledger.add("reload", unit=unit.name, **fields)

    def check_turned(self, check: Health, target: str, turn: Turn, failures: int, reason: Reason) -> None:
        """A health check's state has changed."""
        if turn is not Turn.FAILING:
            level = WARNING if turn is Turn.ILL else INFO
            self._writer.line(f"health:{check.name}: {target} is {turn.value}{f': {reason}' if reason else ''}", level)
        told = {"check": check.name, "unit": check.target, "slot": target, "state": turn.value, "reason": reason}
        self._ledger.add("health", **told, failures=failures, action=check.action.value)

    # The daemon.

    def say(self, what: str, more: str = "", **why: Reason) -> None:
        """Events of the daemon itself."""
        self._writer.line(f"supervisor: {what}{more}")
        pids = {"pid": os.getpid(), "shim": self._shim}
        self._ledger.add("daemon", what=what, **pids, version=impetusd.__version__, **why)


def _is_worth_a_line(change: Change) -> bool:
    entry, before, after = change
    moved = entry.role in PASSING and after.pid is None and before.state is State.RUNNING
    if moved and after.state is State.STOPPED:
        return False  # its process lives in another slot
    if after.state is before.state and after.kills == before.kills:
        return False
    return not (repeats.is_next_try(before, after) or _is_one_more_try(before, after))


def _is_one_more_try(before: Slot, after: Slot) -> bool:
    """With retry_after, that it was given up is logged once, and next that it runs again."""
    return after.half_open and after.state is not State.RUNNING and (before.half_open or before.state is State.FATAL)
