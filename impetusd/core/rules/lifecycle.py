"""The state machine of one slot. Everything that moves a slot from one state to another is in this file.

Two axes: what a slot *is* (`State`, the names and numbers of `supervisor.states`) and what is *wanted* (`Want`).

    STOPPED   nothing runs, nothing is wanted
    STARTING  asked to run; without a pid it waits for its turn, with one it is not ready yet
    RUNNING   ready
    BACKOFF   ended by itself; the deadline starts it again
    STOPPING  signalled to end, or ended and its leftovers are being ended; want UP: it is started again afterwards
    EXITED    ended by itself, as it should: with 0 or one of stop_exit_codes, and autorestart leaves it at that
    FATAL     given up; `reason` says why; a command starts it again, or the deadline, once every retry_after

The rules:
  1. `step` is pure: policy, slot, event, clock and jitter go in; the new slot and the actions come out.
  2. TABLE has a cell for every state and event. An event that means nothing in a state is an explicit `_ignore`.
  3. A slot has one deadline. What its passing means is the cell of (state, Deadline).
  4. Each automatic start is counted and within the budget of max_restarts in restart_window: after an end
     by `_retry`, from FATAL by `_try_once`, for a process that is replaced before it ends by `_hand_over`.
  5. A pid is there in STARTING, RUNNING and STOPPING only.

All times are seconds on the monotonic clock, which survives a restart of the supervisor (it counts from boot).

It is longer than other files, because TABLE is read together with the functions in its cells, which are half of it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from enum import Enum, IntEnum
from typing import Any, TypeAlias

from supervisor.states import ProcessStates

from impetusd.core.config.model import Autorestart
from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules.policy import Exit, ExitVerdict, Policy, delay, judge
from impetusd.core.values import dataclass

ABORT_GRACE = 2.0  # seconds that a process which hangs has to write down where
UNKILLABLE = 5.0  # seconds after SIGKILL at which nobody need wait any more for the kernel to let go of a process


class State(IntEnum):
    """The state of a slot."""

    STOPPED = ProcessStates.STOPPED
    STARTING = ProcessStates.STARTING
    RUNNING = ProcessStates.RUNNING
    BACKOFF = ProcessStates.BACKOFF
    STOPPING = ProcessStates.STOPPING
    EXITED = ProcessStates.EXITED
    FATAL = ProcessStates.FATAL


IDLE = frozenset({State.STOPPED, State.EXITED, State.FATAL})  # nothing runs, or is about to


class Want(Enum):
    """The desired state of a slot."""

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
    asked: bool = False  # the start that follows this stop was requested
    failed: Reason = NONE  # why the present process is being stopped as a failure
    due: Reason = NONE  # why the present process, though well, is being replaced by another
    kills: int = 0  # SIGKILLs sent in the present stop
    failures: int = 0  # runs in a row that did not last min_uptime
    restarts: int = 0  # automatic starts, ever
    recent: tuple[float, ...] = ()  # those within restart_window
    half_open: bool = False  # tried once after it was given up: one more failure and it is given up again
    reason: Reason = NONE
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
    """Nothing of this slot is left: its last descendant ended, or a waiting start was cancelled."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The slot's deadline has passed."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The process moved to another slot (a parked worker was put to work); this one needs another, if `again`."""

    again: bool = True


@dataclass(frozen=True, slots=True)
class HandOver:
    """The process with `pid`, which is started up, takes over here; the one before lives on in a slot of its own.

    `serves`: it is RUNNING already and does not send READY=1 again.
    """

    pid: int
    reason: Reason
    asked: bool = False
    serves: bool = False


@dataclass(frozen=True, slots=True)
class Recycle:
    """A rule of the INI (its age, its memory, a changed file) wants a new process in the place of a healthy one."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Fail:
    """The process is judged to be broken, by a health check or its memory; `hard`: it is killed at once."""

    reason: Reason
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Ping:
    """WATCHDOG=1 from the process: it is alive."""


Event: TypeAlias = (
    Start | Stop | Restart | Spawned | Ready | Exited | Gone | Deadline | Taken | HandOver | Recycle | Fail | Ping
)
EVENTS: tuple[type[Event], ...] = (
    Start,
    Stop,
    Restart,
    Spawned,
    Ready,
    Exited,
    Gone,
    Deadline,
    Taken,
    HandOver,
    Recycle,
    Fail,
    Ping,
)


# Actions: what the engine is to do.


