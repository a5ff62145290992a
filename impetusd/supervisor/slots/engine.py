"""The operations on slots, for commands and rules, and the composition of the parts that carry them out.

    slots     which there are, with their records              rounds   the inbox, and the end of a round
    versions  which version a process is of                    places   which process lives in which slot
    starts    a start, until the shim is asked for it          reports  what the shim says of processes
    machine   from an event to what is done about it           tails    the last lines of a process
    reloads   another version, gated and reversible            rolling  one process after the other
    waits     commands that wait for slots

A part knows only those listed before it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from impetusd.core.config.model import Config, Unit
from impetusd.core.reasons import Reason, because, not_started, rule_of
from impetusd.core.rules import places, waits
from impetusd.core.rules.lifecycle import IDLE, Event, Fail, Restart, Scope, Start, State, Stop, Want
from impetusd.core.rules.reload import overlaps
from impetusd.supervisor.faults import Faults
from impetusd.supervisor.observers import Publisher
from impetusd.supervisor.slots.entry import ONE_SHOT, PASSING, Entry, Role, serving
from impetusd.supervisor.slots.machine import Machine
from impetusd.supervisor.slots.places import Places
from impetusd.supervisor.slots.registry import Slots
from impetusd.supervisor.slots.reloads import Reloads
from impetusd.supervisor.slots.reports import Oom, Reports
from impetusd.supervisor.slots.rolling import Rolling
from impetusd.supervisor.slots.rounds import Rounds
from impetusd.supervisor.slots.starts import Starts
from impetusd.supervisor.slots.tails import Tails
from impetusd.supervisor.slots.versions import Versions
from impetusd.supervisor.slots.waits import Waits
from impetusd.supervisor.start.starter import Starter

AT_ONCE = 25  # starts in one message to the shim


class Engine:
    """The parts, and what is asked of them. Every method is called in the event loop's thread and returns without waiting."""

    def __init__(self, starter: Starter, log: Callable[[str], None], oom: Oom, record: Callable[..., None]) -> None:
        """`log` writes into the daemon's log; `oom`: see `Reports`.

        `record(entry, kind, **fields)` writes into the ledger what no change of a slot shows.
        """
        self._starter = starter
        self._log = log
        self._record = record
        self.faults = Faults(log, lambda: self.rounds.wake())  # noqa: PLW0108  # they are made below
        self.slots = slots = Slots(starter, self.faults)
        self.changes = Publisher(self.faults, slots.holds)
        self.rounds = rounds = Rounds(slots, starter.outbox, self.changes)
        self.versions = versions = Versions(slots, starter.outbox)
        self.places = Places(slots, rounds, versions, starter=starter, changes=self.changes, log=log)
        self.starts = Starts(slots, rounds, versions, self.places, starter)
        tails = Tails(slots, rounds, versions, starter, record)
        self.machine = Machine(
            slots, rounds, versions, self.places, self.starts, tails=tails, starter=starter, changes=self.changes
        )
        self.reports = Reports(slots, rounds, versions, starts=self.starts, starter=starter, oom=oom, acted=self._acted)
        self.reloads = Reloads(slots, rounds, versions, self.places, starter=starter, log=log)
        self.rolling = Rolling(slots, rounds, versions, self.places, log)
        self.waits = Waits(slots, versions)
        self.machine.reloading = self.reloads.changed
        self.machine.not_forked = self._not_forked
        rounds.report, rounds.handle, rounds.arm = self.reports.hear, self.machine.handle, self.machine.arm
        rounds.over = self._round_over
        rounds.steps = (
            (self.starts.waiting, self.starts.advance),
            (versions.of, self.reloads.advance),
            (slots.replacing, self.rolling.advance),
        )

    def _round_over(self) -> None:
        self.changes.deliver()
        self.waits.look_soon()

    def configure(
        self,
        at: Callable[[int], Config],
        blobs: Mapping[str, str],
        saved: Mapping[str, Mapping[str, Any]],
        before: Callable[[int], Config] | None = None,
    ) -> None:
        """As `Slots.configure`, with the reloads that are under way."""
        self.versions.load(blobs)
        self.slots.configure(at, blobs, saved, before)

    def start(self, entries: Iterable[Entry]) -> None:
        """Start them; those that run already are left alone."""
        self._ask(entries, Start())

    def restart(self, entries: Iterable[Entry]) -> None:
        """Restart each with a new process."""
        self._ask(entries, Restart())

    def stop(self, entries: Iterable[Entry]) -> None:
        """Stop them."""
        self.rounds.put(*((entry, Stop()) for entry in entries))
        self.rounds.wake()

    def hold(self, entries: Iterable[Entry]) -> None:
        """The operator has stopped these by name: they stay stopped, over reboots too, until they are started."""
        for entry in entries:
            entry.rec.stopped = True
            self.slots.touch(entry)
            self.changes.publish(entry, entry.slot)

    def _ask(self, entries: Iterable[Entry], event: Event) -> None:
        """A few at a time: the shim has begun before the next are sent, and a fork copies the pipes of fewer slots."""
        waiting = iter(entries)
        while some := list(islice(waiting, AT_ONCE)):
            self._ask_some(some, event)

    def _ask_some(self, entries: Iterable[Entry], event: Event) -> None:
        for entry in entries:
            if (
                entry.role in PASSING
                or entry.dismissed
                or (isinstance(event, Start) and self.versions.puts_away(entry))
            ):
                continue  # it has been replaced already, is still to come, or is going for good
            if self.slots.holds(entry):
                self.faults.contain(entry.name, "rejecting its start", self._refuse_start, entry)
                continue
            entry.rec.stopped = False
            fresh = isinstance(event, Restart) or entry.slot.state in IDLE
            self.faults.contain(entry.name, "preparing the request", self._prepare, entry, event, fresh=fresh)
            entry.rec.gated = entry.rec.gated or fresh
            self.rounds.put((entry, event))
        self.rounds.wake()

    def _refuse_start(self, entry: Entry) -> None:
        """The run of a one-shot process that is due ends before it has begun; nobody waits for the others."""
        if entry.role in ONE_SHOT and entry.rec.process is None:
            failed = not_started("start", self.waits.reason(entry))
            self.machine.refuse(entry, *places.refused(entry.slot, failed, round(time.time(), 3)))

    def _prepare(self, entry: Entry, event: Event, *, fresh: bool) -> None:
        """A start by command ends a reload, or makes a new generation of the unit."""
        if isinstance(event, Restart):
            self.reloads.cancel(entry.unit, because("restart_asked"))
        if fresh and entry.index == 0 and self._leads(entry):
            reload = self.versions.active(entry.unit)
            least = reload.generation if reload is not None else self.slots.facts.generation(entry.unit)
            facts: dict[str, Any] = {"generation": least + 1}
            if entry.role is Role.TEMPLATE:
                facts["afresh"] = False
            if reload is None:
                self.versions.forget(entry.unit)
            self.slots.facts.note(entry.unit, **facts)

    def _leads(self, entry: Entry) -> bool:
        """Whether its start by command makes a new generation of the unit."""
        if entry.role is Role.WORKER:
            return not entry.unit.preload
        return entry.role in {Role.TEMPLATE, Role.PROGRAM}

    def signal(self, entries: Iterable[Entry], number: int) -> None:
        """Send a signal to the main process of each."""
        for entry in entries:
            if entry.rec.process is not None and entry.slot.pid is not None:
                self._starter.outbox.signal(entry.rec.process, number, Scope.MAIN)
        self._starter.outbox.flush()

    def scale(self, unit: Unit, count: int, token: str = "") -> list[Entry]:
        """Have `count` serving slots of the unit run: remove the highest, make new ones, start what is stopped.

        Returns the slots that change. `token`: the requester's, for `was_scaled`.
        """
        role = serving(unit)
        present = {e.index: e for e in self.slots.of_unit(unit) if e.role is role}
        changed: list[Entry] = []
        for index in range(count):
            entry = present.get(index)
            if entry is None or entry.dismissed:
                if entry is None:
                    entry = self.slots.make(unit, role, index)
                entry.dismissed = False
                changed.append(entry)
        leaving = [entry for index, entry in present.items() if index >= count]
        for entry in leaving:
            entry.dismissed = True
        self.slots.facts.note(unit, instances=count, scaled=token)
        self.slots.sort()
        # Also of a pool its template, without which no worker starts.
        stopped = (e for e in self.slots.of_unit(unit) if e.slot.want is Want.DOWN and not e.dismissed)
        self.start(dict.fromkeys([*stopped, *changed]))
        self.stop(leaving)
        for entry in leaving:
            if entry.slot.state is State.STOPPED:
                self.slots.dismiss(entry)
        return changed + leaving

    # Requests by rules.

    def recycle(self, entries: Iterable[Entry], reason: Reason) -> None:
        """A rule of the INI wants new processes in the place of healthy ones: one at a time, counted."""
        entries = list(entries)
        for unit in {entry.unit.name: entry.unit for entry in entries if entry.role is Role.TEMPLATE}.values():
            entries = [entry for entry in entries if entry.unit is not unit]
            self.renew(unit, reason)  # with its template a pool is imported anew
        known = [entry for entry in entries if entry.rec.due]  # a rule repeats the request until their turn has come
        if marked := self.rolling.mark(entries, reason):
            for entry in marked:
                if entry not in known:
                    self._acted(entry, reason)
            self.rounds.wake()

    def roll(self, entries: Iterable[Entry], reason: Reason) -> list[Entry]:
        """The operator wants new processes, one at a time. Returns the slots that will get one."""
        marked = self.rolling.mark(entries, reason, asked=True)
        for unit in {entry.unit.name: entry.unit for entry in marked}.values():
            facts: dict[str, Any] = {"generation": self.slots.facts.generation(unit) + 1}
            self.slots.facts.note(unit, **facts)
        self.rounds.wake()
        return marked

    def fail(self, entry: Entry, reason: Reason, *, hard: bool = False) -> None:
        """The process is judged to be broken. A worker is replaced before it goes, unless it has to go at once."""
        if self.slots.holds(entry):
            return
        if self.reloads.judged(entry, reason) and not hard:
            self._acted(entry, reason)
            self.rounds.wake()
        elif entry.role is Role.WORKER and not hard:
            self.recycle([entry], reason)
        else:
            if entry.slot.state in {State.STARTING, State.RUNNING} or (hard and not entry.slot.kills):
                self._acted(entry, reason)
            self.rounds.post(entry, Fail(reason, hard))

    def renew(self, unit: Unit, reason: Reason) -> None:
        """A rule of the INI wants the version on the disk."""
        if self.slots.holds_any(unit):
            return
        if overlaps(unit):
            for entry in self.reloads.renew(unit, reason):
                self._acted(entry, reason)
            self.rounds.wake()
        else:
            self.recycle([entry for entry in self.slots.of_unit(unit) if entry.role is not Role.TEMPLATE], reason)

    def _acted(self, entry: Entry, reason: Reason) -> None:
        self._record(entry, "rule", pid=entry.slot.pid, rule=rule_of(reason), reason=reason)

    def _not_forked(self, entry: Entry) -> None:
        """Its template is stopped, or hangs: replace it; the next one forks the slot."""
        template = self.versions.parent(entry)
        if template is not None and template.slot.pid is not None:
            self.fail(
                template, because("no_fork", slot=entry.name, within_s=waits.fork_within(entry.policy)), hard=True
            )

    def notified(self, entry: Entry, message: Mapping[str, str]) -> None:
        """A report by a slot's process: that it is ready or alive, what a worker has answered and what it has not."""
        if self.slots.holds(entry):
            return
        if message.get("READY") == "1" and entry.slot.pid is not None:
            self.reports.ready(entry.slot.pid)
        if message.get("WATCHDOG") == "1":
            self.machine.ping(entry)
        unit = entry.unit
        if message.get("X_IMPETUSD_SPENT") == "1" and unit.max_requests:
            self.recycle([entry], because("max_requests", limit=unit.max_requests))
        cut = message.get("X_IMPETUSD_CUT", "")
        if cut.isascii() and cut.isdigit() and len(cut) < 10 and unit.app:
            reason = because("cut_off", count=int(cut), limit_s=unit.drain_timeout)
            self._log(f"{entry.name}: {reason}")
            self._acted(entry, reason)
            self.versions.cut_off(unit, int(cut))
