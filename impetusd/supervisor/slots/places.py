"""In which slot a process lives, and who serves: processes move from slot to slot, and sockets follow whether anybody accepts.

A parked worker is put to work (`promote`), the next process takes the place of one that serves (`hand_over`), the next
template that of the one before (`rename`). What becomes of the slots is decided in `core.rules.places`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from impetusd.core.config.model import Kind
from impetusd.core.rules import places as core
from impetusd.core.rules.lifecycle import IDLE, Event, HandOver, Ready, Slot, Spawned, State, Taken, Want
from impetusd.supervisor.slots.entry import PASSING, Entry, Role, differ, serving, slot_name

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit
    from impetusd.supervisor.observers import Publisher
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.rounds import Rounds
    from impetusd.supervisor.slots.versions import Versions
    from impetusd.supervisor.start.starter import Starter


class Places:
    """Which process is in which place."""

    def __init__(
        self,
        slots: Slots,
        rounds: Rounds,
        versions: Versions,
        *,
        starter: Starter,
        changes: Publisher,
        log: Callable[[str], None],
    ) -> None:
        """`changes`: where what becomes of a slot by a move is published; `log`: the daemon's."""
        self._slots = slots
        self._rounds = rounds
        self._versions = versions
        self._starter = starter
        self._changes = changes
        self._log = log

    # Moving.

    def parked(self, worker: Entry) -> Entry | None:
        """A process that waits to be put to work, of the version that is due there, and may be in the place of this one."""
        generation = self._versions.generation(worker)
        return next(
            (
                entry
                for entry in self._slots.of_unit(worker.unit)
                if entry.role in {Role.STANDBY, Role.NEXT}
                and entry.slot.state is State.RUNNING
                and entry.rec.process is not None
                and entry.rec.generation == generation
                and (entry.index == worker.index or (entry.role is Role.STANDBY and not differ(worker.unit)))
                and not self._rounds.leaves(entry)
            ),
            None,
        )

    def promote(self, worker: Entry, parked: Entry) -> None:
        """A parked worker is put to work: its process, its pipes and its generation move; nothing is started."""
        self._starter.listeners.let_in(worker.unit)
        inbox = self._rounds.inbox
        events: list[tuple[Entry, Event]] = [(parked, _taken(parked)), (worker, Spawned(parked.slot.pid or 0))]
        if parked.role is Role.NEXT:
            events.append((worker, Ready()))
        self._started_with(worker, self._slots.facts.started_as(parked))
        self._move(parked, worker)
        inbox += events

    def hand_over(self, worker: Entry, parked: Entry, event: HandOver) -> None:
        """Another process takes the place of one that serves, which goes on in a slot of its own until it leaves."""
        slots, contain, inbox = self._slots, self._slots.faults.contain, self._rounds.inbox
        events: list[tuple[Entry, Event]] = [(parked, _taken(parked)), (worker, event)]
        slots.replacing[worker.unit.name] = (
            worker.unit
        )  # first: the leaving process must be ended whatever is raised below
        leaving = slots.make(worker.unit, Role.LEAVING, worker.index)
        try:
            self._started_with(leaving, slots.facts.started_as(worker))
            self._started_with(worker, slots.facts.started_as(parked))
            leaving.rec.slot = core.leaving(worker.slot)
            self._move(worker, leaving)
            try:
                self._move(parked, worker)
            except BaseException:
                self._move(leaving, worker)
                slots.by_pid[worker.slot.pid or 0] = worker
                raise
        except BaseException:
            slots.unmake(leaving)
            raise
        inbox += events  # else the slots would wait for ever for ends of processes that are not theirs any more
        if leaving.rec.slot.pid is not None:
            slots.by_pid[leaving.rec.slot.pid] = leaving
        contain(leaving.name, "showing it", slots.sort)
        self._changes.publish(leaving, Slot())

    def rename(self, source: Entry, target: Entry) -> None:
        """The process of `source` is that of `target`, in which none runs, from now on."""
        before, after, inbox = target.slot, core.renamed(source.slot, target.slot), self._rounds.inbox
        events: list[tuple[Entry, Event]] = [(source, Taken(again=False))]
        self._started_with(target, self._slots.facts.started_as(source))
        self._move(source, target)
        inbox += events
        target.rec.slot = after
        if after.pid is not None:
            self._slots.by_pid[after.pid] = target
        self._changes.publish(target, before)

    def _started_with(self, entry: Entry, digest: str) -> None:
        self._slots.facts.started_with(entry, digest, self._slots.entries)

    def _move(self, source: Entry, target: Entry) -> None:
        """The process of `source`, with its log pipes, lives in `target` from now on; or, if this raises, not."""
        process, pid = source.rec.process, source.slot.pid
        if process is None or pid is None:
            raise AssertionError(f"{source.name} is RUNNING without a process")
        self._starter.pipes.swap(target, source)
        try:
            if target.serves:
                self._starter.channels.put_to_work(process, target.name)
        except BaseException:
            self._starter.pipes.swap(target, source)
            raise
        # From here on nothing is called that could raise.
        target.rec.process, source.rec.process = process, None
        target.rec.generation = source.rec.generation
        by_process, by_pid, dirty = self._slots.by_process, self._slots.by_pid, self._slots.dirty
        by_process[process] = target
        if pid in by_pid:
            del by_pid[pid]
        dirty[source.name], dirty[target.name] = source, target

    # Which processes serve.

    def end_gently(self, entry: Entry, process: int) -> None:
        """The process is about to be signalled to end: without a successor, refuse new connections."""
        if self._is_last(entry):
            self._starter.listeners.drop_new_connections(entry.unit)
            self._starter.channels.send(process, {"do": "quit"})

    def _is_last(self, entry: Entry) -> bool:
        """Whether this process has no successor: then its idle connections need not be waited for."""

        def serves(e: Entry) -> bool:
            return e.serves or e.role is Role.PROGRAM

        if not serves(entry) or entry.slot.want is Want.UP:
            return False
        others = [e for e in self._slots.of_unit(entry.unit) if serves(e) and e is not entry and not e.dismissed]
        stopping = self._rounds.stopping()
        return all(other.slot.want is Want.DOWN or other in stopping for other in others)

    def clear(self, entry: Entry) -> None:
        """Nothing runs in the slot any more: forget it if it was only passing, and close what nobody listens on."""
        if entry.slot.state not in IDLE:  # it is started again already
            return
        if entry.role is Role.LEAVING:
            heir = self._slots.entries.get(slot_name(entry.unit, serving(entry.unit), entry.index))
            if heir is not None:
                heir.rec.slot = core.outlived(heir.slot, entry.slot)
                self._slots.touch(heir)
        gone = entry.dismissed or entry.role in PASSING
        if entry.role is Role.LEAVING or (gone and entry.slot.state is State.STOPPED):
            self._slots.dismiss(entry)
        present = self._slots.of_unit(entry.unit)
        if not self._keeps_waiting(entry.unit) and all(each.slot.state in IDLE for each in present):
            for each in [entry, *present]:
                self._starter.listeners.close(each.unit)

    def _keeps_waiting(self, unit: Unit) -> bool:
        """Whether clients should wait although the unit was given up."""
        if unit.on_fatal != "hold":
            return False
        return any(each.slot.state is State.FATAL for each in self._slots.of_unit(unit))

    def refuse_if_nobody_serves(self, unit: Unit) -> None:
        """A template and parked workers hold a pool's sockets, too: clients must be refused all the same."""
        if unit.kind is not Kind.POOL or self._slots.is_leaving(unit):
            return
        if self._keeps_waiting(unit) or self._slots.holds_any(unit):
            return
        if not any(self._may_serve(entry) for entry in self._slots.of_unit(unit)) and self._starter.listeners.refuse(
            unit
        ):
            self._log(f"{unit.name}: no workers are running; refusing connections until one starts")

    def _may_serve(self, entry: Entry) -> bool:
        """Whether the slot's process accepts connections, or one that will is on its way."""
        if not (entry.serves or entry.role is Role.LEAVING):
            return False
        if entry.slot.pid is not None or entry.rec.process is not None or entry.slot.state is State.STOPPING:
            return True
        if entry.slot.state in IDLE:
            return False
        template = self._versions.parent(entry)
        return template is None or template.slot.state not in IDLE or self.parked(entry) is not None


def _taken(entry: Entry) -> Taken:
    return core.taken(standby=entry.role is Role.STANDBY, dismissed=entry.dismissed)
