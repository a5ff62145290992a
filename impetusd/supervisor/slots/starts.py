"""Starts, from the decision to the request to the shim, including waiting and failures.

It waits for dependencies, for an address that a process which ends still has, for the template, and for lookups on the
host (users, env_files). Any exception on the way is a failed start, and nothing of that start reaches the shim.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec

from impetusd.core.reasons import STAGES, Reason, because, not_started, of_os_error
from impetusd.core.rules import waits
from impetusd.core.rules.lifecycle import Exited, Gone, State
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.slots.entry import SERVING, Entry
from impetusd.supervisor.start import envfiles
from impetusd.supervisor.start.childspec import NOTHING, CannotStart, Found, LookUp

if TYPE_CHECKING:
    from impetusd.supervisor.slots.places import Places
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.rounds import Rounds
    from impetusd.supervisor.slots.versions import Versions
    from impetusd.supervisor.start.starter import Starter

P = ParamSpec("P")


class Starts:
    """The starts that were decided on; `waiting`: those that wait for other slots."""

    def __init__(self, slots: Slots, rounds: Rounds, versions: Versions, places: Places, starter: Starter) -> None:
        self._slots = slots
        self._rounds = rounds
        self._versions = versions
        self._places = places
        self._starter = starter
        self._outbox = starter.outbox
        self._loop = asyncio.get_running_loop()
        self.waiting: dict[str, Entry] = {}
        self._looking_up: set[asyncio.Task[None]] = set()

    def begin(self, entry: Entry) -> None:
        """Start a process in the slot, as soon as it need not wait any longer."""
        self._attempt(entry, "prepare", self._begin, entry)

    def wait(self, entry: Entry) -> None:
        """Start a process in the slot in its turn, as if it had waited until now."""
        self.waiting[entry.name] = entry

    def is_under_way(self, entry: Entry) -> bool:
        """Whether the slot waits for something here."""
        return entry.name in self.waiting or entry.waits is not None

    def cancel(self, entry: Entry) -> None:
        """Cancel a start that has not been sent to the shim."""
        if entry.rec.process is None:
            self._end_wait(entry)
            self._rounds.put((entry, Gone()))

    def fail(self, entry: Entry, failed: Reason) -> None:
        """It cannot be started."""
        self._end_wait(entry)
        self._rounds.put((entry, Exited(Exit(failed=failed, at=round(time.time(), 3)))))

    def _end_wait(self, entry: Entry) -> None:
        self.waiting.pop(entry.name, None)
        entry.waits = None

    def advance(self) -> None:
        """Start the slots that no longer have to wait."""
        for entry in list(self.waiting.values()):
            if entry.slot.state is not State.STARTING:
                self._end_wait(entry)
            else:
                self._slots.page.at(entry.name, "waiting for its turn")
                self._attempt(entry, "turn", self._begin_if_it_may, entry)

    def _begin_if_it_may(self, entry: Entry) -> None:
        entry.waits = self._gate(entry)  # what it waited for before may have come meanwhile
        if entry.waits is None:
            del self.waiting[entry.name]
            self._begin(entry)

    def _attempt(self, entry: Entry, stage: str, act: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call `act`, which starts a process. If it raises, the start has failed, and nothing of it reaches the shim."""
        mark = self._outbox.mark()
        port = 0
        try:
            act(*args, **kwargs)
            return
        except CannotStart as failure:
            failed, port = failure.reason, failure.port
        except OSError as failure:  # the host's: no descriptor is left, say
            failed = not_started(stage, of_os_error(failure))
        except Exception as failure:
            failed = not_started(stage, self._slots.faults.note(entry.name, STAGES[stage], failure))
        self._starter.roll_back(mark)
        if entry.rec.process is not None:
            self._slots.by_process.pop(entry.rec.process, None)
            entry.rec.process = None
        if port:
            self.waiting.pop(entry.name, None)
            entry.waits = lambda: because("waits_for_holder", end=failed)
            self._in_background(entry, functools.partial(self._fail_for_a_port, entry, failed, port))
        else:
            self.fail(entry, failed)

    # What it waits for.

    def _gate(self, entry: Entry) -> Callable[[], Reason] | None:
        """What the start has to wait for, as a function that makes the reason; None if it may go on."""
        slots = self._slots
        if entry.rec.gated:
            for name in entry.unit.depends_on:
                unit = slots.units[name]
                if unit.enabled and not slots.is_ready(unit):
                    return lambda: _waits_for(name, slots.of_unit(unit))
        if self._parked(entry) is not None:
            return None
        beside = slots.by_unit[entry.unit.name]
        ending = [e for e in beside if e is not entry and e.rec.slot.state is State.STOPPING]
        if ending and self._starter.listeners.has_to_bind(entry.unit):
            return lambda: because("waits_for_address", name=ending[0].name)
        template = self._versions.parent(entry) if entry.works else None
        if template is not None and template.slot.state is not State.RUNNING:
            return lambda: _waits_for(template.name, [template])
        return None

    def _parked(self, entry: Entry) -> Entry | None:
        """A process that waits to be put to work here; there is none where the unit has no other slot."""
        if entry.role not in SERVING or len(self._slots.by_unit[entry.unit.name]) == 1:
            return None
        return self._places.parked(entry)

    def _is_at(self, entry: Entry, since: float) -> bool:
        """Whether it is still the start of `since`: it may have been stopped, and even started again, meanwhile."""
        return entry.slot.state is State.STARTING and entry.slot.since == since and entry.rec.process is None

    def _in_background(self, entry: Entry, work: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        """Go on with the slot's start, which has failed if this raises. `work` takes since when the slot is STARTING."""
        since = entry.slot.since

        async def attended() -> None:
            try:
                await work(since)
            except Exception as error:
                why = self._slots.faults.note(entry.name, STAGES["look_up"], error)
                if self._is_at(entry, since):
                    self.fail(entry, not_started("look_up", why))
                    self._rounds.wake()

        task = self._loop.create_task(attended())
        self._looking_up.add(task)
        task.add_done_callback(self._looking_up.discard)

    async def _fail_for_a_port(self, entry: Entry, failed: Reason, port: int, since: float) -> None:
        """Another process has the port: find out which one, then fail the start."""
        holder = await self._starter.look_ups.holder(port)
        if self._is_at(entry, since):
            if holder:
                cause = because("port_held", cause=failed.facts["cause"], holder=holder)
                failed = not_started(failed.facts["stage"], cause, failed.facts["what"])
            self.fail(entry, failed)
            self._rounds.wake()

    async def _launch_when_found(self, entry: Entry, since: float) -> None:
        found: Found | Reason
        self._slots.page.blank()
        try:
            found = await self._starter.look_ups.of(entry.unit)
        except CannotStart as error:
            found = error.reason
        except Exception as error:
            found = not_started("look_up", self._slots.faults.note(entry.name, STAGES["look_up"], error))
        if not self._is_at(entry, since):
            return
        entry.waits = None
        self._slots.page.at(entry.name, "starting it")
        if isinstance(found, Reason):
            self.fail(entry, found)
        else:
            self._attempt(entry, "prepare", self._launch, entry, found)
        self._rounds.wake()

    # Nothing is waited for any more.

    def _begin(self, entry: Entry) -> None:
        entry.waits = self._gate(entry)
        if entry.waits is not None:
            self.wait(entry)
            return
        parked = self._parked(entry)
        if parked is not None:
            self._places.promote(entry, parked)
            return
        unit = entry.unit
        known = self._slots.facts.of[unit.name].get("generation", 0)
        entry.rec.generation = self._versions.generation(entry) if unit.name in self._versions.of else int(known)
        asks = unit.user or unit.group or unit.env_file or unit.listen or unit.made
        if not (asks and LookUp(unit).needed):
            self._launch(entry, NOTHING)
            return
        entry.waits = lambda: because("waits_for_host")
        self._in_background(entry, functools.partial(self._launch_when_found, entry))

    def _launch(self, entry: Entry, found: Found) -> None:
        slots = self._slots
        template = self._versions.parent(entry) if entry.works else None
        process = self._starter.launch(entry, found, template.rec.process if template is not None else None)
        slots.by_process[process] = slots.dirty[entry.name] = entry
        entry.rec.process = process
        if entry.unit.env_file or slots.facts.of[entry.unit.name].get("env_files"):
            own = template is None and entry.unit.env_file  # a forked worker has its template's
            slots.facts.started_with(entry, envfiles.digest(found.env_file) if own else "", slots.entries)
        if template is not None:
            entry.rec.slot = waits.forking(entry.policy, entry.slot, time.monotonic())


def _waits_for(name: str, entries: Iterable[Entry]) -> Reason:
    entries = list(entries)
    oneshot = bool(entries) and entries[0].unit.type == "oneshot"
    return waits.waits_for(name, (entry.slot for entry in entries), oneshot=oneshot)
