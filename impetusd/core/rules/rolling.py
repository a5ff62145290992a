"""Which process is replaced next, of those in one unit that are well and due for it.

One at a time: the template first, because all others are forked from it; then parked workers; then those that serve,
and of these the one for which the next process is there already. `decide` is pure, and reads everything off the slots
as they are: a supervisor that comes up in the middle goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

from impetusd.core.reasons import Reason
from impetusd.core.rules.lifecycle import IDLE, Slot, State, Want, has_budget
from impetusd.core.rules.policy import Policy
from impetusd.core.rules.reload import Part
from impetusd.core.values import dataclass

ORDER = (Part.TEMPLATE, Part.PARKED, Part.SERVING)
ON_ITS_WAY = frozenset({State.STARTING, State.STOPPING, State.BACKOFF})


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A slot as it is.

    `due`: its process must be replaced; `heir`: another is ready to take its place at once; `told`: the last output of
    its last process is known.
    """

    part: Part
    index: int = 0
    state: State
    up: bool = True
    due: bool = False
    heir: bool = False
    told: bool = True


class Do(Enum):
    """The action on a slot."""

    NOT_DUE = "not due"  # it is getting a new process anyway, or none is wanted
    STOP = "stop"
    FORGET = "forget"
    CALL_OFF = "call off"  # its replacement does not come up
    HAND_OVER = "hand over"  # another takes its place, and it leaves
    MAKE = "make"  # start another, to take its place
    RESTART = "restart"  # in its own place


class Order(NamedTuple):
    """One action to take. `slot`: which of the given slots; `why`: the one that causes it."""

    do: Do
    slot: int
    why: int = -1


def may_replace(policy: Policy, slot: Slot, now: float, *, asked: bool) -> bool:
    """Whether the process of this slot can be replaced. By a rule of the INI file only within the budget of restarts: a
    healthy process is better than none.
    """
    if slot.want is Want.DOWN or slot.state is not State.RUNNING:
        return False
    return asked or has_budget(policy, slot, now)


def not_replaced(slot: Slot, reason: Reason) -> Slot:
    """The slot whose process stays because its replacement does not come up."""
    return replace(slot, reason=reason)


def tidy(slots: Sequence[Seen], *, reloading: bool) -> list[Order]:
    """Actions that follow from the slots' present states, before anything more is replaced; in the slots' order."""
    orders: list[Order] = []
    due = {at for at, slot in enumerate(slots) if slot.due}
    for at, slot in enumerate(slots):
        if at in due and slot.state is not State.RUNNING:
            orders.append(Order(Do.NOT_DUE, at))
            due.discard(at)
        if slot.part is Part.LEAVING and slot.state is State.RUNNING and slot.up and not _is_awaited(slots, slot):
            orders.append(Order(Do.STOP, at))
        if reloading:
            continue
        if slot.part in {Part.TEMPLATE, Part.PARKED, Part.NEXT} and slot.state is State.FATAL:
            orders += [Order(Do.CALL_OFF, each, at) for each in sorted(due)]
            due.clear()
        if slot.part is Part.NEXT and slot.state in IDLE and slot.told:
            orders.append(Order(Do.FORGET, at))
    return orders


def _is_awaited(slots: Sequence[Seen], leaving: Seen) -> bool:
    """Whether the old process has to serve until its replacement does."""
    heir = next((each for each in slots if each.part is Part.SERVING and each.index == leaving.index), None)
    return heir is not None and heir.state is not State.RUNNING and heir.up


def decide(slots: Sequence[Seen], *, overlaps: bool) -> list[Order]:
    """The next step in a unit that is tidied. `overlaps`: two of its processes can serve side by side."""
    if any(slot.state in ON_ITS_WAY or slot.part is Part.LEAVING for slot in slots):
        return []
    made_for = {slot.index for slot in slots if slot.part is Part.NEXT}
    due = [at for at, slot in enumerate(slots) if slot.due and slot.part in ORDER]
    due.sort(key=lambda at: (ORDER.index(slots[at].part), slots[at].index not in made_for))
    orders = _first(slots, due[0], overlaps=overlaps) if due else []
    replaced = {order.slot for order in orders if order.do is not Do.MAKE}
    awaited = {slots[at].index for at in due if slots[at].part is Part.SERVING and at not in replaced}
    for at, slot in enumerate(slots):  # the one that it was made for is gone otherwise
        if slot.part is Part.NEXT and slot.state is State.RUNNING and slot.index not in awaited:
            orders.append(Order(Do.STOP, at))
    return orders


def _first(slots: Sequence[Seen], at: int, *, overlaps: bool) -> list[Order]:
    if slots[at].part is not Part.SERVING or not overlaps:
        return [Order(Do.RESTART, at)]
    if slots[at].heir:
        return [Order(Do.HAND_OVER, at)]
    coming = any(slot.part in {Part.PARKED, Part.NEXT} for slot in slots)
    return [] if coming else [Order(Do.MAKE, at)]
