"""Turns events into actions: `core.rules.lifecycle.step` decides, and this carries it out, slot by slot.

Handling one event for one slot is a transaction: an exception costs that slot its start or process, and no other.
Each slot has one timer, which is set once the round in which its deadline has changed is sent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from impetusd.core.config.model import Kind
from impetusd.core.reasons import not_started
from impetusd.core.rules import lifecycle, places, quarantine
from impetusd.core.rules.lifecycle import (
    IDLE,
    Cancel,
    Deadline,
    Event,
    Exited,
    Gone,
    Ping,
    Signal,
    Slot,
    Spawn,
    State,
    Want,
)
from impetusd.supervisor import chance
from impetusd.supervisor.faults import CONTAINED
from impetusd.supervisor.observers import Change, Publisher
from impetusd.supervisor.slots.entry import PASSING, SERVING, Entry, Role

if TYPE_CHECKING:
    from impetusd.supervisor.slots.places import Places
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.rounds import Rounds
    from impetusd.supervisor.slots.starts import Starts
    from impetusd.supervisor.slots.tails import Tails
    from impetusd.supervisor.slots.versions import Versions
    from impetusd.supervisor.start.starter import Starter

LATE = 1.0  # seconds by which a watchdog's timer is late when it was we who hung, or the host that slept


class Machine:
    """Handles what is in the inbox. Every method is called in the event loop's thread and returns without waiting."""

    def __init__(
        self,
        slots: Slots,
        rounds: Rounds,
        versions: Versions,
        places: Places,
        starts: Starts,
        *,
        tails: Tails,
        starter: Starter,
        changes: Publisher,
    ) -> None:
        """`changes`: where each change is published, once what follows from it was carried out."""
        self._slots = slots
        self._faults = slots.faults
        self._rounds = rounds
        self._versions = versions
        self._places = places
        self._starts = starts
        self._tails = tails
        self._starter = starter
        self._changes = changes
        self._loop = asyncio.get_running_loop()
        self._stage = ""  # of the event that is being handled
        changes.paid = self._after_end
        # Called with a change in a unit that is being reloaded, of which nothing was carried out yet.
        self.reloading: Callable[[Change], object] = lambda _: None
        self.not_forked: Callable[[Entry], object] = lambda _: None  # called when a template has not forked it in time

    # Deciding.

    def handle(self, entry: Entry, event: Event) -> None:
        """Handle one event for one slot. An exception costs this slot its start or its process, and affects no other."""
        before, self._stage = entry.rec.slot, "deciding"  # nothing is called that could raise
        try:
            slots = self._slots
            slots.page.at(entry.name, f"deciding on {type(event).__name__}")
            if (slots.held.slots or slots.held.whole is not None) and slots.holds(entry):
                self._faults.contain(entry.name, "quarantining it", self._handle_held, entry, event)
            else:
                self._handle(entry, event)
        except CONTAINED as error:
            self._mend(entry, event, before, error)

    def _handle(self, entry: Entry, event: Event) -> None:
        before, now = entry.rec.slot, time.monotonic()
        try:
            after, actions = lifecycle.step(entry.policy, before, event, now, chance.fraction())
        except Exception as error:
            why = self._faults.note(entry.name, f"deciding on {type(event).__name__} in {before.state.name}", error)
            after, actions = lifecycle.undecided(entry.policy, before, event, now, why)
        if not actions and after == before:
            return
        self._stage = "entering"
        self._enter(entry, after)
        if isinstance(event, Exited) and before.pid is not None and self._follows_later(entry, actions):
            self._changes.owed[entry.name] = Change(entry, before, after)
            self._stage = "starting"
            self._starts.begin(entry)
            return
        name, contain = entry.name, self._faults.contain
        if after.pid is None and before.pid is not None:
            contain(name, "finishing its log lines", self._starter.pipes.end_run, entry)
        if isinstance(event, Exited) and (entry.role is Role.JOB or (after.want is Want.UP and not after.asked)):
            contain(name, "requesting its last lines", self._tails.fetch, entry, before.pid)
        if self._versions.active(entry.unit) is not None:
            contain(name, "continuing its reload", self.reloading, Change(entry, before, after))
        for action in actions:
            self._carry_out(entry, action)
        self._follow_up(entry, before)

    def _follows_later(self, entry: Entry, actions: Sequence[lifecycle.Action]) -> bool:
        """Whether a start follows its end at once, and need not wait for its record, log lines and last words."""
        if len(actions) != 1 or not isinstance(actions[0], Spawn):
            return False
        if entry.role not in SERVING or entry.unit.kind is Kind.POOL or entry.unit.name in self._versions.of:
            return False
        return entry.name not in self._changes.owed

    def _after_end(self, change: Change) -> None:
        """What follows an end, now that the next start is on its way, or has failed."""
        entry, contain = change.entry, self._faults.contain
        pipes = self._starter.pipes
        begun = entry.rec.process is not None  # and its output, from where the other's ended
        contain(entry.name, "finishing its log lines", pipes.read if begun else pipes.end_run, entry)
        contain(entry.name, "requesting its last lines", self._tails.fetch, entry, change.before.pid)

    def _handle_held(self, entry: Entry, event: Event) -> None:
        """Nothing is decided for the slot: what happens to it is recorded, and a stop is carried out."""
        before, now = entry.slot, time.monotonic()
        lives = entry.rec.process is not None
        after, actions = quarantine.step(entry.policy, before, event, now, lives=lives)
        if after == before and not actions:
            return
        self._enter(entry, after)
        if after.pid is None and before.pid is not None:
            self._faults.contain(entry.name, "finishing its log lines", self._starter.pipes.end_run, entry)
        for action in actions:
            if isinstance(action, Signal) and entry.rec.process is not None:
                self._starter.outbox.signal(entry.rec.process, action.number, action.scope)
        self._changes.publish(entry, before)
        if entry.rec.process is None and after.state not in {State.STARTING, State.STOPPING}:
            if entry.role in PASSING or entry.dismissed:
                self._slots.dismiss(entry)
            if after.state is State.STOPPED:
                self._release_stopped(entry)

    def _enter(self, entry: Entry, after: Slot) -> None:
        """Set the slot's new state, and the index and record that follow from it."""
        before, entry.rec.slot = entry.rec.slot, after
        self._slots.dirty[entry.name] = entry
        if after.pid != before.pid:
            by_pid = self._slots.by_pid
            if before.pid is not None and by_pid.get(before.pid) is entry:
                del by_pid[before.pid]
            if after.pid is not None:
                by_pid[after.pid] = entry
        if after.state is State.RUNNING and before.state is not State.RUNNING:
            entry.rec.gated = False
            entry.rec.tail = ()

    def _carry_out(self, entry: Entry, action: lifecycle.Action) -> None:
        """Entirely or not at all."""
        process = entry.rec.process
        match action:
            case Spawn():
                self._starts.begin(entry)
            case Cancel():
                self._starts.cancel(entry)
            case Signal(number, scope) if process is not None:
                if number == entry.policy.kill_signal:
                    self._faults.contain(entry.name, "preparing its end", self._places.end_gently, entry, process)
                self._starter.outbox.signal(process, number, scope)

    def _follow_up(self, entry: Entry, before: Slot) -> None:
        """Publish the change of its state, and clear up after it."""
        self._stage = "publishing"
        self._changes.publish(entry, before)
        self._stage = "clearing up"
        # One that goes for good is EXITED first, then STOPPED: it is cleared up after twice.
        if entry.slot.state in IDLE and entry.slot.state is not before.state:
            self._faults.attempt(entry.name, "cleaning up after it", self._clear, entry)
        if entry.role is not Role.TEMPLATE or entry.slot.state is not State.STARTING:  # its workers are notified next
            refuse = self._places.refuse_if_nobody_serves
            self._faults.contain(entry.name, "checking which pools serve", refuse, entry.unit)

    def _clear(self, entry: Entry) -> None:
        self._places.clear(entry)
        self._rounds.wake()  # what waits for this goes on, where it is not within a round

    def _mend(self, entry: Entry, event: Event, before: Slot, error: BaseException) -> None:
        """An exception between two steps, which nothing smaller has contained: bring the slot into a state that is looked after."""
        stage = self._stage
        why = self._faults.note(entry.name, f"{stage} on {type(event).__name__}", error)
        actions: tuple[lifecycle.Action, ...] = ()
        if entry.slot == before and stage in {"deciding", "entering"}:
            after, actions = lifecycle.undecided(entry.policy, before, event, time.monotonic(), why)
            entry.rec.slot = after
        slot, process = entry.slot, entry.rec.process
        self._enter(entry, slot)
        entries = self._slots.entries.values()
        self._slots.by_pid = {each.slot.pid: each for each in entries if each.slot.pid is not None}
        for action in actions:
            self._carry_out(entry, action)
        if slot.pid is None and process is None and not actions and not self._starts.is_under_way(entry):
            if slot.state is State.STARTING:
                self._starts.fail(entry, not_started("start", why))
            elif slot.state is State.STOPPING:
                self._rounds.put((entry, Gone()))
        if stage in {"deciding", "entering"}:
            self._follow_up(entry, before)

    def refuse(self, entry: Entry, starting: Slot, refused: Slot) -> None:
        """A start has ended before it has begun: the slot as it would have been, and as it is."""
        self._enter(entry, refused)
        self._changes.publish(entry, starting)

    # The timer.

    def arm(self, entry: Entry) -> None:
        """Set a timer for its deadline."""
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        entry.armed = entry.slot.deadline
        if entry.armed is not None:
            entry.timer = self._loop.call_at(entry.armed, self._deadline, entry)

    def ping(self, entry: Entry) -> None:
        """WATCHDOG=1. Nothing is written down and no timer moved: the timer looks again when it is due."""
        if self._slots.holds(entry):
            return
        entry.rec.slot, _ = lifecycle.step(entry.policy, entry.slot, Ping(), time.monotonic(), 0.0)
        if entry.timer is None:
            self.arm(entry)

    def _deadline(self, entry: Entry) -> None:
        entry.timer = None
        try:
            self._slots.page.at(entry.name, "checking its deadline")
            self._look_at_deadline(entry)
            self._slots.page.blank()
        except Exception as error:
            self._faults.note(entry.name, "checking its deadline", error)
            entry.timer = self._loop.call_later(LATE, self._deadline, entry)

    def _look_at_deadline(self, entry: Entry) -> None:
        slot, now = entry.slot, time.monotonic()
        if slot.deadline is not None and now - slot.deadline > LATE:
            entry.rec.slot = slot = places.heard_again(entry.policy, slot, now)
        if slot.deadline is not None and slot.deadline > now:  # it has been moved since
            self.arm(entry)
            return
        if slot.pid is None and slot.started is None and entry.rec.process is not None and not self._slots.holds(entry):
            self._faults.contain(entry.name, "checking its fork", self.not_forked, entry)
        if slot.state is not State.STARTING or slot.pid is not None:
            self._rounds.post(entry, Deadline())

    # What is held: see `core.rules.quarantine`.

    def _release_stopped(self, entry: Entry) -> None:
        """End the quarantine of stopped slots: the next start is the operator's."""
        for name in (entry.name, entry.unit.name):
            covered = [each for each in self._slots.entries.values() if name in {each.name, each.unit.name}]
            if name in self._slots.held.slots and all(each.rec.process is None for each in covered):
                self.release([name])

    def release(self, names: Collection[str] | None = None) -> None:
        """Release these (names of `Held.slots`); None: all that is held, with all that has counted against it."""
        slots, now = self._slots, time.monotonic()
        known = [entry for entry in slots.entries.values() if slots.holds(entry)]
        if names is None:
            slots.held = quarantine.Held()
            self._starter.outbox.put(quarantine.ENDS, None)
        else:
            kept = {name: cause for name, cause in slots.held.slots.items() if name not in names}
            slots.held = replace(slots.held, slots=kept)
        self._starter.outbox.put(
            quarantine.HELD, quarantine.dump(slots.held) if slots.held != quarantine.Held() else None
        )
        for entry in known:
            if not slots.holds(entry):
                entry.rec.slot = quarantine.end(entry.slot, now)
                self.arm(entry)
                self._rounds.write_down(entry)