class Scope(Enum):
    """Which processes a signal goes to."""

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
    """What `event` makes of `slot` at `now`, and the actions to take. `jitter` in [0, 1) spreads delays."""
    return TABLE[slot.state, type(event)](_Case(policy, slot, event, now, jitter))


@dataclass(frozen=True, slots=True)
class _Case:
    """The input of a cell of the table."""

    policy: Policy
    slot: Slot
    event: Event
    now: float
    jitter: float


def _enter(
    case: _Case, slot: Slot, state: State, reason: Reason = NONE, deadline: float | None = None, **more: Any
) -> Slot:
    """The slot in another state, and with `more` fields changed: each copy of a slot takes 10 µs of a restart."""
    return replace(slot, state=state, since=case.now, reason=reason, deadline=deadline, **more)


def _ignore(case: _Case) -> Step:
    return case.slot, ()


def _launch(case: _Case, slot: Slot, reason: Reason = NONE, **more: Any) -> Step:
    more |= {"want": Want.UP, "pid": None, "started": None, "asked": False, "failed": NONE, "due": NONE, "kills": 0}
    return _enter(case, slot, State.STARTING, reason, **more), (Spawn(),)


def _start(case: _Case) -> Step:
    """A requested start: earlier failures are forgotten."""
    return _launch(case, case.slot, failures=0, recent=(), half_open=False)


def _want_up(case: _Case) -> Step:
    return replace(case.slot, want=Want.UP), ()


def _settle_stopped(case: _Case) -> Step:
    """Down is wanted and nothing runs."""
    return _enter(case, replace(case.slot, want=Want.DOWN), State.STOPPED), ()


def _cancel_or_end(case: _Case) -> Step:
    slot = replace(case.slot, want=Want.DOWN)
    if slot.pid is None:
        return _enter(case, slot, State.STOPPING, deadline=case.now + case.policy.kill_timeout), (Cancel(),)
    return _end(case, slot)


def _end_for_good(case: _Case) -> Step:
    return _end(case, replace(case.slot, want=Want.DOWN))


def _end_and_start(case: _Case) -> Step:
    if case.slot.pid is None:  # it is about to start anyway
        return case.slot, ()
    return _end(case, replace(case.slot, asked=True))


def _end(case: _Case, slot: Slot, reason: Reason = NONE) -> Step:
    """SIGTERM (or kill_signal) now; the deadline kills. SIGCONT, because a stopped process receives nothing else."""
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
    policy = case.policy
    wait = policy.listen_timeout if policy.wait_ready or policy.oneshot else policy.settling
    deadline = case.now + wait if wait or not policy.oneshot else None
    return replace(case.slot, pid=case.event.pid, started=case.now, deadline=deadline), ()


def _spawned_too_late(case: _Case) -> Step:
    """The stop came while the start was under way."""
    assert isinstance(case.event, Spawned)
    if case.slot.pid is not None:
        return case.slot, ()
    return _end(case, replace(case.slot, pid=case.event.pid, started=case.now))


def _ready(case: _Case) -> Step:
    if case.slot.pid is None or case.policy.oneshot:
        return case.slot, ()
    return _enter(case, case.slot, State.RUNNING, deadline=_next_ping(case)), ()


def _next_ping(case: _Case) -> float | None:
    return case.now + case.policy.watchdog if case.policy.watchdog else None


def _still_starting(case: _Case) -> Step:
    """Without wait_ready, a process that has lived for a moment is ready; with it, listen_timeout has expired."""
    if not (case.policy.wait_ready or case.policy.oneshot):
        return _ready(case)
    failed = because("not_ready", within_s=case.policy.listen_timeout)
    return _end(case, replace(case.slot, failed=failed), failed)


def _lasted(case: _Case) -> bool:
    slot = case.slot
    return slot.state is State.RUNNING and case.now - (slot.started or case.now) >= case.policy.min_uptime


def _settled(case: _Case) -> Slot:
    """The slot of a running process; after min_uptime, its earlier failures are cleared."""
    return replace(case.slot, failures=0, half_open=False) if _lasted(case) else case.slot


def _recycle(case: _Case) -> Step:
    """Only within the budget: a healthy process is better than none."""
    assert isinstance(case.event, Recycle)
    if not has_budget(case.policy, case.slot, case.now):
        return case.slot, ()
    return _end(case, replace(_settled(case), due=case.event.reason), case.event.reason)


