"""Quarantine after supervisor crashes: exit code 70, a fault signal, or killed by the shim for being unresponsive.

The shim notes each such end, with the slot that was being handled. Two within WITHIN seconds over the same slot
quarantine that slot; two over none have the whole instance held (hold-only mode). So does an end over a slot that is
already in quarantine, because then something else is wrong. A SIGKILL from outside is not noted.

Held slots are handled by `step`, which is not part of `core.rules.lifecycle.TABLE`: that may be what fails. It records
how a process ends, carries out a stop, and decides nothing else.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import asdict, field, replace
from typing import Any

from impetusd.core.config.model import Autorestart
from impetusd.core.reasons import NONE, Reason
from impetusd.core.rules import lifecycle
from impetusd.core.rules.lifecycle import (
    Action,
    Deadline,
    Event,
    Exited,
    Gone,
    Scope,
    Signal,
    Slot,
    Spawned,
    State,
    Stop,
    Want,
)
from impetusd.core.rules.policy import Policy, signal_name
from impetusd.core.values import dataclass

WITHIN = 60.0  # seconds between two ends
# What the shim remembers: the ends that it has noted (`shim.wire`), and what follows from those that have counted.
ENDS, HELD = "ends", "held"
QUARANTINED, HOLD_ONLY = "quarantined", "hold-only"  # the keys of the reasons
# Methods of the control protocol that start, replace or change something.
BEGIN = frozenset({"start", "restart", "reload", "scale", "trigger", "apply", "enable", "disable"})


@dataclass(frozen=True, slots=True)
class End:
    """One end of a supervisor: `at` on the monotonic clock, `time` in Unix time, `how` in words, `slot` "" if it was at none."""

    at: float
    time: float
    how: str
    slot: str
    stage: str


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is held: how the supervisor last ended, what it was handling, and when (Unix time)."""

    how: str
    stage: str
    time: float


@dataclass(frozen=True, slots=True)
class Held:
    """What is held: `slots` by name, which a unit's own name is for all of its slots; `whole`: the instance."""

    slots: Mapping[str, Cause] = field(default_factory=dict)
    whole: Cause | None = None


def judge(ends: Iterable[End], before: Held) -> tuple[Held, list[End]]:
    """What is held now, and the ends that may still count with one that comes; `ends` in their order."""
    slots, whole = dict(before.slots), before.whole
    rest: list[End] = []

    def blamed(end: End) -> str:
        return "" if end.slot in slots else end.slot

    for end in ends:
        rest = [each for each in rest if end.at - each.at <= WITHIN]
        first = next((each for each in rest if blamed(each) == blamed(end)), None)
        if first is None:
            rest.append(end)
            continue
        rest.remove(first)
        cause = Cause(end.how, end.stage, end.time)
        if blamed(end):
            slots[end.slot] = cause
        else:
            whole = whole or cause
    return Held(slots, whole), rest


def ends_of(text: str) -> list[tuple[End, Any]]:
    """The ends noted by the shim, each with its original object. Invalid ones are left out."""
    try:
        found = json.loads(text)
    except ValueError:
        return []
    return [(end, each) for each in (found if isinstance(found, list) else ()) if (end := _end(each)) is not None]


def _end(noted: Any) -> End | None:
    try:
        how = "unresponsive for too long and killed"
        if "signal" in noted:
            how = f"killed by {signal_name(noted['signal'])}"
        elif "code" in noted:
            how = f"exit {int(noted['code'])}"
        return End(float(noted["at"]), float(noted["time"]), how, str(noted["slot"]), str(noted["stage"]))
    except (TypeError, ValueError, KeyError):
        return None


def dump(held: Held) -> str:
    """As a string, for the next supervisor."""
    return json.dumps(asdict(held))


