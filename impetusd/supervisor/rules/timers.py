"""All timers, and the one alarm that rings for whichever is due next. What each of them does is `timer_job`'s."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from impetusd.core.config.model import Timer
from impetusd.core.protocol import EXIT_UNKNOWN_NAME, FAILED, ProtocolError
from impetusd.core.reasons import Reason
from impetusd.core.rules.lifecycle import Slot
from impetusd.core.rules.schedule import Cron
from impetusd.core.rules.timer import JUMP
from impetusd.linux.alarm import Alarm, Rings
from impetusd.supervisor.faults import AGAIN
from impetusd.supervisor.observers import Change
from impetusd.supervisor.rules import timer_rows
from impetusd.supervisor.rules.timer_job import Effects, Job, Waiter


class Timers:
    """All timers. Every method is called in the event loop's thread; only what `trigger` returns is waited for."""

    def __init__(
        self,
        timers: Mapping[str, Timer],
        effects: Effects,
        alarm: Callable[[Callable[[], None]], Rings] = Alarm,
    ) -> None:
        self._effects = effects
        self._make_alarm = alarm
        self._alarm: Rings | None = None
        now = effects.clock()
        self._offset = now.wall - now.boot
        self._jobs = {name: Job(timer, effects) for name, timer in timers.items()}
        self._by_unit = {timer.unit.name: self._jobs[name] for name, timer in timers.items()}

    # Over the supervisor's death, and the host's.

    def dump(self) -> dict[str, str]:
        """The record of each timer."""
        return {name: job.record() for name, job in self._jobs.items()}

    def load(self, records: Mapping[str, str], *, anew: bool) -> None:
        """Go on where the supervisor before us was. `anew`: it was another daemon's, whose processes are gone.

        Before slots are taken over, and so before `begin`.
        """
        for name, text in records.items():
            job = self._jobs.get(name)
            if job is None:
                continue
            try:
                job.load(text, anew=anew)
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                self._effects.log(f"timer {name}: its saved state cannot be read ({error!r}); starting without it")
                job.begin_anew()

    def begin(self, slots: Mapping[str, Slot]) -> None:
        """From now on runs are started. `slots` (by unit name) are as they are after everything was taken over.

        Raises OSError where there is no descriptor for an alarm, with nothing begun.
        """
        if not self._jobs:
            return
        if self._alarm is None:
            self._alarm = self._make_alarm(self._rung)
        now = self._effects.clock()
        for job in self._jobs.values():
            self._effects.faults.contain(job.name, "resuming it", job.take_up, slots.get(job.timer.unit.name), now)
        self._ring()

    def close(self) -> None:
        """Start nothing any more. Runs that end are still noted; waiters for a queued one get an error."""
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None
        for job in self._jobs.values():
            job.close()

    # What happens.

    def _rung(self) -> None:
        self._effects.faults.attempt("timers", "checking which runs are due", self._ring)

    def _ring(self) -> None:
        """Do what is due, and have the alarm set for what is next."""
        now, contain = self._effects.clock(), self._effects.faults.contain
        was_set = abs(now.wall - now.boot - self._offset) > JUMP
        self._offset = now.wall - now.boot
        try:
            for job in self._jobs.values():
                if was_set and isinstance(job.at.schedule, Cron):
                    contain(job.name, "planning its next run", job.plan, now)
                if now.run < job.rests_until:
                    continue
                if not contain(job.name, "checking whether it is due", job.look, now):
                    job.rests_until = now.run + AGAIN
        finally:
            self._set_alarm()

    def _set_alarm(self) -> None:
        if self._alarm is None:
            return
        now = self._effects.clock()
        waits = (wait for job in self._jobs.values() for wait in job.waits(now))
        self._alarm.set(min(waits, default=None))

    def changed(self, change: Change) -> None:
        """The slot of a job has changed. Others are ignored."""
        job = self._by_unit.get(change.entry.unit.name)
        if job is not None:
            try:
                job.changed(change.before, change.after)
            finally:
                self._effects.faults.attempt("timers", "setting the next alarm", self._set_alarm)

    # Operators' requests.

    async def trigger(self, name: str, *, wait: bool = True) -> dict[str, Any] | None:
        """Run it now, as `overlap` allows, and return its result; with `wait` false return None at once.

        Raises ProtocolError if there is no such timer, or it may not run now.
        """
        job = self._jobs.get(name)
        if job is None:
            known = ", ".join(self._jobs)
            raise ProtocolError(FAILED, f"no timer {name}; timers: {known}", EXIT_UNKNOWN_NAME)
        waiter: Waiter = asyncio.get_running_loop().create_future()
        job.trigger(waiter)
        self._set_alarm()
        if not wait:
            waiter.cancel()
            return None
        return await waiter

    def rows(self) -> list[dict[str, Any]]:
        """The answer to `timers`."""
        now = self._effects.clock()
        return [timer_rows.of_timer(job.timer, job.at, now) for job in self._jobs.values()]

    def attention(self) -> list[tuple[str, Reason]]:
        """(name, what to say) for each timer whose last run failed."""
        now = self._effects.clock()
        found = ((job.name, timer_rows.failure(job.timer, job.at, now)) for job in self._jobs.values())
        return [(name, reason) for name, reason in found if reason is not None]