def _hand_over(case: _Case) -> Step:
    assert isinstance(case.event, HandOver)
    slot = replace(_settled(case), pid=case.event.pid, started=case.now)
    if not case.event.asked:
        slot = replace(slot, recent=(*_recent(case.policy, slot, case.now), case.now), restarts=slot.restarts + 1)
    if case.event.serves:
        return _enter(case, slot, State.RUNNING, deadline=_next_ping(case)), ()
    return _enter(case, slot, State.STARTING, case.event.reason, case.now + case.policy.listen_timeout), ()


def _fail(case: _Case) -> Step:
    assert isinstance(case.event, Fail)
    if case.slot.pid is None:
        return case.slot, ()
    reason = case.event.reason
    slot = replace(_settled(case), failed=reason)
    if not case.event.hard:
        return _end(case, slot, reason)
    deadline = case.now + kill_again(case.policy)
    slot = _enter(case, replace(slot, kills=1), State.STOPPING, reason, deadline)
    return slot, (Signal(signal.SIGKILL, Scope.TREE if case.policy.treekill else Scope.MAIN),)


def _fail_at_last(case: _Case) -> Step:
    """It is being stopped anyway; an immediate kill cancels the rest of its grace period."""
    assert isinstance(case.event, Fail)
    slot = case.slot
    if not case.event.hard or slot.pid is None or slot.kills:
        return slot, ()
    slot = replace(slot, kills=1, reason=case.event.reason, deadline=case.now + kill_again(case.policy))
    return slot, (Signal(signal.SIGKILL, Scope.TREE if case.policy.treekill else Scope.MAIN),)


def _ping(case: _Case) -> Step:
    return replace(case.slot, deadline=_next_ping(case)), ()


def _hung(case: _Case) -> Step:
    """SIGABRT has a worker write where it hangs; what cannot even do that is killed soon."""
    if not case.policy.watchdog:
        return case.slot, ()
    reason = because("watchdog", within_s=case.policy.watchdog)
    deadline = case.now + min(case.policy.kill_timeout, ABORT_GRACE)
    slot = _enter(case, replace(_settled(case), failed=reason), State.STOPPING, reason, deadline)
    return slot, (Signal(signal.SIGABRT, Scope.MAIN), Signal(signal.SIGCONT, Scope.MAIN))


def _exited(case: _Case) -> Step:
    assert isinstance(case.event, Exited)
    slot, lasted = case.slot, _lasted(case)
    slot = replace(
        slot,
        pid=None,
        last_exit=case.event.exit,
        failures=0 if lasted else slot.failures + 1,
        half_open=slot.half_open and not lasted,
    )
    if case.event.left and case.policy.treekill:
        reason = because("left_behind", end=case.event.exit.reason)
        return _end_rest(case, _enter(case, slot, State.STOPPING, reason))
    return _after(case, slot)


def _exited_as_ordered(case: _Case) -> Step:
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
        reason = because("unkillable")
    slot = replace(
        case.slot,
        kills=case.slot.kills + 1,
        reason=reason,
        deadline=case.now + kill_again(case.policy),
    )
    return slot, (Signal(signal.SIGKILL, scope),)


def kill_again(policy: Policy) -> float:
    """Seconds between two SIGKILLs."""
    return min(max(policy.kill_timeout, 1.0), 2 * UNKILLABLE)


def is_unkillable(policy: Policy, slot: Slot) -> bool:
    """Whether SIGKILL has not ended it for UNKILLABLE seconds at least: it is stuck in the kernel."""
    return (slot.kills - 1) * kill_again(policy) >= UNKILLABLE


def _after(case: _Case, slot: Slot) -> Step:
    """Decide what to do once no process of the slot is left."""
    if slot.want is Want.DOWN:
        return _enter(case, slot, State.STOPPED), ()
    if slot.asked or slot.last_exit is None:
        return _launch(case, slot)
    if slot.due.key:
        return _retry(case, slot, slot.due, delay(case.policy, slot.failures, case.jitter))
    verdict, end, wait, hopeless = judge(case.policy, slot.last_exit, slot.failed, slot.failures, case.jitter)
    if verdict is ExitVerdict.EXITED:
        return _enter(case, slot, State.EXITED, end), ()
    if verdict is ExitVerdict.RETRY and hopeless and not slot.recent:
        # A program that has run so far is retried all the same: somebody may be deploying another version right now.
        return _give_up(case, slot, because("cannot_execute", end=end))
    if verdict is ExitVerdict.RETRY and not slot.half_open:
        return _retry(case, slot, end, wait)
    return _give_up(case, slot, end)


