"""Notification of slot changes: each subscriber is called once for each change, in the order of subscription.

What belongs to the change itself (its record in the ledger) is called within the round that makes it, and goes to the
shim in the same message. All others are called once that message is sent, so they cannot delay a start.

When a process is replaced at once, its start does not wait for the ledger's record either: that is *owed*, and follows
as the next message. Until then the shim keeps what the slot was before, and a successor makes the record of that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from impetusd.core.rules.lifecycle import Slot
    from impetusd.supervisor.faults import Faults
    from impetusd.supervisor.slots.entry import Entry


class Change(NamedTuple):
    """A slot was `before`, and became `after`. By the time that somebody hears of it, it may be another already."""

    entry: Entry
    before: Slot
    after: Slot


class _Observer(NamedTuple):
    changed: Callable[[Change], object]
    stage: str
    of_held: bool


class Publisher:
    """The changes and their subscribers. An exception in one subscriber does not affect the others."""

    def __init__(self, faults: Faults, holds: Callable[[Entry], bool]) -> None:
        """`holds`: whether nothing is decided for a slot."""
        self._faults = faults
        self._holds = holds
        self._within: list[_Observer] = []
        self._later: list[_Observer] = []
        self._made: deque[Change] = deque()
        self.owed: dict[str, Change] = {}  # by slot, what `publish` is still to be called for, one change each
        self.paid: Callable[[Change], object] = lambda _: None  # called with each of those once it is published
        self._delivering = False

    def subscribe(
        self, changed: Callable[[Change], object], stage: str, *, within: bool = False, of_held: bool = True
    ) -> None:
        """Call `changed` on each change: `within` the round, or after it. `stage`: what it does, for the report if it
        raises.

        `of_held`: also of slots that are held.
        """
        (self._within if within else self._later).append(_Observer(changed, stage, of_held))

    def unsubscribe(self, changed: Callable[[Change], object]) -> None:
        """Stop calling it."""
        self._within = [each for each in self._within if each.changed != changed]
        self._later = [each for each in self._later if each.changed != changed]

    def publish(self, entry: Entry, before: Slot) -> None:
        """The slot has changed."""
        if entry.name in self.owed:  # one change after the other
            self._pay(self.owed.pop(entry.name))
        self._publish(Change(entry, before, entry.slot))

    def pay(self) -> list[str]:
        """Publish what is owed. Returns the slots' names."""
        names = list(self.owed)
        for name in names:
            self._pay(self.owed.pop(name))
        return names

    def _pay(self, change: Change) -> None:
        self._publish(change)
        self.paid(change)

    def _publish(self, change: Change) -> None:
        self._made.append(change)
        self._notify(self._within, change)

    def deliver(self) -> None:
        """The round is over. What observers do now may begin another one, whose changes come after these."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._made:
                self._notify(self._later, self._made.popleft())
        finally:
            self._delivering = False

    def _notify(self, observers: list[_Observer], change: Change) -> None:
        held = self._holds(change.entry)
        for observer in observers:
            if observer.of_held or not held:
                self._faults.contain(change.entry.name, observer.stage, observer.changed, change)
