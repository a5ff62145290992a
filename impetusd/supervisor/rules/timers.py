"""Timers: each drives the slot of its job. When it runs is `core.rules.schedule`'s decision; how it is started,
stopped and killed is the slot's.

Three clocks: a cron expression goes by the wall clock; `every` by the time since boot, sleep of the host included,
which nobody can set; a run's timeout, its length and the wait before a retry by the monotonic clock that slots use.

A timer's state is stored, as one JSON string, before anything is started, so a successor can see from it and the slot
what has happened: a run goes on, has ended, or never began.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, field
from typing import Any, NamedTuple, Protocol

from impetusd.core import units
from impetusd.core.config.model import Timer, Unit
from impetusd.core.protocol import EXIT_FAILED, EXIT_UNKNOWN_NAME, FAILED, ProtocolError
from impetusd.core.reasons import NONE, SKIPPED, Reason, because, read
from impetusd.core.rules import schedule
from impetusd.core.rules.lifecycle import Slot, State
from impetusd.core.rules.schedule import Cron, Every, OverlapDecision
from impetusd.core.values import dataclass
from impetusd.linux.alarm import Alarm
from impetusd.supervisor.faults import AGAIN, BARE
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.entry import IDLE

VERSION = 1
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


def read_clocks() -> Now:
    """Now."""
    return Now(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())


class Rings(Protocol):
    """The interface of an `Alarm`."""

    def set(self, seconds: float | None) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
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

    def row(self) -> dict[str, Any]:
        """For the protocol."""
        row = {**self.dump(), "at": iso(self.at), "duration_s": round(self.duration_s, 3), "cause": self.result.data()}
        if row.pop("times") > 1:
            row["result"] += f" ({self.times} times)"
        del row["failed"]
        return {**row, "skipped": self.result.key in SKIPPED}

    def dump(self) -> dict[str, Any]:
        """As JSON, with the sentence alone for its result."""
        return {**asdict(self), "result": str(self.result)}


@dataclass(slots=True, kw_only=True)
class Run:
    """A run under way. `ending`: what its result will be, because we are stopping it."""

    why: str
    attempt: int
    at: float  # Unix time, to the millisecond as that of an Exit
    began: float  # on the clock for runs
    ending: Reason = NONE


Waiter = asyncio.Future[dict[str, Any]]


@dataclass(slots=True)
class Job:
    """A timer, and how far it is."""

    timer: Timer
    schedule: Cron | Every
    seen: float  # up to here, on the schedule's clock, everything is done with
    due: float | None = None  # on the schedule's clock
    runs: list[Outcome] = field(default_factory=list)  # newest first
    run: Run | None = None
    queued: str = ""  # why the run that waits for the end of this one runs
    retry_at: float | None = None
    attempt: int = 0  # that failed, while retry_at is there
    slot: Slot | None = None
    over: Slot | None = None  # as the run has left it: its end is not dealt with yet
    waiters: list[Waiter] = field(default_factory=list)  # for the end of `run`
    queued_waiters: list[Waiter] = field(default_factory=list)
    rests_until: float = 0.0  # as `Now.run` counts: what is done for it has raised

    def clock(self, now: Now) -> float:
        """The clock that the schedule goes by."""
        return now.wall if isinstance(self.schedule, Cron) else now.boot

    def deadline(self) -> float | None:
        """When the run exceeds its time limit."""
        if self.run is None or self.run.ending or not self.timer.timeout:
            return None
        if self.slot is not None and self.slot.state is State.STOPPING:
            return None  # only what it left behind is being ended, and the slot's own deadline sees to that
        return self.run.began + self.timer.timeout

    def state(self) -> str:
        """As `timers` says it."""
        if self.run is not None:
            return "queued" if self.queued else "running"
        return "waiting" if self.retry_at is None else "retrying"


class Timers:
    """All timers. Every method is called in the event loop's thread; only what `trigger` returns is waited for."""

    def __init__(
        self,
        timers: Mapping[str, Timer],
        start: Callable[[Unit], None],
        stop: Callable[[Unit], None],
        keep: Callable[[str, str], None],
        tell: Callable[[str], None],
        *,
        record: Callable[[str, Outcome, int], None],
        boot_id: str,
        clock: Callable[[], Now] = read_clocks,
        alarm: Callable[[Callable[[], None]], Rings] = Alarm,
    ) -> None:
        """`start` and `stop` the slot of a job; `keep` the record of the timer so named; `tell` the daemon's log.

        `record` is called with each result and the number of the attempt, for the ledger.
        """
        self._record_result = record
        self._start_slot = start
        self._stop_slot = stop
        self._keep_record = keep
        self._tell = tell
        self._boot_id = boot_id
        self._clock = clock
        self._make_alarm = alarm
        self._alarm: Rings | None = None
        self._may_start = False  # between `begin` and `close`
        now = clock()
        self._offset = now.wall - now.boot
        self._jobs = {name: self._job(timer, now) for name, timer in timers.items()}
        self._names = {timer.unit.name: name for name, timer in timers.items()}
        self.faults = BARE

    @staticmethod
    def _job(timer: Timer, now: Now) -> Job:
        if timer.cron:
            return Job(timer, Cron(timer.cron, zone(timer.timezone)), now.wall)
        return Job(timer, Every(timer.every, now.boot), now.boot)

    # Over the supervisor's death, and the host's.

    def dump(self) -> dict[str, str]:
        """The record of each timer, as `keep` was given it last."""
        return {name: self._record(job) for name, job in self._jobs.items()}

    def _record(self, job: Job) -> str:
        now = self._clock()
        return json.dumps(
            {
                "version": VERSION,
                "boot_id": self._boot_id,
                "now": now,
                "enabled": job.timer.enabled,
                "seen": job.seen,
                "anchor": job.schedule.anchor if isinstance(job.schedule, Every) else None,
                # The first version refuses what it does not know of these: their reasons stand beside them.
                "runs": [each.dump() for each in job.runs],
                "run": {**asdict(job.run), "ending": str(job.run.ending)} if job.run else None,
                "results": [[each.at, each.result.data()] for each in job.runs],
                "ending": job.run.ending.data() if job.run else None,
                "queued": job.queued,
                "retry_at": job.retry_at,
                "attempt": job.attempt,
            },
            separators=(",", ":"),
        )

    def load(self, records: Mapping[str, str], *, anew: bool) -> None:
        """Go on where the supervisor before us was. `anew`: it was another daemon's, whose processes are gone.

        Before slots are taken over, and so before `begin`.
        """
        for name, text in records.items():
            job = self._jobs.get(name)
            if job is None:
                continue
            try:
                self._load(job, json.loads(text), anew=anew)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self._tell(f"timer {name}: what was remembered of it cannot be read ({error!r}); it begins anew")
                self._jobs[name] = self._job(job.timer, self._clock())

    def _load(self, job: Job, data: Mapping[str, Any], *, anew: bool) -> None:
        if data["version"] != VERSION:
            raise ValueError("another version of impetusd wrote it")
        now, then = self._clock(), Now(*data["now"])
        same_boot = data["boot_id"] == self._boot_id
        passed = max(0.0, now.wall - then.wall)
        anchor = data["anchor"]
        if not data["enabled"] or (anchor is not None) != isinstance(job.schedule, Every):
            pass  # it was switched off, or went by another clock: nothing was missed
        elif isinstance(job.schedule, Cron):
            job.seen = float(data["seen"])
        else:
            shift = 0.0 if same_boot else now.boot - passed - then.boot
            job.seen = data["seen"] + shift
            job.schedule = Every(job.timer.every, anchor + shift)
        results: dict[float, Any] = dict(data.get("results", ()))
        job.runs = [
            Outcome(**{**each, "result": read(results.get(each["at"]), each["result"])}) for each in data["runs"]
        ]
        if data["retry_at"] is not None and job.timer.enabled:
            job.retry_at = data["retry_at"] + (0.0 if same_boot else now.run - passed - then.run)
            job.attempt = data["attempt"]
        run = Run(**data["run"]) if data["run"] else None
        if run is not None:
            run.ending = read(data.get("ending"), str(run.ending))
        if run is not None and anew:
            lost = Outcome(at=run.at, duration_s=0.0, ok=False, result=LOST, why=run.why, failed=True)
            self._note(job, lost, run.attempt)
            self._retry(job, run.attempt, lost, now)
        elif run is not None:
            job.run, job.queued = run, data["queued"]

    def begin(self, slots: Mapping[str, Slot]) -> None:
        """From now on runs are started. `slots` (by unit name) are as they are after everything was taken over.

        Raises OSError where there is no descriptor for an alarm, with nothing begun.
        """
        if not self._jobs:
            return
        if self._alarm is None:
            self._alarm = self._make_alarm(self._rung)
        self._may_start = True
        now = self._clock()
        for job in self._jobs.values():
            self.faults.contain(job.timer.name, "taking it up", self._take_up, job, slots.get(job.timer.unit.name), now)
        self._ring()

    def _take_up(self, job: Job, slot: Slot | None, now: Now) -> None:
        job.slot = slot
        self._plan(job, now)
        if job.run is not None and job.slot is not None and job.slot.state in IDLE:
            end = job.slot.last_exit
            if end is not None and end.at >= job.run.at:
                job.over = job.slot  # written down before this record was
                self._ended(job)
            else:
                self._start_slot(job.timer.unit)  # it had never begun
        if job.run is None and job.queued:
            self._start_queued(job)
        self._keep(job)

    def close(self) -> None:
        """Start nothing any more. Runs that end are still noted; waiters for a queued one get an error."""
        self._may_start = False
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
        for job in self._jobs.values():
            self._refuse_queued(job, "impetusd is being stopped")

    # Time.

    def _rung(self) -> None:
        self.faults.attempt("timers", "looking what is due", self._ring)

    def _ring(self) -> None:
        """Do what is due, and have the alarm set for what is next."""
        now = self._clock()
        was_set = abs(now.wall - now.boot - self._offset) > JUMP
        self._offset = now.wall - now.boot
        try:
            for job in self._jobs.values():
                if was_set and isinstance(job.schedule, Cron):
                    self.faults.contain(job.timer.name, "planning its next run", self._plan, job, now)
                if now.run < job.rests_until:
                    continue
                if not self.faults.contain(job.timer.name, "looking what is due", self._look_at, job, now):
                    job.rests_until = now.run + AGAIN
        finally:
            self._set_alarm()

    def _look_at(self, job: Job, now: Now) -> None:
        if job.over is not None:
            self._ended(job)
        deadline = job.deadline()
        if deadline is not None and deadline <= now.run:
            self._time_out(job)
        if job.due is not None and job.due <= job.clock(now):
            self._come_due(job, job.due, now)
        if job.retry_at is not None and job.retry_at <= now.run:
            self._start(job, RETRY, job.attempt + 1)

    def _plan(self, job: Job, now: Now) -> None:
        after = job.schedule.resume(job.seen, job.clock(now))
        whose = f"{os.uname().nodename}/{job.timer.name}"  # hosts with one INI file are spread, too
        job.due = schedule.due(job.schedule, whose, job.timer.jitter, after) if job.timer.enabled else None

    def _set_alarm(self) -> None:
        if self._alarm is None:
            return
        now = self._clock()
        waits = []
        for job in self._jobs.values():
            own = [] if job.due is None else [job.due - job.clock(now)]
            own += [at - now.run for at in (job.deadline(), job.retry_at) if at is not None]
            own += [0.0] if job.over is not None else []
            waits += [max(wait, job.rests_until - now.run) for wait in own]
        self._alarm.set(min(waits, default=None))

    def _come_due(self, job: Job, due: float, now: Now) -> None:
        late = job.clock(now) - due > schedule.LATE
        job.seen = job.clock(now)
        self._plan(job, now)
        if late and not job.timer.catch_up:
            self._skip(job, SCHEDULE, MISSED)
            return
        if late:
            self._tell(f"{job.timer.name}: a run was missed; it is made up for now")
        self._request(job, CATCH_UP if late else SCHEDULE)

    def _time_out(self, job: Job) -> None:
        limit = units.span(job.timer.timeout)
        self._tell(f"{job.timer.name}: not done within {limit}: stopping it")
        self._end_run(job, because("timed_out", limit_s=job.timer.timeout))

    # Runs.

    def _request(self, job: Job, why: str, waiter: Waiter | None = None) -> None:
        """A run is due. ProtocolError for `waiter` if it is not run."""
        met = schedule.decide_overlap(job.timer.overlap, running=job.run is not None, queued=bool(job.queued))
        waiters = [waiter] if waiter is not None else []
        if met is OverlapDecision.START:
            job.waiters += waiters
            self._start(job, why, 1)
            return
        if met is OverlapDecision.SKIP:
            if waiter is None:
                self._skip(job, why, ANOTHER_WAITS if job.queued else STILL_RUNS)
                return
            behind = "it still runs, and another run waits for its end" if job.queued else "it still runs"
            hint = f"wait, or stop it with: impetusd stop {job.timer.name}"
            raise ProtocolError(FAILED, f"{job.timer.name} is not run: {behind}; {hint}", EXIT_FAILED)
        job.queued = why
        job.queued_waiters += waiters
        self._keep(job)
        if met is OverlapDecision.REPLACE and job.run is not None and not job.run.ending:
            self._end_run(job, because("stopped_for_next"))

    def _start(self, job: Job, why: str, attempt: int) -> None:
        now = self._clock()
        job.run = Run(why=why, attempt=attempt, at=round(now.wall, 3), began=now.run)
        job.retry_at, job.attempt = None, 0
        try:
            self._keep(job)
            self._start_slot(job.timer.unit)
        except BaseException:
            job.run = None  # it has not begun; if it has all the same, it is as good as started by hand
            raise

    def _end_run(self, job: Job, result: Reason) -> None:
        assert job.run is not None
        job.run.ending = result
        self._keep(job)
        self._stop_slot(job.timer.unit)

    def changed(self, change: Change) -> None:
        """The slot of a job has changed. Others are ignored."""
        _, before, after = change
        name = self._names.get(change.entry.unit.name)
        if name is None:
            return
        job = self._jobs[name]
        job.slot = after
        given_up = job.run is not None and after.state is State.FATAL  # a start that could not even begin
        if after.state in IDLE and (before.state not in IDLE or given_up):
            job.over = after
            try:
                self._ended(job)
            finally:
                self.faults.attempt("timers", "setting their alarm", self._set_alarm)
        elif before.state in IDLE and after.state not in IDLE and job.run is None:
            self._started_by_hand(job)
            self._set_alarm()

    def _started_by_hand(self, job: Job) -> None:
        """`impetusd start` on the job's slot: as good as a trigger."""
        now = self._clock()
        job.run = Run(why=TRIGGER, attempt=1, at=round(now.wall, 3), began=now.run)
        job.retry_at, job.attempt = None, 0
        self._keep(job)

    def _ended(self, job: Job) -> None:
        """Note how the run has ended, and begin what follows from that. What one part of this raises, costs that part."""
        slot, now = job.over, self._clock()
        if slot is None:
            raise AssertionError(f"{job.timer.name}: no run has ended")
        name, contain = job.timer.name, self.faults.contain
        run = job.run or Run(why=TRIGGER, attempt=1, at=now.wall, began=now.run)
        waiters = job.waiters
        job.over, job.run, job.waiters = None, None, []
        try:
            try:
                outcome = self._outcome(run, slot, now)
            except Exception as error:
                why = self.faults.note(name, "looking at how its run ended", error)
                outcome = Outcome(at=run.at, duration_s=0.0, ok=False, result=why, why=run.why, failed=True)
            contain(name, "noting how its run ended", self._note, job, outcome, run.attempt)
            contain(name, "going on after its run", self._go_on, job, run, slot, outcome, now)
            contain(name, "storing its state", self._keep, job)
            row = outcome.row()
        except Exception as error:  # waiters must not wait for ever
            _refuse(waiters, f"{name}: internal error: {error!r}")
            raise
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(row)

    @staticmethod
    def _outcome(run: Run, slot: Slot, now: Now) -> Outcome:
        end = slot.last_exit
        stopped = slot.state is State.STOPPED and not run.ending
        timed_out = bool(run.ending) and run.ending.key != "stopped_for_next"
        failed = timed_out or (slot.state is State.FATAL and not run.ending)
        if run.ending:
            result = run.ending
        elif stopped:
            began = end is not None and end.at >= run.at
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

    def _go_on(self, job: Job, run: Run, slot: Slot, outcome: Outcome, now: Now) -> None:
        if slot.state is State.STOPPED and not run.ending:
            self._refuse_queued(job, f"{job.timer.name} was stopped")
        if job.queued:
            if self._may_start:
                self._start_queued(job)
        elif outcome.failed:
            self._retry(job, run.attempt, outcome, now)

    def _start_queued(self, job: Job) -> None:
        why, job.queued = job.queued, ""
        job.waiters, job.queued_waiters = job.queued_waiters, []
        try:
            self._start(job, why, 1)
        except Exception as error:
            waiters, job.waiters = job.waiters, []
            _refuse(waiters, f"{job.timer.name} is not run: internal error: {error!r}")
            raise

    def _retry(self, job: Job, attempt: int, outcome: Outcome, now: Now) -> None:
        wait = schedule.retry_in(job.timer.retries, job.timer.retry_delay, attempt)
        if wait is None or not job.timer.enabled:
            return
        job.retry_at, job.attempt = now.run + wait, attempt
        again = f"tried again {units.ahead(wait)} ({attempt} of {job.timer.retries})"
        self._tell(f"{job.timer.name}: {outcome.result}; {again}")

    def _skip(self, job: Job, why: str, result: Reason) -> None:
        """Note it, once for a whole row of the same: what really ran stays in sight."""
        at = self._clock().wall
        last = job.runs[0] if job.runs else None
        if last is not None and last.result == result:
            job.runs[0] = Outcome(at=at, duration_s=0.0, ok=False, result=result, why=why, times=last.times + 1)
        else:
            self._note(job, Outcome(at=at, duration_s=0.0, ok=False, result=result, why=why))
        self._keep(job)

    def _note(self, job: Job, outcome: Outcome, attempt: int = 1) -> None:
        job.runs = [outcome, *job.runs][:KEPT]
        self._record_result(job.timer.name, outcome, attempt)

    def _keep(self, job: Job) -> None:
        self._keep_record(job.timer.name, self._record(job))

    @staticmethod
    def _refuse_queued(job: Job, reason: str) -> None:
        waiters, job.queued_waiters, job.queued = job.queued_waiters, [], ""
        _refuse(waiters, f"{job.timer.name} is not run: {reason}")

    # Operators' requests.

    def has(self, name: str) -> bool:
        """Whether a timer of that name exists."""
        return name in self._jobs

    async def trigger(self, name: str, *, wait: bool = True) -> dict[str, Any] | None:
        """Run it now, as `overlap` allows, and return its result; with `wait` false return None at once.

        Raises ProtocolError if there is no such timer, or it may not run now.
        """
        job = self._jobs.get(name)
        if job is None:
            near = ", ".join(self._jobs) or "none is configured"
            raise ProtocolError(FAILED, f"there is no timer {name}; there is: {near}", EXIT_UNKNOWN_NAME)
        if not job.timer.enabled:
            raise ProtocolError(FAILED, f"timer {name} is disabled (enabled = no, or impetusd disable)", EXIT_FAILED)
        if not self._may_start:
            raise ProtocolError(FAILED, f"{name} is not run: impetusd is being stopped", EXIT_FAILED)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._request(job, TRIGGER, waiter)
        self._set_alarm()
        if not wait:
            waiter.cancel()
            return None
        return await waiter

    def rows(self) -> list[dict[str, Any]]:
        """The answer to `timers`."""
        now = self._clock()
        return [self._row(job, now) for job in self._jobs.values()]

    def _row(self, job: Job, now: Now) -> dict[str, Any]:
        timer = job.timer
        waits = [job.due - job.clock(now)] if job.due is not None else []
        waits += [job.retry_at - now.run] if job.retry_at is not None else []
        wait = max(0.0, min(waits)) if waits else None
        return {
            "name": timer.name,
            "schedule": timer.cron or f"every {timer.every:g}s",
            "words": schedule.words(timer.cron, timer.every, timer.timezone),
            "enabled": timer.enabled,
            "state": job.state(),
            "next": iso(now.wall + wait) if wait is not None else None,
            "next_in_s": round(wait, 3) if wait is not None else None,
            "running_s": round(now.run - job.run.began, 3) if job.run is not None else None,
            "runs": [each.row() for each in job.runs],
        }

    def attention(self) -> list[tuple[str, Reason]]:
        """(name, what to say) for each timer whose last run failed."""
        now = self._clock()
        told = []
        for job in self._jobs.values():
            last = next((each for each in job.runs if each.ok or each.failed), None)
            if last is not None and last.failed:
                ago_s = round(now.wall - last.at - last.duration_s, 3)
                again_s = round(job.retry_at - now.run, 3) if job.retry_at is not None else None
                name = job.timer.name
                reason = because("timer_failed", name=name, ago_s=ago_s, cause=last.result, again_s=again_s)
                told.append((name, reason))
        return told


def _refuse(waiters: Iterable[Waiter], sentence: str) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(ProtocolError(FAILED, sentence, EXIT_FAILED))


def iso(at: float) -> str:
    """Unix seconds in ISO 8601, local time."""
    return dt.datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


def zone(name: str) -> dt.tzinfo:
    """The time zone `name` (checked); "" is the host's: $TZ, else /etc/localtime, else UTC."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if name:
        return ZoneInfo(name)
    key = os.environ.get("TZ", "").removeprefix(":")
    try:
        if key and not key.startswith("/"):
            return ZoneInfo(key)
        with open(key or "/etc/localtime", "rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError, ZoneInfoNotFoundError):
        return dt.UTC