def _recent(policy: Policy, slot: Slot, now: float) -> tuple[float, ...]:
    return tuple(at for at in slot.recent if at > now - policy.restart_window)


def has_budget(policy: Policy, slot: Slot, now: float) -> bool:
    """Whether one more automatic restart is within max_restarts in restart_window."""
    return len(_recent(policy, slot, now)) < policy.max_restarts


def _retry(case: _Case, slot: Slot, end: Reason, wait: float) -> Step:
    """An automatic start after an end: counted, delayed by `wait` seconds, refused above max_restarts."""
    policy = case.policy
    due = case.now + wait
    recent = _recent(policy, slot, due)
    if len(recent) >= policy.max_restarts:
        given_up = because("gave_up", end=end, restarts=len(recent), window_s=policy.restart_window)
        return _give_up(case, replace(slot, recent=recent), given_up)
    counted = {"recent": (*recent, due), "restarts": slot.restarts + 1}
    if wait > 0:
        reason = because("backoff", end=end, count=len(recent) + 1, most=policy.max_restarts)
        return _enter(case, slot, State.BACKOFF, reason, due, **counted), ()
    return _launch(case, slot, end, **counted)


def _give_up(case: _Case, slot: Slot, reason: Reason) -> Step:
    """FATAL; with retry_after it is tried once more when that has passed and the budget allows it."""
    policy = case.policy
    deadline = None
    if policy.retry_after and policy.max_restarts and policy.autorestart is not Autorestart.NEVER:
        known = reason.key == "tried_slowly"
        reason = because("tried_slowly", end=reason.facts["end"] if known else reason, every_s=policy.retry_after)
        recent = _recent(policy, slot, case.now)
        full = len(recent) >= policy.max_restarts
        free = recent[-policy.max_restarts] + policy.restart_window + 0.001 if full else case.now
        deadline = max(case.now + policy.retry_after * (0.9 + 0.2 * case.jitter), free)
    return _enter(case, slot, State.FATAL, reason, deadline), ()


def _try_once(case: _Case) -> Step:
    """Half-open: one try, and only a run that lasts min_uptime makes it an ordinary one again."""
    slot = case.slot
    if not case.policy.retry_after:
        return slot, ()
    recent = (*_recent(case.policy, slot, case.now), case.now)
    return _launch(case, slot, slot.reason, half_open=True, restarts=slot.restarts + 1, recent=recent)


def _launch_again(case: _Case) -> Step:
    return _launch(case, case.slot, case.slot.reason)


def undecided(policy: Policy, slot: Slot, event: Event, now: float, why: Reason) -> Step:
    """The fallback when `step` has raised: a failed start, or a failed process, which is killed.

    It uses as little code as possible, because it is the second try: no cell of TABLE, and the longest delay.
    """
    want = {Start: Want.UP, Restart: Want.UP, Stop: Want.DOWN}.get(type(event), slot.want)
    slot = replace(slot, want=want, since=now, reason=why)
    ended = isinstance(event, (Exited, Gone, Taken))
    left = isinstance(event, Exited) and event.left and policy.treekill
    if isinstance(event, Spawned) and slot.state in {State.STARTING, State.STOPPING}:
        slot = replace(slot, pid=event.pid, started=now)
    elif ended:
        slot = replace(slot, pid=None, last_exit=event.exit if isinstance(event, Exited) else slot.last_exit)
    if left or slot.pid is not None or (slot.state is State.STOPPING and not ended):
        slot = replace(slot, state=State.STOPPING, failed=slot.failed or why, kills=slot.kills + 1)
        scope = Scope.TREE if policy.treekill else Scope.MAIN
        return replace(slot, deadline=now + kill_again(policy)), (Signal(signal.SIGKILL, scope),)
    if slot.state is State.STARTING and not ended:  # the start is under way
        return (slot, ()) if want is Want.UP else (replace(slot, state=State.STOPPING, deadline=None), (Cancel(),))
    slot = replace(slot, deadline=None, started=None, failures=slot.failures + 1)
    if want is Want.DOWN:
        return replace(slot, state=State.STOPPED), ()
    if slot.failures > policy.max_restarts or policy.autorestart is Autorestart.NEVER:
        return replace(slot, state=State.FATAL), ()
    return replace(slot, state=State.BACKOFF, deadline=now + max(1.0, policy.exp_backoff_max_delay)), ()


