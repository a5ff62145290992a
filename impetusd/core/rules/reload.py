"""Another version in the place of the one that serves: gated, and reversible until it has proved itself.

    LOADING  the next template imports the application
    FIRST    the first new processes start up
    WATCH    they serve beside all the old ones
    ROLLING  each new process takes the place of an old one, which drains; so many at a time start up
    PARKING  parked workers are replaced
    ENDING   no rollback is possible any more: the old template ends, and the next one takes its name
    DONE     entirely new
    BACK     the new processes go; where one has a place already, the old version takes it back
    FAILED   entirely old

`decide` is pure: the next step follows from the slots as they are, not from earlier steps. So a supervisor that starts
midway continues, and an order given twice is carried out once. The old version lives on in the old template, which
forks it anew at any time. Without one (programs, preload = no) an old process, once gone, does not come back; there all
new ones have to be ready before the first of them takes a place.

All times are seconds on the monotonic clock.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from enum import Enum
from math import sqrt
from typing import Any, NamedTuple

from impetusd.core.config.model import Kind, Unit
from impetusd.core.reasons import NONE, Reason, because, read
from impetusd.core.rules.lifecycle import IDLE, State
from impetusd.core.values import dataclass


class Phase(Enum):
    """The phase of a reload."""

    LOADING = "loading"
    FIRST = "first"
    WATCH = "watch"
    ROLLING = "rolling"
    PARKING = "parking"
    ENDING = "ending"
    DONE = "done"
    BACK = "back"
    FAILED = "failed"


OVER = frozenset({Phase.DONE, Phase.FAILED})
REVERSIBLE = frozenset({Phase.LOADING, Phase.FIRST, Phase.WATCH, Phase.ROLLING, Phase.PARKING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """One reload of one unit."""

    phase: Phase = Phase.LOADING
    generation: int  # of the next version
    began: float
    deadline: float | None = None  # of WATCH
    reason: Reason  # what it is made for
    asked: bool = True  # by an operator: not counted as a restart by a rule
    canaries: int = 0  # how many serve in WATCH and are compared with the old ones; 0: one serves, without comparison
    watch: float = 0.0
    token: str = ""  # of the command
    base: int | None = None  # the number of the process that forks the old version
    afresh: bool = False  # the next version cannot be forked: it starts threads at import
    failed: Reason = NONE  # why it was rolled back
    lines: tuple[str, ...] = ()  # the last words of the process that failed
    stuck: Reason = NONE  # what the rollback has not restored
    forward: bool = False  # no way back: the new version serves, and what forked the old one has ended
    again: Reason = NONE  # the reason for another one, as soon as this one is over
    took: float = 0.0


class Part(Enum):
    """A slot's part in a reload."""

    TEMPLATE = "template"
    NEXT_TEMPLATE = "next template"
    SERVING = "serving"
    NEXT = "next"  # it serves, too, and is to take the place of the serving slot with its index
    PARKED = "parked"
    LEAVING = "leaving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A slot as it is. `new`: what runs in it, or ran last, is of the next version."""

    part: Part
    index: int = 0
    state: State
    up: bool = True  # it is wanted up
    new: bool = False
    well: bool = True  # its health checks, if any, answer well
    told: bool = True  # the last words of its last process are known
    failed: Reason = NONE  # why it is down, though a process of the next version is wanted there


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All input of a decision besides the reload itself."""

    slots: tuple[Seen, ...]
    parallel: int = 1
    forks: bool = True  # the next version has a template
    parent: int | None = None  # the number of the template's process
    verdict: Reason | None = NONE  # on the new processes at the end of WATCH; None: not known yet


class Do(Enum):
    """The action on a slot."""

    START = "start"  # made if it is not there
    STOP = "stop"
    AGAIN = "again"  # a new process, whatever its state
    TAKE_OVER = "take over"  # NEXT in the place of SERVING
    ADOPT = "adopt"  # NEXT_TEMPLATE in the place of TEMPLATE
    FORGET = "forget"


class Order(NamedTuple):
    """One action to take."""

    do: Do
    part: Part
    slot: int = 0  # its index


Decision = tuple[Reload, tuple[Order, ...]]


@dataclass(frozen=True, slots=True)
class _Case:
    """What a phase decides from."""

    reload: Reload
    view: View
    now: float

    def of(self, part: Part) -> list[Seen]:
        return [slot for slot in self.view.slots if slot.part is part]

    @property
    def reversible(self) -> bool:
        """Whether the process that forks the old version is the one from before."""
        return self.reload.base is not None and self.reload.base == self.view.parent

    def go(self, phase: Phase, *orders: Order, **changes: Any) -> Decision:
        return replace(self.reload, phase=phase, **changes), orders

    def stay(self, orders: Iterable[Order]) -> Decision:
        return self.reload, tuple(orders)


def decide(reload: Reload, view: View, now: float) -> Decision:
    """The reload's next state at `now`, and the actions to take. If the phase has changed, call it again at once, else
    after any change.
    """
    case = _Case(reload, view, now)
    if reload.phase in REVERSIBLE and not any(slot.up for slot in case.of(Part.SERVING)):
        return fail(replace(reload, forward=False), because("not_wanted")), ()
    if _is_past_return(case):
        return case.go(Phase.ROLLING, forward=True, deadline=None)
    failed = next((slot.failed for slot in view.slots if slot.failed), NONE)
    if failed and reload.phase in REVERSIBLE and not reload.failed:
        return fail(reload, failed), ()
    return TABLE[reload.phase](case)


def fail(reload: Reload, why: Reason, lines: Iterable[str] = ()) -> Reload:
    """The reload after a new process has failed: on the way back, while there is one."""
    if reload.phase not in REVERSIBLE:
        return reload
    if reload.forward:
        return replace(reload, failed=reload.failed or why)
    return replace(reload, phase=Phase.BACK, failed=why, lines=tuple(lines), deadline=None)


def _is_past_return(case: _Case) -> bool:
    """True if the new version serves in some slots and the old one can no longer be forked.

    It may have ended by itself, or with the shim that had it.
    """
    reload = case.reload
    known = reload.forward or reload.base is None or case.reversible
    if known or reload.phase not in {Phase.ROLLING, Phase.PARKING, Phase.BACK}:
        return False
    return any(slot.new and slot.up for slot in case.of(Part.SERVING))


def _loading(case: _Case) -> Decision:
    if not case.view.forks:
        return case.go(Phase.FIRST)
    template = next(iter(case.of(Part.NEXT_TEMPLATE)), None)
    if template is None:
        return case.stay([Order(Do.START, Part.NEXT_TEMPLATE)])
    if template.state is State.RUNNING:
        return case.go(Phase.FIRST)
    return case.stay(())


def _first(case: _Case) -> Decision:
    old = [slot.index for slot in _old(case)][: max(1, case.reload.canaries)]
    if not set(old) <= _ready(case):
        unborn = [] if case.view.forks else [order for slot in case.of(Part.NEXT_TEMPLATE) for order in _away(slot)]
        return case.stay([*unborn, *_strays(case), *_starts(case, old)])
    if not case.reload.watch:
        return case.go(Phase.ROLLING)
    return case.go(Phase.WATCH, deadline=case.now + case.reload.watch)


def _watch(case: _Case) -> Decision:
    if case.reload.deadline is not None and case.now < case.reload.deadline:
        return case.stay(_strays(case))
    if case.view.verdict is None:
        return case.stay(())
    if case.view.verdict:
        return fail(case.reload, case.view.verdict), ()
    return case.go(Phase.ROLLING, deadline=None)


def _rolling(case: _Case) -> Decision:
    old, ready = _old(case), _ready(case)
    orders = [*_strays(case), *_starts(case, [slot.index for slot in old])]
    if not old:
        return case.stay(orders) if orders else case.go(Phase.PARKING)
    free = [slot for slot in old if slot.index in ready and _replaceable(case, slot)]
    if case.reversible:
        return case.stay([*orders, *(Order(Do.TAKE_OVER, Part.SERVING, slot.index) for slot in free)])
    rest = [slot for slot in old if slot not in free]
    if rest and not (case.reload.forward and case.reload.failed):
        return case.stay(orders)
    orders += [Order(Do.TAKE_OVER, Part.SERVING, slot.index) for slot in free]
    return case.go(Phase.ENDING, *orders, *(Order(Do.AGAIN, Part.SERVING, slot.index) for slot in rest))


def _parking(case: _Case) -> Decision:
    if _old(case):  # scaled up meanwhile
        return case.go(Phase.ROLLING)
    orders = _park(case)
    settled = all(slot.state is State.RUNNING for slot in case.of(Part.PARKED) + case.of(Part.SERVING) if slot.up)
    settled = settled or (case.reload.forward and bool(case.reload.failed))
    return case.stay(orders) if orders or not settled else case.go(Phase.ENDING)


def _ending(case: _Case) -> Decision:
    template = next(iter(case.of(Part.TEMPLATE)), None)
    if case.of(Part.NEXT_TEMPLATE):
        if template is None or template.state in IDLE:
            return case.stay([Order(Do.ADOPT, Part.TEMPLATE)])
        return case.stay([Order(Do.STOP, Part.TEMPLATE)] if template.up else [])
    orders = _park(case)
    if not case.view.forks and template is not None and template.up:
        orders.append(Order(Do.STOP, Part.TEMPLATE))
    busy = [slot for slot in case.view.slots if slot.up and slot.state not in {State.RUNNING, *IDLE}]
    if orders or busy or case.of(Part.LEAVING) or case.of(Part.NEXT):
        return case.stay([*orders, *_strays(case)])
    return case.go(Phase.DONE, took=case.now - case.reload.began)


def _back(case: _Case) -> Decision:
    strangers = [slot for slot in case.of(Part.NEXT) if slot.new]
    orders = [order for slot in case.of(Part.NEXT_TEMPLATE) + strangers for order in _away(slot)]
    wrong = {slot.index: slot for slot in case.of(Part.SERVING) if slot.new and slot.up}
    heirs = {slot.index: slot for slot in case.of(Part.NEXT) if not slot.new}
    for index, heir in heirs.items():
        if heir.state in IDLE or index not in wrong:
            orders += _away(heir)
    leaving = {slot.index for slot in case.of(Part.LEAVING)}
    room = case.view.parallel - sum(heir.state is not State.RUNNING for heir in heirs.values())
    for index, slot in wrong.items():
        if slot.state in {State.BACKOFF, *IDLE}:
            orders.append(Order(Do.AGAIN, Part.SERVING, index))
        elif slot.state is not State.RUNNING or index in leaving or case.reload.stuck:
            continue
        elif index in heirs:
            if heirs[index].state is State.RUNNING:
                orders.append(Order(Do.TAKE_OVER, Part.SERVING, index))
        elif room > 0 and index not in {each.index for each in strangers}:
            orders.append(Order(Do.START, Part.NEXT, index))
            room -= 1
    parked = [slot for slot in case.of(Part.PARKED) if slot.new and slot.up]
    again = [slot for slot in parked if slot.state in {State.RUNNING, State.BACKOFF, *IDLE}]
    orders += [Order(Do.AGAIN, Part.PARKED, slot.index) for slot in again]
    unsettled = parked or (wrong and not case.reload.stuck) or leaving or case.of(Part.NEXT)
    if orders or unsettled or case.of(Part.NEXT_TEMPLATE):
        return case.stay(orders)
    serves = any(slot.up for slot in case.of(Part.SERVING))
    lost = serves and case.reload.base is not None and not case.reversible
    stuck = case.reload.stuck or (because("from_disk") if lost else NONE)
    return case.go(Phase.FAILED, took=case.now - case.reload.began, stuck=stuck)


def _over(case: _Case) -> Decision:
    return case.stay(())


TABLE: dict[Phase, Callable[[_Case], Decision]] = {
    Phase.LOADING: _loading,
    Phase.FIRST: _first,
    Phase.WATCH: _watch,
    Phase.ROLLING: _rolling,
    Phase.PARKING: _parking,
    Phase.ENDING: _ending,
    Phase.DONE: _over,
    Phase.BACK: _back,
    Phase.FAILED: _over,
}


def _old(case: _Case) -> list[Seen]:
    """The places that are still to be taken."""
    return [slot for slot in case.of(Part.SERVING) if slot.up and not slot.new]


def _ready(case: _Case) -> set[int]:
    return {slot.index for slot in case.of(Part.NEXT) if slot.new and slot.state is State.RUNNING and slot.well}


def _replaceable(case: _Case, slot: Seen) -> bool:
    """Not while it is on its way to another state, or while its last process still leaves."""
    leaving = any(each.index == slot.index for each in case.of(Part.LEAVING))
    return not leaving and slot.state in {State.RUNNING, State.BACKOFF, *IDLE}


def _starts(case: _Case, wanted: list[int]) -> list[Order]:
    """New processes for the places in `wanted`, as many as may start up at once."""
    present = {slot.index for slot in case.of(Part.NEXT)}
    starting = len({slot.index for slot in case.of(Part.NEXT) if slot.new} - _ready(case))
    missing = [index for index in wanted if index not in present]
    return [Order(Do.START, Part.NEXT, index) for index in missing[: max(0, case.view.parallel - starting)]]


def _strays(case: _Case) -> list[Order]:
    """New processes whose place is gone, or that a rule made before this reload began."""
    wanted = {slot.index for slot in _old(case)}
    return [order for slot in case.of(Part.NEXT) if not slot.new or slot.index not in wanted for order in _away(slot)]


def _away(slot: Seen) -> list[Order]:
    if slot.state in IDLE:
        return [Order(Do.FORGET, slot.part, slot.index)] if slot.told else []
    return [Order(Do.STOP, slot.part, slot.index)] if slot.up else []


def _park(case: _Case) -> list[Order]:
    """One parked worker at a time."""
    parked = [slot for slot in case.of(Part.PARKED) if slot.up]
    if any(slot.state not in {State.RUNNING, *IDLE} for slot in parked):
        return []
    return [Order(Do.AGAIN, Part.PARKED, slot.index) for slot in parked if not slot.new][:1]


def overlaps(unit: Unit) -> bool:
    """Whether an old and a new process of the unit can serve side by side, each known to be ready by itself.

    A program has to take its sockets from us and report that it is ready: a connection proves nothing, because the old
    process accepts it.
    """
    if unit.kind is Kind.POOL:
        return True
    by_itself = unit.wait_ready or (unit.ready is not None and unit.ready.kind in {"log", "listen"})
    return unit.kind is Kind.PROGRAM and bool(unit.listen) and by_itself


def why_not(unit: Unit) -> Reason:
    """Why the unit cannot be reloaded and is restarted instead."""
    if not unit.listen:
        return because("no_listen")
    return because("no_wait_ready")


# Comparing the new processes with the old ones, at the end of WATCH.

LEAST_ERRORS = 3  # fewer may be chance, whatever share they are
Z = 3.0  # standard deviations: one comparison in 700 would be as bad by chance
MORE_MEMORY = 1.5  # times what the largest of the old ones uses
MORE_BYTES = 32 << 20  # and this more at least


class Count(NamedTuple):
    """What a process has answered, and what it uses. `errors`: answers of 500 and above."""

    requests: int = 0
    errors: int = 0
    memory: int = 0  # bytes


def verdict(old: Iterable[Count], new: Iterable[Count]) -> Reason:
    """The fault of the new ones; NONE if they are as good as the old ones."""
    old, new = list(old), list(new)
    asked, errors = sum(each.requests for each in new), sum(each.errors for each in new)
    asked_old, errors_old = sum(each.requests for each in old), sum(each.errors for each in old)
    if errors >= LEAST_ERRORS and _worse(errors, asked, errors_old, asked_old):
        return because("more_errors", errors=errors, requests=asked, errors_old=errors_old, requests_old=asked_old)
    memory, memory_old = max((each.memory for each in new), default=0), max((each.memory for each in old), default=0)
    if memory_old and memory > max(memory_old * MORE_MEMORY, memory_old + MORE_BYTES):
        return because("more_memory", used=memory, used_old=memory_old)
    return NONE


def _worse(errors: int, asked: int, errors_old: int, asked_old: int) -> bool:
    """Whether a share of errors is above another by more than chance explains (a two-proportion z-test)."""
    if not asked_old:
        return 2 * errors > asked
    share, share_old = errors / asked, errors_old / asked_old
    pooled = (errors + errors_old) / (asked + asked_old)
    spread = sqrt(pooled * (1 - pooled) * (1 / asked + 1 / asked_old))
    return share > share_old and (spread == 0 or (share - share_old) / spread > Z)


# As the shim keeps it for the next supervisor.

REASONS = ("reason", "failed", "stuck", "again")


def dump(reload: Reload) -> str:
    """The reload as a string: of each reason the sentence, which an older version reads, and below `causes` the reason."""
    data: dict[str, Any] = {each.name: getattr(reload, each.name) for each in fields(Reload)}
    causes = {name: data[name].data() for name in REASONS if data[name]}
    data.update({name: str(data[name]) for name in REASONS}, phase=reload.phase.value, causes=causes)
    return json.dumps(data, separators=(",", ":"))


def load(text: str) -> Reload:
    """The reload that `dump` wrote, maybe of a version that wrote more."""
    found: dict[str, Any] = json.loads(text)
    data = {each.name: found[each.name] for each in fields(Reload) if each.name in found}
    causes = found.get("causes") or {}
    data.update({name: read(causes.get(name), data.get(name, "")) for name in REASONS})
    return Reload(**{**data, "phase": Phase(data["phase"]), "lines": tuple(data["lines"])})
