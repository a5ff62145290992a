"""How far a timer is, and what follows from that: whether a run is due or was missed, how it has ended, what comes next.

Pure: the clocks' readings come in, and how far the timer is from then on goes out. `schedule` knows the times of a
schedule, `timer_record` what still holds after a death; `supervisor.rules.timer_job` carries out what is decided here.

Three clocks: a cron expression goes by the wall clock; `every` by the time since boot, sleep of the host included,
which nobody can set; a run's timeout, its length and the wait before a retry by the monotonic clock that slots use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import tzinfo
from enum import Enum
from typing import NamedTuple

from impetusd.core.config.model import Timer
from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules import schedule
from impetusd.core.rules.lifecycle import IDLE, Slot, State
from impetusd.core.rules.policy import Exit
from impetusd.core.rules.schedule import Cron, Every
from impetusd.core.values import dataclass

KEPT = 10  # results a timer
JUMP = 1.0  # seconds by which the wall clock may part from the time since boot until it counts as set
SCHEDULE, CATCH_UP, RETRY, TRIGGER = "schedule", "catch-up", "retry", "trigger"  # why a run was started
LOST = because("lost_run")
MISSED = because("skipped_missed")
STILL_RUNS = because("skipped_running")
ANOTHER_WAITS = because("skipped_queued")


class Now(NamedTuple):
    """One instant on the three clocks, in seconds."""

    wall: float
    boot: float
    run: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One result. `at` is Unix time; `code` the exit code where there is one; `times` how many like it came in a row."""

    at: float
    duration_s: float
    ok: bool
    result: Reason
    why: str
    code: int | None = None
    failed: bool = False  # it ended badly by itself: not stopped, not skipped
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run under way. `ending`: what its result will be, because we are stopping it."""

    why: str
    attempt: int
    at: float  # Unix time, to the millisecond as that of an Exit
    began: float  # on the clock for runs
    ending: Reason = NONE


class Turn(Enum):
    """What a change of the job's slot means."""

    BEGUN = "begun"  # a run that the timer has not started: an operator has
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a timer is. `seen` and `due` are on the schedule's clock, `retry_at` on the one for runs."""

    schedule: Cron | Every
    seen: float  # up to here, everything is done with
    due: float | None = None
    runs: tuple[Outcome, ...] = ()  # newest first
    run: Run | None = None
    queued: str = ""  # why the run that waits for the end of this one runs
    retry_at: float | None = None
    attempt: int = 0  # that failed, while retry_at is there

    def clock(self, now: Now) -> float:
        """The clock that the schedule goes by."""
        return now.wall if isinstance(self.schedule, Cron) else now.boot


def begin(timer: Timer, now: Now, zone: Callable[[str], tzinfo]) -> Progress:
    """How far a timer is of which nothing is known. `zone` looks up the time zone of a name."""
    if timer.cron:
        return Progress(schedule=Cron(timer.cron, zone(timer.timezone)), seen=now.wall)
    return Progress(schedule=Every(timer.every, now.boot), seen=now.boot)


# When.


def plan(timer: Timer, at: Progress, now: Now, host: str) -> Progress:
    """Find when it is due next. `host`: its name, for hosts with one INI file are spread, too."""
    after = at.schedule.resume(at.seen, at.clock(now))
    due = schedule.due(at.schedule, f"{host}/{timer.name}", timer.jitter, after) if timer.enabled else None
    return replace(at, due=due)


def is_due(at: Progress, now: Now) -> bool:
    """Whether the schedule's time has come."""
    return at.due is not None and at.due <= at.clock(now)


def come_due(timer: Timer, at: Progress, now: Now, host: str) -> tuple[Progress, str]:
    """The schedule's time has come: how far the timer is then, and why a run is to start; "" if that was missed."""
    late = at.due is not None and at.clock(now) - at.due > schedule.LATE
    then = plan(timer, replace(at, seen=at.clock(now)), now, host)
    if not late:
        return then, SCHEDULE
    return then, CATCH_UP if timer.catch_up else ""