def _taken(case: _Case) -> Step:
    assert isinstance(case.event, Taken)
    if case.event.again:
        return _launch_again(case)
    return _settle_stopped(replace(case, slot=replace(case.slot, pid=None, started=None)))


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
    (_S.STOPPED, HandOver): _ignore,
    (_S.STOPPED, Recycle): _ignore,
    (_S.STOPPED, Fail): _ignore,
    (_S.STOPPED, Ping): _ignore,
    (_S.STARTING, Start): _want_up,
    (_S.STARTING, Stop): _cancel_or_end,
    (_S.STARTING, Restart): _end_and_start,
    (_S.STARTING, Spawned): _spawned,
    (_S.STARTING, Ready): _ready,
    (_S.STARTING, Exited): _exited,
    (_S.STARTING, Gone): _ignore,
    (_S.STARTING, Deadline): _still_starting,
    (_S.STARTING, Taken): _ignore,
    (_S.STARTING, HandOver): _ignore,
    (_S.STARTING, Recycle): _ignore,
    (_S.STARTING, Fail): _fail,
    (_S.STARTING, Ping): _ignore,
    (_S.RUNNING, Start): _ignore,
    (_S.RUNNING, Stop): _end_for_good,
    (_S.RUNNING, Restart): _end_and_start,
    (_S.RUNNING, Spawned): _ignore,
    (_S.RUNNING, Ready): _ignore,
    (_S.RUNNING, Exited): _exited,
    (_S.RUNNING, Gone): _ignore,
    (_S.RUNNING, Deadline): _hung,
    (_S.RUNNING, Taken): _taken,
    (_S.RUNNING, HandOver): _hand_over,
    (_S.RUNNING, Recycle): _recycle,
    (_S.RUNNING, Fail): _fail,
    (_S.RUNNING, Ping): _ping,
    (_S.BACKOFF, Start): _start,
    (_S.BACKOFF, Stop): _settle_stopped,
    (_S.BACKOFF, Restart): _start,
    (_S.BACKOFF, Spawned): _ignore,
    (_S.BACKOFF, Ready): _ignore,
    (_S.BACKOFF, Exited): _ignore,
    (_S.BACKOFF, Gone): _ignore,
    (_S.BACKOFF, Deadline): _launch_again,
    (_S.BACKOFF, Taken): _ignore,
    (_S.BACKOFF, HandOver): _ignore,
    (_S.BACKOFF, Recycle): _ignore,
    (_S.BACKOFF, Fail): _ignore,
    (_S.BACKOFF, Ping): _ignore,
    (_S.STOPPING, Start): _start_again,
    (_S.STOPPING, Stop): _stay_down,
    (_S.STOPPING, Restart): _start_again,
    (_S.STOPPING, Spawned): _spawned_too_late,
    (_S.STOPPING, Ready): _ignore,
    (_S.STOPPING, Exited): _exited_as_ordered,
    (_S.STOPPING, Gone): _gone,
    (_S.STOPPING, Deadline): _kill,
    (_S.STOPPING, Taken): _ignore,
    (_S.STOPPING, HandOver): _ignore,
    (_S.STOPPING, Recycle): _ignore,
    (_S.STOPPING, Fail): _fail_at_last,
    (_S.STOPPING, Ping): _ignore,
    (_S.EXITED, Start): _start,
    (_S.EXITED, Stop): _settle_stopped,
    (_S.EXITED, Restart): _start,
    (_S.EXITED, Spawned): _ignore,
    (_S.EXITED, Ready): _ignore,
    (_S.EXITED, Exited): _ignore,
    (_S.EXITED, Gone): _ignore,
    (_S.EXITED, Deadline): _ignore,
    (_S.EXITED, Taken): _ignore,
    (_S.EXITED, HandOver): _ignore,
    (_S.EXITED, Recycle): _ignore,
    (_S.EXITED, Fail): _ignore,
    (_S.EXITED, Ping): _ignore,
    (_S.FATAL, Start): _start,
    (_S.FATAL, Stop): _settle_stopped,
    (_S.FATAL, Restart): _start,
    (_S.FATAL, Spawned): _ignore,
    (_S.FATAL, Ready): _ignore,
    (_S.FATAL, Exited): _ignore,
    (_S.FATAL, Gone): _ignore,
    (_S.FATAL, Deadline): _try_once,
    (_S.FATAL, Taken): _ignore,
    (_S.FATAL, HandOver): _ignore,
    (_S.FATAL, Recycle): _ignore,
    (_S.FATAL, Fail): _ignore,
    (_S.FATAL, Ping): _ignore,
}
