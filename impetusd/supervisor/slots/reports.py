"""The shim's reports on processes: started, ended, and the last of their descendants ended.

The shim keeps each end until it is acknowledged, which is sent in the round that records it. No report is lost,
whatever exception it causes.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from impetusd.core.config.model import Kind
from impetusd.core.reasons import NONE, Reason, because, cause_key, errno_of, read, read_start
from impetusd.core.rules.lifecycle import Exited, Gone, Ready, Restart, Scope, Spawned, State, Stop
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.slots.entry import FORKING, UNLIMITED, Entry, Role

if TYPE_CHECKING:
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.rounds import Rounds
    from impetusd.supervisor.slots.starts import Starts
    from impetusd.supervisor.slots.versions import Versions
    from impetusd.supervisor.start.starter import Starter

EX_THREADS = 77  # the template's exit when the application starts threads or opens connections at import
TEMPLATE_GONE = frozenset({"template_gone", "template_ended"})  # why a fork failed: there was no template
LIMITS = {"memory.max": "memory_max", "cpu.max": "cpu_max"}  # by file of a cgroup
Oom = Callable[[int, float], str | None]


class Reports:
    """Turns each report into events of the slot whose process it is about."""

    def __init__(
        self,
        slots: Slots,
        rounds: Rounds,
        versions: Versions,
        *,
        starts: Starts,
        starter: Starter,
        oom: Oom,
        acted: Callable[[Entry, Reason], None],
    ) -> None:
        """`oom` says whether the kernel has killed `pid`, which ran `since`, for memory, in the kernel's words. `acted`
        records that a rule of the INI has ended the slot's process.
        """
        self._slots = slots
        self._faults = slots.faults
        self._rounds = rounds
        self._versions = versions
        self._starts = starts
        self._starter = starter
        self._outbox = starter.outbox
        self._oom = oom
        self._acted = acted
        # Whether an event of a process that no slot has is somebody else's.
        self.others: Callable[[dict[str, Any]], object] = lambda _: False

    def hear(self, event: dict[str, Any]) -> None:
        """An event from the shim, which is not lost whatever exception it causes."""
        process, by_process = event["process"], self._slots.by_process
        entry = by_process[process] if process in by_process else None  # noqa: SIM401  # nothing is called
        if entry is None:
            self._hear_of_nobody(event)
            return
        pid = entry.rec.slot.pid
        try:
            self._slots.page.at(entry.name, f"handling its event {event['event']}")
            self._hear(entry, event)
        except Exception as error:
            self._faults.note(entry.name, f"handling its event {event['event']}", error)
            self._hear_again(entry, pid, event)

    def _hear(self, entry: Entry, event: dict[str, Any]) -> None:
        match event["event"]:
            case "spawned":
                self.limited(entry, event)
                self._rounds.post(entry, Spawned(event["pid"]))
            case "exited":
                self.exited(event)
            case "gone":
                self.release(entry)
                self._rounds.post(entry, Gone())

    def _hear_of_nobody(self, event: dict[str, Any]) -> None:
        """No slot has its process."""
        try:
            if not self.others(event) and event["event"] == "exited":
                self._outbox.ack(event["process"])
                self._rounds.wake()
        except Exception as error:
            self._faults.note("the shim", f"handling its event {event['event']}", error)

    def _hear_again(self, entry: Entry, pid: int | None, event: dict[str, Any]) -> None:
        """The least that an event means, unless it has been handled already; `pid` was the slot's before."""
        slot, process = entry.slot, event["process"]
        untouched = slot.pid == pid if pid is not None else slot.state in {State.STARTING, State.STOPPING}
        mine = entry.rec.process in {None, process} and not self._starts.is_under_way(entry)
        if untouched and mine and not self._rounds.concerns(entry):
            match event["event"]:
                case "spawned":
                    self._rounds.put((entry, Spawned(event["pid"])))
                case "gone":
                    self.release(entry)
                    self._rounds.put((entry, Gone()))
                case "exited":
                    self._outbox.ack(process)
                    end = _exit_of(event)
                    if not event["left"]:
                        self.release(entry)
                    self._rounds.put((entry, Exited(end, event["left"])))
        self._rounds.wake()

    def limited(self, entry: Entry, event: Mapping[str, Any]) -> None:
        """Which limits of its process's cgroup are not in force, as the shim says it."""
        causes = event.get("limits") or {}
        entry.unlimited = {key: read(causes[file]) for file, key in LIMITS.items() if file in causes} or UNLIMITED

    def attention(self) -> list[tuple[str, Reason]]:
        """Units with limits that are not in force, by the first of its processes of which that is so."""
        found: dict[str, Reason] = {}
        for entry in self._slots.entries.values():
            causes = entry.unlimited if entry.slot.pid is not None else {}
            if causes and entry.unit.name not in found:
                what, cause = " and ".join(causes), next(iter(causes.values()))
                found[entry.unit.name] = because("unlimited", name=entry.unit.name, what=what, cause=cause)
        return list(found.items())

    def exited(self, event: Mapping[str, Any]) -> None:
        """A slot's process has ended; the shim keeps the fact until we have written it down."""
        slots, process = self._slots, event["process"]
        self._outbox.ack(process)
        entry = slots.by_process[process]
        pid = entry.rec.slot.pid
        if entry.unit.kind is Kind.POOL and pid is not None:
            self._faults.contain(
                entry.name, "clearing its metrics", self._starter.listeners.blank_cell, entry.unit, pid
            )
        end = _exit_of(event)
        left = bool(event["left"]) and entry.policy.treekill
        held = (slots.held.slots or slots.held.whole is not None) and slots.holds(entry)
        try:
            if oom := self._killed_for_memory(entry, end, event):
                end = replace(end, oom=oom)
            unborn = (end.failed.key and cause_key(end.failed) in TEMPLATE_GONE) or (
                "unknown" in event and entry.works and pid is None
            )
            if unborn and entry.slot.state is State.STARTING and not held:
                # No run of this slot has failed: there was nobody to fork it, or the shim was killed over it.
                if event["left"]:  # and what it has left is nobody's: it goes before another is started
                    self._outbox.signal(process, signal.SIGKILL, Scope.TREE)
                self.release(entry)
                self._starts.wait(entry)
                self._rounds.wake()
                return
            if not held:
                self._before_its_end(entry, end, event)
        except Exception as error:
            self._faults.note(entry.name, "examining how it ended", error)
        if not left:
            self.release(entry)
        self._rounds.post(entry, Exited(end, left))

    def _killed_for_memory(self, entry: Entry, end: Exit, event: Mapping[str, Any]) -> str:
        """Whether the kernel killed it for memory, as a sentence."""
        slot = entry.rec.slot
        if end.signal != signal.SIGKILL or slot.kills or slot.pid is None:
            return ""
        if event.get("over_limit") and entry.unit.memory_max:
            over = because("memory_max", limit=entry.unit.memory_max)
            self._acted(entry, over)
            return str(over)
        counted = "out of memory, according to its cgroup's memory.events" if event.get("oom") else ""
        return self._oom(slot.pid, slot.started or 0.0) or counted

    def _before_its_end(self, entry: Entry, end: Exit, event: Mapping[str, Any]) -> None:
        """Further consequences of an end besides that the process is gone."""
        if end.failed.key and errno_of(end.failed) == errno.EMFILE:
            # The shim may have none of its pipes: the next start makes others.
            self._starter.pipes.forget(entry)
        if end.code == EX_THREADS and entry.role is Role.TEMPLATE:
            # No fork survives what the application does at import: each worker is executed afresh.
            self._slots.facts.note(entry.unit, afresh=True)
            self._rounds.post(entry, Stop())
        if end.code == EX_THREADS and entry.role is Role.NEXT_TEMPLATE:
            self._versions.starts_threads(entry)
        begun = {State.STARTING, State.RUNNING} if entry.role in FORKING else {State.STARTING} if entry.works else set()
        if event.get("unknown") and entry.rec.slot.state in begun:
            self._rounds.put((entry, Restart()))  # it has ended because the shim had: none of its failures

    def release(self, entry: Entry) -> None:
        """Nothing of its process is left."""
        rec = entry.rec
        if rec.process is not None:
            self._slots.by_process.pop(rec.process, None)
            if entry.unit.kind is Kind.POOL:
                self._starter.channels.forget(rec.process)
            rec.process = None
            self._slots.dirty[entry.name] = entry

    def ready(self, pid: int) -> bool:
        """READY=1 from `pid`. False when no slot has that pid (yet)."""
        entry = self._slots.of_pid(pid)
        if entry is None:
            return False
        self._rounds.post(entry, Ready())
        return True


def _exit_of(event: Mapping[str, Any]) -> Exit:
    """How a process ended, as the shim says it; an older shim gives no cause, and not what it used."""
    get, failed = event.get, NONE
    if get("stage"):
        failed = read_start(get("cause"), event["stage"], get("error", ""))
    used = get("core", False), get("cpu_s", 0.0), get("max_rss", 0)
    return Exit(get("code"), get("signal"), failed, round(event["at"], 3), "", *used)
