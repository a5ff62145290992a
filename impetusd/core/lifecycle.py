"""The state machine of one slot. Everything that moves a slot from one state to another is in this file.

Two axes: what a slot *is* (`State`, the names and numbers of `supervisor.states`) and what is *wanted* (`Want`).

    STOPPED   nothing runs, nothing is wanted
    STARTING  asked to run; without a pid it waits for its turn, with one it is not ready yet
    RUNNING   ready
    BACKOFF   ended by itself; the deadline starts it again
    STOPPING  told to end, or ended and what it left behind is being ended; want UP: it is started again afterwards
    EXITED    ended by itself, as it should: with 0 or one of stop_exit_codes, and autorestart leaves it at that
    FATAL     given up; `reason` says why; only a command starts it again

The rules:
  1. `step` is pure: policy, slot, event, clock and jitter go in; the new slot and the actions come out.
  2. TABLE has a cell for every state and event. An event that means nothing in a state is an explicit `_ignore`.
  3. A slot has one deadline. What its passing means is the cell of (state, Deadline).
  4. Each start that nobody asked for goes through `_retry`, which counts it.
  5. A pid is there in STARTING, RUNNING and STOPPING only.

All times are seconds on the monotonic clock, which survives a restart of the supervisor (it counts from boot).
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from typing import TypeAlias

from supervisor.states import ProcessStates

from impetusd.core.policy import Exit, Fate, Policy, delay, fate


class State(IntEnum):
    """What a slot is."""

    STOPPED = ProcessStates.STOPPED
    STARTING = ProcessStates.STARTING
    RUNNING = ProcessStates.RUNNING
    BACKOFF = ProcessStates.BACKOFF
    STOPPING = ProcessStates.STOPPING
    EXITED = ProcessStates.EXITED
    FATAL = ProcessStates.FATAL


class Want(Enum):
    """What the operator wants of a slot."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One place in which one process at a time lives."""

    state: State = State.STOPPED
    want: Want = Want.DOWN
    since: float = 0.0  # when `state` was entered
    deadline: float | None = None
    pid: int | None = None
    started: float | None = None  # when the present process was spawned
    asked: bool = False  # the start that follows this stop was asked for
    failed: str = ""  # why the present process is being stopped as a failure
    kills: int = 0  # SIGKILLs sent in the present stop
    failures: int = 0  # runs in a row that did not last min_uptime
    restarts: int = 0  # starts that nobody asked for, ever
    recent: tuple[float, ...] = ()  # those within restart_window
    reason: str = ""
    last_exit: Exit | None = None


# Events: what happens to a slot.


@dataclass(frozen=True, slots=True)
class Start:
    """The operator, the boot or a dependent wants it up."""


@dataclass(frozen=True, slots=True)
class Stop:
    """The operator, or the end of the daemon, wants it down."""


@dataclass(frozen=True, slots=True)
class Restart:
    """The operator wants a new process."""


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process now lives here."""

    pid: int


@dataclass(frozen=True, slots=True)
class Ready:
    """READY=1 from the process."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The process ended, or could not be started; `left` is true while descendants of it live."""

    exit: Exit
    left: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """Nothing of this slot is left: its last descendant ended, or a start that had to wait was called off."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The slot's deadline has passed."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The process moved to another slot (a parked worker was put to work); this one needs another."""


Event: TypeAlias = Start | Stop | Restart | Spawned | Ready | Exited | Gone | Deadline | Taken
EVENTS: tuple[type[Event], ...] = (Start, Stop, Restart, Spawned, Ready, Exited, Gone, Deadline, Taken)


# Actions: what the engine is to do.


class Scope(Enum):
    """Whom a signal is for."""

    MAIN = "main"  # the process itself
    REST = "rest"  # its descendants without it
    TREE = "tree"  # both


@dataclass(frozen=True, slots=True)
class Spawn:
    """Bring a process to life; the answer is Spawned, or Exited with a stage."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """Call the start off; the answer is Gone when it had not been carried out yet, Spawned when it had."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Send `number` to `scope`."""

    number: int
    scope: Scope


Action: TypeAlias = Spawn | Cancel | Signal
Step: TypeAlias = tuple[Slot, tuple[Action, ...]]


def step(policy: Policy, slot: Slot, event: Event, now: float, jitter: float) -> Step:
    """What `event` makes of `slot` at `now`, and what is to be done. `jitter` in [0, 1) spreads delays."""
    return TABLE[slot.state, type(event)](_Case(policy, slot, event, now, jitter))


@dataclass(frozen=True, slots=True)
class _Case:
    policy: Policy
    slot: Slot
    event: Event
    now: float
    jitter: float


def _enter(case: _Case, slot: Slot, state: State, reason: str = "", deadline: float | None = None) -> Slot:
    return replace(slot, state=state, since=case.now, reason=reason, deadline=deadline)


def _ignore(case: _Case) -> Step:
    return case.slot, ()


