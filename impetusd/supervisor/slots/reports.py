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
from impetusd.supervisor.slots.entry import FORKING, Entry, Role

if TYPE_CHECKING:
    from impetusd.supervisor.slots.places import Places
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
        places: Places,
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
        self._places = places
        self._starts = starts
        self._starter = starter
        self._oom = oom
        self._acted = acted

    def hear(self, event: dict[str, Any]) -> None:
        """An event from the shim, which is not lost whatever exception it causes."""
        process, by_process = event["process"], self._slots.by_process
        entry = by_process[process] if process in by_process else None  # noqa: SIM401  # nothing is called
        pid = entry.slot.pid if entry is not None else None
        try:
            if entry is not None:
                self._slots.page.at(entry.name, f"hearing that it {event['event']}")
            self._hear(event)
        except Exception as error:
            source = entry.name if entry is not None else "the shim"
            self._faults.note(source, f"hearing that it {event['event']}", error)
            if entry is not None:
                self._hear_again(entry, pid, event)

    def _hear(self, event: dict[str, Any]) -> None:
        entry = self._slots.by_process.get(event["process"])
        match event["event"]:
            case "spawned" if entry is not None:
                self.limited(entry, event)
                self._rounds.post(entry, Spawned(event["pid"]))
            case "exited":
                self.exited(event)
            case "gone" if entry is not None:
                self._places.release(entry)
                self._rounds.post(entry, Gone())

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
                    self._places.release(entry)
                    self._rounds.put((entry, Gone()))
                case "exited":
                    self._starter.outbox.ack(process)
                    end = _exit_of(event)
                    if not event["left"]:
                        self._places.release(entry)
                    self._rounds.put((entry, Exited(end, event["left"])))
        self._rounds.wake()

    def limited(self, entry: Entry, event: Mapping[str, Any]) -> None:
        """Which limits of its process's cgroup are not in force, as the shim says it."""
        causes = event.get("limits") or {}
        entry.unlimited = {key: read(causes[file]) for file, key in LIMITS.items() if file in causes}

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
        """A process has ended; the shim keeps the fact until we have written it down."""
        process = event["process"]
        self._starter.outbox.ack(process)
        entry = self._slots.by_process.get(process)
        if entry is None:
            self._rounds.wake()
            return
        pid = entry.slot.pid
        if entry.unit.kind is Kind.POOL and pid is not None:
            self._faults.contain(entry.name, "blanking its cell", self._starter.listeners.blank_cell, entry.unit, pid)
        end = _exit_of(event)
        left = bool(event["left"]) and entry.policy.treekill
        held = self._slots.holds(entry)
        try:
            end = self._looked_at(entry, end, event)
            unborn = cause_key(end.failed) in TEMPLATE_GONE or (
                "unknown" in event and entry.works and entry.slot.pid is None
            )
            if unborn and entry.slot.state is State.STARTING and not held:
                # No run of this slot has failed: there was nobody to fork it, or the shim was killed over it.
                if event["left"]:  # and what it has left is nobody's: it goes before another is started
                    self._starter.outbox.signal(process, signal.SIGKILL, Scope.TREE)
                self._places.release(entry)
                self._starts.wait(entry)
                self._rounds.wake()
                return
            if not held:
                self._before_its_end(entry, end, event)
        except Exception as error:
            self._faults.note(entry.name, "looking at how it ended", error)
        if not left:
            self._places.release(entry)
        self._rounds.post(entry, Exited(end, left))

    def _looked_at(self, entry: Entry, end: Exit, event: Mapping[str, Any]) -> Exit:
        """`end` with core dump, CPU time, memory, and whether the kernel killed it for memory."""
        oom = end.oom
        if end.signal == signal.SIGKILL and not entry.slot.kills and entry.slot.pid is not None:
            counted = "out of memory, as its cgroup's memory.events says" if event.get("oom") else ""
            oom = self._oom(entry.slot.pid, entry.slot.started or 0.0) or counted
            if event.get("over_limit") and entry.unit.memory_max:
                over = because("memory_max", limit=entry.unit.memory_max)
                oom = str(over)
                self._acted(entry, over)
        used = event.get("cpu_s", end.cpu_s), event.get("max_rss", end.max_rss)
        return replace(end, oom=oom, core=event.get("core", end.core), cpu_s=used[0], max_rss=used[1])

    def _before_its_end(self, entry: Entry, end: Exit, event: Mapping[str, Any]) -> None:
        """Further consequences of an end besides that the process is gone."""
        if errno_of(end.failed) == errno.EMFILE:  # the shim may have none of its pipes: the next start makes others
            self._starter.pipes.forget(entry)
        if end.code == EX_THREADS and entry.role is Role.TEMPLATE:
            # No fork survives what the application does at import: each worker is executed afresh.
            self._slots.note(entry.unit, afresh=True)
            self._rounds.post(entry, Stop())
        if end.code == EX_THREADS and entry.role is Role.NEXT_TEMPLATE:
            self._versions.starts_threads(entry)
        begun = {State.STARTING, State.RUNNING} if entry.role in FORKING else {State.STARTING} if entry.works else set()
        if event.get("unknown") and entry.slot.state in begun:
            self._rounds.put((entry, Restart()))  # it has ended because the shim had: none of its failures

    def ready(self, pid: int) -> bool:
        """READY=1 from `pid`. False when no slot has that pid (yet)."""
        entry = self._slots.of_pid(pid)
        if entry is None:
            return False
        self._rounds.post(entry, Ready())
        return True


def _exit_of(event: Mapping[str, Any]) -> Exit:
    """How a process ended, as the shim says it; an older shim gives no cause."""
    failed = NONE
    if event.get("stage"):
        failed = read_start(event.get("cause"), event["stage"], event.get("error", ""))
    return Exit(event.get("code"), event.get("signal"), failed, round(event["at"], 3))
