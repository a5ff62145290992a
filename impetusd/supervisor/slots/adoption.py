"""Take over running processes from the shim in a new supervisor, without restarting them or missing an exit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from impetusd.core.reasons import because, not_started
from impetusd.core.rules import places, quarantine
from impetusd.core.rules.lifecycle import IDLE, Exited, Fail, Gone, Restart, Scope, Spawned, State, Stop, Want
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.slots.entry import Entry, Role

if TYPE_CHECKING:
    from impetusd.supervisor.slots.engine import Engine
    from impetusd.supervisor.start.starter import Starter


class Adoption:
    """Brings the slots, as they were recorded, and the processes, as they are, together."""

    def __init__(self, engine: Engine, starter: Starter, log: Callable[[str], None]) -> None:
        """`log`: the daemon's."""
        self._engine = engine
        self._slots = engine.slots
        self._rounds = engine.rounds
        self._contain = engine.faults.contain
        self._starter = starter
        self._log = log

    def adopt(self, table: Sequence[Mapping[str, Any]], *, changing: bool = False) -> None:
        """Take over what the shim holds: nothing is started that runs, no exit is missed.

        First everything that is held becomes known, then what has happened is gathered; only then is anything decided.
        """
        with self._rounds.at_once():
            self._take_over(table, changing=changing)
        for unit in list(self._slots.units.values()):
            self._slots.page.at(unit.name, "checking which pools serve")
            self._contain(unit.name, "checking which pools serve", self._engine.places.refuse_if_nobody_serves, unit)
        self._slots.page.blank()

    def _take_over(self, table: Sequence[Mapping[str, Any]], *, changing: bool) -> None:
        held = {row["process"]: row for row in table}
        for entry in self._slots.entries.values():
            rec = entry.rec
            self._slots.page.at(entry.name, "taking it over")
            if self._slots.holds(entry):
                lives = rec.process is not None
                rec.slot = quarantine.begin(rec.slot, time.monotonic(), entry.policy, lives=lives)
                self._slots.touch(entry)
            if rec.process is not None:
                self._slots.by_process[rec.process] = entry
            if rec.slot.pid is not None:
                self._slots.by_pid[rec.slot.pid] = entry
            if not self._contain(entry.name, "taking over its log pipes", self._take_over_pipes, entry):
                rec.pipe = None
            if not self._slots.holds(entry):
                rec.slot = places.heard_again(entry.policy, rec.slot, time.monotonic())
            self._engine.machine.arm(entry)
        pipes = {entry.rec.pipe for entry in self._slots.entries.values() if entry.rec.pipe is not None}
        self._starter.continue_from(max([0, *held, *self._slots.by_process]) + 1, pipes)
        for entry in self._slots.entries.values():
            row = held.pop(entry.rec.process, None) if entry.rec.process is not None else None
            self._slots.page.at(entry.name, "taking it over")
            self._contain(entry.name, "taking it over", self._reconcile, entry, row)
            if (
                entry.dismissed and entry.slot.want is Want.UP and not self._slots.holds(entry)
            ):  # it was scaled away, but not signalled yet
                self._rounds.put((entry, Stop()))
        for entry in list(self._slots.entries.values()):
            if entry.dismissed and entry.slot.state in IDLE and entry.rec.process is None:
                self._slots.dismiss(entry)
        self._slots.page.blank()
        if self._slots.held.whole is not None:
            return
        if not changing:
            self._engine.reloads.drop_listeners()
        for process, row in held.items():
            if not row["acked"]:  # of a slot that is gone; what was acked is a rest that treekill = no has spared
                self._starter.outbox.signal(process, signal.SIGKILL, Scope.TREE)
                self._starter.outbox.ack(process)
        self._contain("replacing processes", "taking it over", self._engine.rolling.resume)
        self._contain("replacing processes", "looking for unreachable processes", self._replace_unreachable)

    def _take_over_pipes(self, entry: Entry) -> None:
        if entry.rec.pipe is not None and not self._starter.pipes.adopt(entry):
            self._log(f"{entry.name}: its log pipes are lost, so its output is lost until its next start")
            self._slots.touch(entry)

    def _replace_unreachable(self) -> None:
        """Workers whose command channel died with a shim: those that serve by and by, the others at once."""
        reason = because("channel_lost")
        for entry in list(self._slots.entries.values()):
            process = entry.rec.process
            if (
                entry.works
                and process is not None
                and not self._slots.holds(entry)
                and not self._starter.channels.reaches(process)
            ):
                if entry.role is Role.WORKER and entry.slot.state is State.RUNNING:
                    self._engine.recycle([entry], reason)
                elif entry.slot.state in {State.STARTING, State.RUNNING}:
                    self._rounds.put((entry, Restart()))  # none of its failures, which would be the end of a reload
                else:
                    self._rounds.put((entry, Fail(reason, True)))

    def _reconcile_without(self, entry: Entry) -> None:
        """The shim holds nothing of this slot."""
        slot = entry.slot
        if entry.rec.process is not None:
            self._engine.reports.release(entry)
            if slot.pid is None and slot.state is State.STOPPING:
                self._rounds.put((entry, Gone()))
            else:
                failed = not_started("find", because("process_unknown"))
                end = Exit(failed=failed, at=round(time.time(), 3))
                self._rounds.put((entry, Exited(end)))
        elif slot.state is State.STARTING and not self._slots.holds(entry):
            self._engine.starts.wait(entry)
        elif slot.state is State.STOPPING:
            self._rounds.put((entry, Gone()))

    def _reconcile(self, entry: Entry, row: Mapping[str, Any] | None) -> None:
        if row is None:
            self._reconcile_without(entry)
            return
        if row["pid"] and not row["acked"]:
            self._engine.reports.limited(entry, row)
            self._rounds.put((entry, Spawned(row["pid"])))
        if row["ended"] is not None and not row["acked"]:
            self._engine.reports.exited({"process": row["process"], "left": row["left"], **row["ended"]})
        elif self._slots.holds(entry):
            return
        elif entry.slot.state is State.STARTING and entry.works and entry.rec.process is not None:
            if entry.serves:
                self._starter.channels.put_to_work(entry.rec.process, entry.name)
            self._starter.channels.send(entry.rec.process, {"do": "tell"})  # its READY=1 may have died with its reader