def _launch(case: _Case, slot: Slot, reason: str = "") -> Step:
    slot = replace(slot, want=Want.UP, pid=None, started=None, asked=False, failed="", kills=0)
    return _enter(case, slot, State.STARTING, reason), (Spawn(),)


def _start(case: _Case) -> Step:
    """A start that was asked for: the past is forgiven."""
    return _launch(case, replace(case.slot, failures=0, recent=()))


def _want_up(case: _Case) -> Step:
    return replace(case.slot, want=Want.UP), ()


def _rest(case: _Case) -> Step:
    """Down is wanted and nothing runs."""
    return _enter(case, replace(case.slot, want=Want.DOWN), State.STOPPED), ()


def _cancel_or_end(case: _Case) -> Step:
    slot = replace(case.slot, want=Want.DOWN)
    if slot.pid is None:
        return _enter(case, slot, State.STOPPING), (Cancel(),)
    return _end(case, slot)


def _end_for_good(case: _Case) -> Step:
    return _end(case, replace(case.slot, want=Want.DOWN))


def _end_and_start(case: _Case) -> Step:
    if case.slot.pid is None:  # it is about to start anyway
        return case.slot, ()
    return _end(case, replace(case.slot, asked=True))


def _end(case: _Case, slot: Slot, reason: str = "") -> Step:
    """SIGTERM (or kill_signal) now; the deadline kills. SIGCONT, for a stopped process hears nothing else."""
    slot = _enter(case, slot, State.STOPPING, reason, case.now + case.policy.kill_timeout)
    return slot, (Signal(case.policy.kill_signal, Scope.MAIN), Signal(signal.SIGCONT, Scope.MAIN))


def _start_again(case: _Case) -> Step:
    """Wanted up while it is being stopped: it is started when the stop is complete."""
    return replace(case.slot, want=Want.UP, asked=True), ()


def _stay_down(case: _Case) -> Step:
    return replace(case.slot, want=Want.DOWN, asked=False), ()


def _spawned(case: _Case) -> Step:
    assert isinstance(case.event, Spawned)
    if case.slot.pid is not None:
        return case.slot, ()
    wait = case.policy.listen_timeout if case.policy.wait_ready else case.policy.min_uptime
    return replace(case.slot, pid=case.event.pid, started=case.now, deadline=case.now + wait), ()


def _spawned_too_late(case: _Case) -> Step:
    """The stop came while the start was under way."""
    assert isinstance(case.event, Spawned)
    if case.slot.pid is not None:
        return case.slot, ()
    return _end(case, replace(case.slot, pid=case.event.pid, started=case.now))


def _ready(case: _Case) -> Step:
    if case.slot.pid is None:
        return case.slot, ()
    return _enter(case, case.slot, State.RUNNING), ()


def _still_starting(case: _Case) -> Step:
    """Without wait_ready, having lived min_uptime is being ready; with it, listen_timeout is the end of patience."""
    if not case.policy.wait_ready:
        return _ready(case)
    failed = f"not ready within {case.policy.listen_timeout:g} s"
    return _end(case, replace(case.slot, failed=failed), failed)


def _exited(case: _Case) -> Step:
    assert isinstance(case.event, Exited)
    slot = case.slot
    lasted = slot.state is State.RUNNING and case.now - (slot.started or case.now) >= case.policy.min_uptime
    slot = replace(slot, pid=None, last_exit=case.event.exit, failures=0 if lasted else slot.failures + 1)
    if case.event.left and case.policy.treekill:
        return _end_rest(case, _enter(case, slot, State.STOPPING, f"{case.event.exit}; ending what it left behind"))
    return _after(case, slot)


def _exited_as_told(case: _Case) -> Step:
    assert isinstance(case.event, Exited)
    failures = case.slot.failures + 1 if case.slot.failed else case.slot.failures
    slot = replace(case.slot, pid=None, last_exit=case.event.exit, failures=failures)
    if case.event.left and case.policy.treekill:
        return _end_rest(case, slot)
    return _after(case, slot)


def _end_rest(case: _Case, slot: Slot) -> Step:
    """The main process is gone and descendants live: they get the rest of the time that a stop has."""
    deadline = case.now + case.policy.kill_timeout if slot.deadline is None else slot.deadline
    return replace(slot, deadline=deadline), (Signal(signal.SIGTERM, Scope.REST), Signal(signal.SIGCONT, Scope.REST))


def _gone(case: _Case) -> Step:
    if case.slot.pid is not None:
        return case.slot, ()
    return _after(case, case.slot)


def _kill(case: _Case) -> Step:
    scope = Scope.TREE if case.policy.treekill else Scope.MAIN
    reason = case.slot.reason
    if case.slot.kills:
        reason = "does not end on SIGKILL: it hangs in the kernel (state D in ps); only that ending frees it"
    slot = replace(
        case.slot,
        kills=case.slot.kills + 1,
        reason=reason,
        deadline=case.now + max(case.policy.kill_timeout, 1.0),
    )
    return slot, (Signal(signal.SIGKILL, scope),)


