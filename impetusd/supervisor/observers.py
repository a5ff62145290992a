"""Who is to know of a change of a slot: each has subscribed, and is called once for each change, in the order of subscription.

A change is published within the round that made it, so that what follows from it (a record of the ledger, say) goes to the
shim in the same message.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from impetusd.core.rules.lifecycle import Slot
from impetusd.supervisor.slots.entry import Entry

if TYPE_CHECKING:
    from impetusd.supervisor.faults import Faults

Changed = Callable[[Entry, Slot], object]  # the slot as it is now, and what it was before


class _Observer(NamedTuple):
    changed: Changed
    stage: str
    of_held: bool


class Publisher:
    """One kind of news, and who has subscribed to it. What raises in one of them concerns no other."""

    def __init__(self, faults: Faults, holds: Callable[[Entry], bool]) -> None:
        """`holds`: whether nothing is decided for a slot."""
        self._faults = faults
        self._holds = holds
        self._observers: list[_Observer] = []

    def subscribe(self, changed: Changed, stage: str, *, of_held: bool = True) -> None:
        """Have `changed` called. `stage` names it where it raises; `of_held`: for slots that are held, too."""
        self._observers.append(_Observer(changed, stage, of_held))

    def unsubscribe(self, changed: Changed) -> None:
        """Call it no more."""
        self._observers = [each for each in self._observers if each.changed != changed]

    def publish(self, entry: Entry, before: Slot) -> None:
        """The slot has changed."""
        held = self._holds(entry)
        for observer in self._observers:
            if observer.of_held or not held:
                self._faults.contain(entry.name, observer.stage, observer.changed, entry, before)