def load(text: str) -> Held:
    """Load what `dump` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    found = json.loads(text)
    slots = {str(name): _cause(each) for name, each in dict(found["slots"]).items()}
    return Held(slots, None if found["whole"] is None else _cause(found["whole"]))


def _cause(found: Mapping[str, Any]) -> Cause:
    return Cause(str(found["how"]), str(found["stage"]), float(found["time"]))


def facts(key: str, cause: Cause) -> dict[str, Any]:
    """The text that `status` shows for it. `at` is Unix time."""
    return {"key": key, "how": cause.how, "stage": cause.stage, "at": cause.time, "times": 2, "within_s": WITHIN}


def reason(held: Mapping[str, Any]) -> Reason:
    """The same as a reason."""
    return Reason(held["key"], {name: held[name] for name in ("how", "stage", "within_s")})


def way_out(key: str, name: str = "NAME") -> str:
    """What the operator can do to leave that state."""
    if key == QUARANTINED:
        return f"impetusd stop {name}, then impetusd start {name}"
    return "impetusd upgrade (programs keep running), or impetusd stop and impetusd start"


# What is held.


def step(policy: Policy, slot: Slot, event: Event, now: float, *, lives: bool) -> tuple[Slot, tuple[Action, ...]]:
    """The next state of a held slot after `event`. `lives`: whether anything of its process tree lives, as far as
    known."""
    match event:
        case Stop():
            return _stop(policy, slot, now, lives=lives)
        case Deadline() if slot.state is State.STOPPING and lives:
            slot = replace(slot, kills=slot.kills + 1, deadline=now + lifecycle.kill_again(policy))
            return slot, (Signal(signal.SIGKILL, _scope(policy)),)
        case Spawned(pid) if slot.pid is None and slot.state in {State.STARTING, State.STOPPING}:
            slot = replace(slot, pid=pid, started=now)
            stopping, started = slot.state is State.STOPPING, replace(slot, state=State.STARTING)
            return _stop(policy, started, now, lives=True) if stopping else (slot, ())
        case Exited(exit, left):
            return _exited(policy, replace(slot, pid=None, last_exit=exit), now, left=left and policy.treekill)
        case Gone() if slot.pid is None:
            return _exited(policy, slot, now, left=False)
        case _:
            return slot, ()


def _scope(policy: Policy) -> Scope:
    return Scope.TREE if policy.treekill else Scope.MAIN


def _stop(policy: Policy, slot: Slot, now: float, *, lives: bool) -> tuple[Slot, tuple[Action, ...]]:
    slot = replace(slot, want=Want.DOWN, asked=False, failed=NONE, due=NONE)
    if not lives:
        return _rests(slot, State.STOPPED, now), ()
    if slot.state is State.STOPPING and slot.deadline is not None:
        return slot, ()
    slot = replace(slot, state=State.STOPPING, since=now, kills=0, reason=NONE, deadline=now + policy.kill_timeout)
    return slot, (Signal(policy.kill_signal, _scope(policy)), Signal(signal.SIGCONT, _scope(policy)))


def _exited(policy: Policy, slot: Slot, now: float, *, left: bool) -> tuple[Slot, tuple[Action, ...]]:
    """The slot once it is no longer held: if wanted up, BACKOFF without a deadline, to be started again."""
    if left and slot.state is State.STOPPING:
        slot = replace(slot, deadline=slot.deadline or now + policy.kill_timeout)
        return slot, (Signal(signal.SIGTERM, Scope.REST), Signal(signal.SIGCONT, Scope.REST))
    if slot.want is Want.DOWN:
        return _rests(slot, State.STOPPED, now), ()
    once = policy.autorestart is Autorestart.NEVER
    return _rests(slot, State.EXITED if once else State.BACKOFF, now), ()


def _rests(slot: Slot, state: State, now: float) -> Slot:
    return replace(slot, state=state, since=now, pid=None, started=None, deadline=None, reason=NONE)


def begin(slot: Slot, now: float, policy: Policy, *, lives: bool) -> Slot:
    """The slot when its quarantine starts: only the deadline of a stop remains."""
    if slot.state is State.STOPPING and lives:
        return replace(slot, deadline=slot.deadline or now + policy.kill_timeout)
    if slot.state in {State.STARTING, State.STOPPING} and not lives:
        return _exited(policy, slot, now, left=False)[0]
    return replace(slot, deadline=None)


def end(slot: Slot, now: float) -> Slot:
    """A slot once it is no longer held: if it has ended meanwhile and is wanted up, it is due to be started."""
    waits = slot.state is State.BACKOFF and slot.deadline is None
    return replace(slot, deadline=now) if waits else slot