def retry_is_due(at: Progress, now: Now) -> bool:
    """Whether a failed run is to be tried again now."""
    return at.retry_at is not None and at.retry_at <= now.run


def deadline(timer: Timer, at: Progress, slot: Slot | None) -> float | None:
    """When the run exceeds its time limit, on the clock for runs."""
    if at.run is None or at.run.ending or not timer.timeout:
        return None
    if slot is not None and slot.state is State.STOPPING:
        return None  # only what it left behind is being ended, and the slot's own deadline sees to that
    return at.run.began + timer.timeout


def waits(timer: Timer, at: Progress, slot: Slot | None, now: Now) -> list[float]:
    """Seconds until each time at which there is something to be done."""
    due = [] if at.due is None else [at.due - at.clock(now)]
    return due + [each - now.run for each in (deadline(timer, at, slot), at.retry_at) if each is not None]


# A run.


def started(at: Progress, why: str, attempt: int, now: Now) -> Progress:
    """A run starts: it takes the place of a retry."""
    run = Run(why=why, attempt=attempt, at=round(now.wall, 3), began=now.run)
    return replace(at, run=run, retry_at=None, attempt=0)


def ending(at: Progress, result: Reason) -> Progress:
    """The run is being stopped, for that reason."""
    return replace(at, run=None if at.run is None else replace(at.run, ending=result))


def turn(at: Progress, before: Slot, after: Slot) -> Turn | None:
    """What the change of the job's slot means for the timer, if anything."""
    given_up = at.run is not None and after.state is State.FATAL  # a start that could not even begin
    if after.state in IDLE and (before.state not in IDLE or given_up):
        return Turn.ENDED
    if before.state in IDLE and after.state not in IDLE and at.run is None:
        return Turn.BEGUN
    return None


def is_end_of(run: Run, end: Exit) -> bool:
    """Whether it is this run that has ended so, not one before it."""
    return end.at >= run.at


def was_stopped(run: Run, slot: Slot) -> bool:
    """Whether an operator has stopped the run, which the slot has come out of."""
    return slot.state is State.STOPPED and not run.ending


def judge(run: Run, slot: Slot, now: Now) -> Outcome:
    """How the run has ended that the slot has come out of."""
    end = slot.last_exit
    timed_out = bool(run.ending) and run.ending.key != "stopped_for_next"
    failed = timed_out or (slot.state is State.FATAL and not run.ending)
    if run.ending:
        result = run.ending
    elif was_stopped(run, slot):
        began = end is not None and is_end_of(run, end)
        result = because("stopped", end=end.reason) if end is not None and began else because("stopped_before")
    else:
        result = (slot.reason if failed else NONE) or (end.reason if end is not None else NONE)
    return Outcome(
        at=run.at,
        duration_s=max(0.0, now.run - run.began),
        ok=slot.state is State.EXITED and not run.ending,
        result=result,
        why=run.why,
        code=end.code if end is not None and not run.ending else None,
        failed=failed,
    )


def unjudged(run: Run, result: Reason) -> Outcome:
    """The outcome of a run of which nobody knows how it ended: it has failed, with that result."""
    return Outcome(at=run.at, duration_s=0.0, ok=False, result=result, why=run.why, failed=True)


def note(at: Progress, outcome: Outcome) -> Progress:
    """Keep a result."""
    return replace(at, runs=(outcome, *at.runs)[:KEPT])


def skip(at: Progress, why: str, result: Reason, now: Now) -> Progress:
    """Keep that a run was not started: once for a whole row of the same, so that what really ran stays in sight."""
    skipped = Outcome(at=now.wall, duration_s=0.0, ok=False, result=result, why=why)
    last = at.runs[0] if at.runs else None
    if last is None or last.result != result:
        return note(at, skipped)
    return replace(at, runs=(replace(skipped, times=last.times + 1), *at.runs[1:]))


def last_failure(at: Progress) -> Outcome | None:
    """The last result that counts, if it is a failure: what was stopped or skipped says nothing of the job."""
    last = next((each for each in at.runs if each.ok or each.failed), None)
    return last if last is not None and last.failed else None
