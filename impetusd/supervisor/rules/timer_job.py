"""One timer's job: its runs are started, stopped and followed here, by way of its slot.

What is to be done is decided by `core.rules.timer`; how the job is started, stopped and killed is the slot's. Each step
is stored before it is taken, so a successor knows of it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from impetusd.core import units
from impetusd.core.config.model import Timer, Unit
from impetusd.core.protocol import EXIT_FAILED, FAILED, ProtocolError
from impetusd.core.reasons import Reason, because
from impetusd.core.rules import schedule, timer, timer_record
from impetusd.core.rules.lifecycle import IDLE, Slot
from impetusd.core.rules.schedule import OverlapDecision
from impetusd.core.rules.timer import CATCH_UP, RETRY, TRIGGER, Now, Outcome, Run, Turn
from impetusd.core.values import dataclass
from impetusd.linux.timezone import zone
from impetusd.supervisor.faults import BARE, Faults
from impetusd.supervisor.rules import timer_rows

Waiter = asyncio.Future[dict[str, Any]]


def read_clocks() -> Now:
    """Now."""
    return Now(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic())


@dataclass(slots=True, kw_only=True)
class Effects:
    """What jobs act with: `start` and `stop` a slot, `keep` the record of the timer so named, `log` the daemon's log.

    `record` is called with each result and the number of the attempt, for the ledger.
    """

    start: Callable[[Unit], None]
    stop: Callable[[Unit], None]
    keep: Callable[[str, str], None]
    log: Callable[[str], None]
    record: Callable[[str, Outcome, int], None]
    boot_id: str
    clock: Callable[[], Now] = read_clocks
    faults: Faults = BARE


class Job:
    """A timer's job, and how far it is. Who waits for a run's end is answered with its row."""

    def __init__(self, configured: Timer, effects: Effects) -> None:
        self.timer = configured
        self._effects = effects
        self.name = configured.name
        self.begin_anew()
        self.slot: Slot | None = None
        self.over: Slot | None = None  # as a run has left it: its end is not dealt with yet
        self.rests_until = 0.0  # as `Now.run` counts: what is done for it has raised
        self._may_start = False  # between `take_up` and `close`
        self._waiters: list[Waiter] = []  # for the end of the run
        self._queued_waiters: list[Waiter] = []

    # Over the supervisor's death, and the host's.

    def begin_anew(self) -> None:
        """As if nothing were known of it."""
        self.at = timer.begin(self.timer, self._effects.clock(), zone)

    def record(self) -> str:
        """How far it is, for a successor."""
        return timer_record.dump(self.timer, self.at, self._effects.clock(), self._effects.boot_id)

    def load(self, text: str, *, anew: bool) -> None:
        """Go on from a record. `anew`: it is another daemon's, whose processes are gone. Raises as `timer_record.load`."""
        now = self._effects.clock()
        at, lost = timer_record.load(self.timer, self.at, text, now, self._effects.boot_id), None
        if anew and at.run is not None:
            at, lost = replace(at, run=None, queued=""), at.run
        self.at = at
        if lost is not None:
            self._note(timer.unjudged(lost, timer.LOST), lost.attempt)
            self._retry(lost.attempt, timer.LOST, now)

    def take_up(self, slot: Slot | None, now: Now) -> None:
        """From now on runs are started. `slot` is as it is after everything was taken over."""
        self._may_start = True
        self.slot = slot
        self.plan(now)
        run = self.at.run
        if run is not None and slot is not None and slot.state in IDLE:
            if slot.last_exit is not None and timer.is_end_of(run, slot.last_exit):
                self.over = slot  # written down before this record was
                self._conclude()
            else:
                self._effects.start(self.timer.unit)  # it had never begun
        if self.at.run is None and self.at.queued:
            self._start_queued()
        self._keep()

    def close(self) -> None:
        """Start nothing any more. A run that ends is still noted; waiters for a queued one get an error."""
        self._may_start = False
        self._refuse_queued("impetusd is stopping")

    # Time.

    def plan(self, now: Now) -> None:
        """Find when it is due next."""
        self.at = timer.plan(self.timer, self.at, now, os.uname().nodename)

    def look(self, now: Now) -> None:
        """Do what is due."""
        if self.over is not None:
            self._conclude()
        limit = timer.deadline(self.timer, self.at, self.slot)
        if limit is not None and limit <= now.run:
            self._time_out()
        if timer.is_due(self.at, now):
            self._come_due(now)
        if timer.retry_is_due(self.at, now):
            self._start(RETRY, self.at.attempt + 1)

    def waits(self, now: Now) -> list[float]:
        """Seconds until each time at which there is something to be done."""
        found = timer.waits(self.timer, self.at, self.slot, now) + ([0.0] if self.over is not None else [])
        return [max(wait, self.rests_until - now.run) for wait in found]

    def _come_due(self, now: Now) -> None:
        self.at, why = timer.come_due(self.timer, self.at, now, os.uname().nodename)
        if not why:
            self._skip(timer.SCHEDULE, timer.MISSED)
            return
        if why == CATCH_UP:
            self._effects.log(f"{self.name}: a run was missed; running it now")
        self._request(why)

    def _time_out(self) -> None:
        limit = units.span(self.timer.timeout)
        self._effects.log(f"{self.name}: not finished within {limit}; stopping it")
        self._stop(because("timed_out", limit_s=self.timer.timeout))

    # A run.

    def trigger(self, waiter: Waiter) -> None:
        """Run it now, as `overlap` allows. Raises ProtocolError if it may not run now."""
        if not self.timer.enabled:
            raise _refused(f"timer {self.name} is disabled (by enabled = no or impetusd disable)")
        if not self._may_start:
            raise _refused(f"{self.name} was not run: impetusd is stopping")
        self._request(TRIGGER, waiter)

    def _request(self, why: str, waiter: Waiter | None = None) -> None:
        """A run is due. ProtocolError for `waiter` if it is not run."""
        at, waiters = self.at, [waiter] if waiter is not None else []
        met = schedule.decide_overlap(self.timer.overlap, running=at.run is not None, queued=bool(at.queued))
        if met is OverlapDecision.START:
            self._waiters += waiters
            self._start(why, 1)
            return
        if met is OverlapDecision.SKIP:
            if waiter is None:
                self._skip(why, timer.ANOTHER_WAITS if at.queued else timer.STILL_RUNS)
                return
            behind = "it is still running, and another run is queued" if at.queued else "it is still running"
            raise _refused(f"{self.name} was not run: {behind}; wait, or stop it: impetusd stop {self.name}")
        self.at = replace(at, queued=why)
        self._queued_waiters += waiters
        self._keep()
        if met is OverlapDecision.REPLACE and at.run is not None and not at.run.ending:
            self._stop(because("stopped_for_next"))

    def _start(self, why: str, attempt: int) -> None:
        self.at = timer.started(self.at, why, attempt, self._effects.clock())
        try:
            self._keep()
            self._effects.start(self.timer.unit)
        except BaseException:
            self.at = replace(
                self.at, run=None
            )  # it has not begun; if it has all the same, it is as good as started by hand
            raise

    def _stop(self, result: Reason) -> None:
        self.at = timer.ending(self.at, result)
        self._keep()
        self._effects.stop(self.timer.unit)

    def changed(self, before: Slot, after: Slot) -> None:
        """Its slot has changed."""
        self.slot = after
        turn = timer.turn(self.at, before, after)
        if turn is Turn.ENDED:
            self.over = after
            self._conclude()
        elif turn is Turn.BEGUN:  # `impetusd start` on the job's slot: as good as a trigger
            self.at = timer.started(self.at, TRIGGER, 1, self._effects.clock())
            self._keep()

    def _conclude(self) -> None:
        """Note how the run has ended, and begin what follows from that. What one part of this raises, costs that part."""
        slot, now = self.over, self._effects.clock()
        if slot is None:
            raise AssertionError(f"{self.name}: no run has ended")
        name, contain = self.name, self._effects.faults.contain
        run = self.at.run or Run(why=TRIGGER, attempt=1, at=now.wall, began=now.run)
        waiters = self._waiters
        self.over, self.at, self._waiters = None, replace(self.at, run=None), []
        try:
            try:
                outcome = timer.judge(run, slot, now)
            except Exception as error:
                why = self._effects.faults.note(name, "examining how its run ended", error)
                outcome = timer.unjudged(run, why)
            contain(name, "recording how its run ended", self._note, outcome, run.attempt)
            contain(name, "scheduling what follows its run", self._go_on, run, slot, outcome, now)
            contain(name, "storing its state", self._keep)
            row = timer_rows.of_outcome(outcome)
        except Exception as error:  # waiters must not wait for ever
            _refuse(waiters, f"{name}: internal error: {error!r}")
            raise
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(row)

    def _go_on(self, run: Run, slot: Slot, outcome: Outcome, now: Now) -> None:
        if timer.was_stopped(run, slot):
            self._refuse_queued(f"{self.name} was stopped")
        if self.at.queued:
            if self._may_start:
                self._start_queued()
        elif outcome.failed:
            self._retry(run.attempt, outcome.result, now)

    def _start_queued(self) -> None:
        why, self.at = self.at.queued, replace(self.at, queued="")
        self._waiters, self._queued_waiters = self._queued_waiters, []
        try:
            self._start(why, 1)
        except Exception as error:
            waiters, self._waiters = self._waiters, []
            _refuse(waiters, f"{self.name} was not run: internal error: {error!r}")
            raise

    def _retry(self, attempt: int, result: Reason, now: Now) -> None:
        wait = schedule.retry_in(self.timer.retries, self.timer.retry_delay, attempt)
        if wait is None or not self.timer.enabled:
            return
        self.at = replace(self.at, retry_at=now.run + wait, attempt=attempt)
        again = f"retrying {units.ahead(wait)} ({attempt} of {self.timer.retries})"
        self._effects.log(f"{self.name}: {result}; {again}")

    def _skip(self, why: str, result: Reason) -> None:
        self.at = timer.skip(self.at, why, result, self._effects.clock())
        if self.at.runs[0].times == 1:
            self._effects.record(self.name, self.at.runs[0], 1)
        self._keep()

    def _note(self, outcome: Outcome, attempt: int) -> None:
        self.at = timer.note(self.at, outcome)
        self._effects.record(self.name, outcome, attempt)

    def _keep(self) -> None:
        self._effects.keep(self.name, self.record())

    def _refuse_queued(self, reason: str) -> None:
        waiters, self._queued_waiters, self.at = self._queued_waiters, [], replace(self.at, queued="")
        _refuse(waiters, f"{self.name} was not run: {reason}")


def _refuse(waiters: Iterable[Waiter], sentence: str) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(_refused(sentence))


def _refused(sentence: str) -> ProtocolError:
    return ProtocolError(FAILED, sentence, EXIT_FAILED)