def _after(case: _Case, slot: Slot) -> Step:
    """Nothing of the slot runs any more: what now?"""
    if slot.want is Want.DOWN:
        return _enter(case, slot, State.STOPPED), ()
    if slot.asked or slot.last_exit is None:
        return _launch(case, slot)
    end = slot.failed or str(slot.last_exit)
    verdict = fate(case.policy, Exit(stage=slot.failed) if slot.failed else slot.last_exit)
    if verdict is Fate.RETRY:
        return _retry(case, slot, end)
    if verdict is Fate.FATAL:
        return _enter(case, slot, State.FATAL, end), ()
    return _enter(case, slot, State.EXITED, end), ()


def _retry(case: _Case, slot: Slot, end: str) -> Step:
    """The only way to a start that nobody asked for: counted, delayed, refused above max_restarts."""
    policy = case.policy
    wait = delay(policy, slot.failures, case.jitter)
    due = case.now + wait
    recent = tuple(at for at in slot.recent if at > due - policy.restart_window)
    if len(recent) >= policy.max_restarts:
        given_up = f"{end}; gave up after {len(recent)} restarts in {policy.restart_window:g} s"
        return _enter(case, replace(slot, recent=recent), State.FATAL, given_up), ()
    slot = replace(slot, recent=(*recent, due), restarts=slot.restarts + 1)
    if wait > 0:
        return _enter(case, slot, State.BACKOFF, f"{end} ({len(slot.recent)} of {policy.max_restarts})", due), ()
    return _launch(case, slot, end)


def _launch_again(case: _Case) -> Step:
    return _launch(case, case.slot, case.slot.reason)


_S = State
TABLE: dict[tuple[State, type[Event]], Callable[[_Case], Step]] = {
    (_S.STOPPED, Start): _start,
    (_S.STOPPED, Stop): _ignore,
    (_S.STOPPED, Restart): _start,
    (_S.STOPPED, Spawned): _ignore,
    (_S.STOPPED, Ready): _ignore,
    (_S.STOPPED, Exited): _ignore,
    (_S.STOPPED, Gone): _ignore,
    (_S.STOPPED, Deadline): _ignore,
    (_S.STOPPED, Taken): _ignore,
    (_S.STARTING, Start): _want_up,
    (_S.STARTING, Stop): _cancel_or_end,
    (_S.STARTING, Restart): _end_and_start,
    (_S.STARTING, Spawned): _spawned,
    (_S.STARTING, Ready): _ready,
    (_S.STARTING, Exited): _exited,
    (_S.STARTING, Gone): _ignore,
    (_S.STARTING, Deadline): _still_starting,
    (_S.STARTING, Taken): _ignore,
    (_S.RUNNING, Start): _ignore,
    (_S.RUNNING, Stop): _end_for_good,
    (_S.RUNNING, Restart): _end_and_start,
    (_S.RUNNING, Spawned): _ignore,
    (_S.RUNNING, Ready): _ignore,
    (_S.RUNNING, Exited): _exited,
    (_S.RUNNING, Gone): _ignore,
    (_S.RUNNING, Deadline): _ignore,
    (_S.RUNNING, Taken): _launch_again,
    (_S.BACKOFF, Start): _start,
    (_S.BACKOFF, Stop): _rest,
    (_S.BACKOFF, Restart): _start,
    (_S.BACKOFF, Spawned): _ignore,
    (_S.BACKOFF, Ready): _ignore,
    (_S.BACKOFF, Exited): _ignore,
    (_S.BACKOFF, Gone): _ignore,
    (_S.BACKOFF, Deadline): _launch_again,
    (_S.BACKOFF, Taken): _ignore,
    (_S.STOPPING, Start): _start_again,
    (_S.STOPPING, Stop): _stay_down,
    (_S.STOPPING, Restart): _start_again,
    (_S.STOPPING, Spawned): _spawned_too_late,
    (_S.STOPPING, Ready): _ignore,
    (_S.STOPPING, Exited): _exited_as_told,
    (_S.STOPPING, Gone): _gone,
    (_S.STOPPING, Deadline): _kill,
    (_S.STOPPING, Taken): _ignore,
    (_S.EXITED, Start): _start,
    (_S.EXITED, Stop): _rest,
    (_S.EXITED, Restart): _start,
    (_S.EXITED, Spawned): _ignore,
    (_S.EXITED, Ready): _ignore,
    (_S.EXITED, Exited): _ignore,
    (_S.EXITED, Gone): _ignore,
    (_S.EXITED, Deadline): _ignore,
    (_S.EXITED, Taken): _ignore,
    (_S.FATAL, Start): _start,
    (_S.FATAL, Stop): _rest,
    (_S.FATAL, Restart): _start,
    (_S.FATAL, Spawned): _ignore,
    (_S.FATAL, Ready): _ignore,
    (_S.FATAL, Exited): _ignore,
    (_S.FATAL, Gone): _ignore,
    (_S.FATAL, Deadline): _ignore,
    (_S.FATAL, Taken): _ignore,
}
