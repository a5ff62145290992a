"""Slots as rows of JSON, for `status`, `describe` and the answer to every command."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from impetusd.core.config import describe
from impetusd.core.config.model import Config
from impetusd.core.rules.lifecycle import IDLE, State
from impetusd.core.rules.policy import Exit, signal_name
from impetusd.supervisor.api import stats
from impetusd.supervisor.api.stats import Stats, Usage
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import ONE_SHOT, Entry, Role
from impetusd.supervisor.start.starter import Starter


class Rows:
    """Makes rows. `sampled` is the memory of a slot's whole tree, in bytes, where that is measured anyway."""

    def __init__(
        self, engine: Engine, starter: Starter, configuration: Config, sampled: Callable[[str], int | None]
    ) -> None:
        self._timers = configuration.timers
        self._checks = configuration.health.values()
        self._engine = engine
        self._starter = starter
        self._sampled = sampled
        self._stats = Stats()

    def shown(self) -> list[Entry]:
        """The slots that `status` shows unasked: of one-shot processes only those that run."""
        return [entry for entry in self._engine.slots.entries.values() if self.is_shown(entry)]

    @staticmethod
    def is_shown(entry: Entry) -> bool:
        """Whether it is one of these."""
        return entry.role not in ONE_SHOT or entry.slot.state not in IDLE

    def of(self, entries: Iterable[Entry]) -> Iterator[dict[str, Any]]:
        """A row for each, made when it is taken: 500 at once would be 0.8 MB, which the process keeps for good."""
        return map(self.row, entries)

    def row(self, entry: Entry, usage: Callable[[int], Usage] | None = None) -> dict[str, Any]:
        """One slot as it is now. `usage`: as `Stats.read`, where somebody measures anyway."""
        slot, now, reason = entry.slot, time.monotonic(), self._engine.waits.reason(entry)
        memory, cpu = (usage or self._stats.read)(slot.pid) if slot.pid is not None else (None, None)
        dropped_bytes, dropped_lines = self._starter.pipes.dropped(entry)
        return {
            "name": self._engine.slots.shown(entry),
            "unit": entry.unit.name,
            "kind": entry.role.value,
            "state": slot.state.name,
            "want": slot.want.value,
            "ready": slot.state is State.RUNNING,
            "pid": slot.pid,
            "uptime_s": round(now - slot.started, 3) if slot.pid is not None and slot.started is not None else None,
            "restarts": slot.restarts,
            "memory_bytes": self._sampled(entry.name) or memory if slot.pid is not None else None,
            "memory_limit_bytes": entry.unit.max_memory_restart or entry.unit.max_memory_kill or None,
            "cpu_percent": cpu,
            "generation": entry.rec.generation,
            "last_exit": exit_row(slot.last_exit),
            "reason": str(reason),
            "cause": reason.data(),
            "held": self._engine.slots.held_because(entry),
            "dropped_lines": dropped_lines,
            "dropped_bytes": dropped_bytes,
            "tail": entry.rec.tail,
        }

    def details(self, entry: Entry) -> dict[str, Any]:
        """The same, with its configuration, its log files and its latest restarts, in seconds ago.

        `answered` as of `Measured.answered`.
        """
        measured = self._starter.channels.measured
        out, error = self._starter.pipes.log_files(entry)
        now = time.monotonic()
        return {
            **self.row(entry),
            "process": stats.details(entry.slot.pid) if entry.slot.pid is not None else {},
            "spec": describe.timer(self._timers[entry.unit.name])
            if entry.role is Role.JOB
            else describe.unit(entry.unit),
            "checks": [
                {"name": check.name, **describe.health(check)}
                for check in self._checks
                if check.target == entry.unit.name
            ],
            "log_files": {"out": out, "error": error},
            "where": entry.unit.where,
            "origins": describe.origins(entry.unit),
            "answered": measured.answered(entry.rec.process) if measured is not None else None,
            "history": [round(now - at, 1) for at in entry.slot.recent],
        }

    def forget(self, pid: int) -> None:
        """The process is gone."""
        self._stats.forget(pid)


def exit_row(end: Exit | None) -> dict[str, Any] | None:
    """How a process ended, as JSON: {"code"} or {"signal"} or {"unknown"}, "at" in ISO 8601, and "oom" if the kernel says so."""
    if end is None:
        return None
    at = dt.datetime.fromtimestamp(end.at).astimezone().isoformat(timespec="milliseconds")
    if end.signal is not None:
        more = {name: getattr(end, name) for name in ("oom", "core") if getattr(end, name)}
        return {"signal": signal_name(end.signal), "at": at, **more}
    if end.code is None and not end.failed:
        return {"unknown": True, "at": at}
    return {"code": end.code if end.code is not None else 127, "at": at}
