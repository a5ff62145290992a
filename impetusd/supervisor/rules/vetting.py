"""Tests of new processes before they replace old ones: their health checks, and a comparison.

Only a check that probes each worker by itself can distinguish new from old; one at the unit's address is answered by
either, so only its turning unhealthy counts (`Reloads.turned`).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping

from impetusd.core.config.model import Health, Kind, Unit
from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules import health
from impetusd.core.rules.health import Result
from impetusd.core.rules.lifecycle import State
from impetusd.core.rules.reload import Count, Phase, Reload, verdict
from impetusd.linux.processes import PAGE, stat
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.slots.entry import SERVING, Entry, Role

FIRST, LONGEST, GROWTH = 0.05, 1.0, 1.5  # seconds between two questions, and what each wait is to the one before
PATIENCE = 10.0  # seconds in which a worker must report its count; one takes milliseconds, with a core to itself


class Vetting:
    """Called in the event loop's thread; nothing waits."""

    def __init__(
        self,
        checks: Iterable[Health],
        *,
        ask: Callable[[Health, Entry | None], Awaitable[Result]],
        count: Callable[[int], bool],
        slots: Callable[[Unit], list[Entry]],
        fail: Callable[[Entry, Reason], object],
        wake: Callable[[], None],
    ) -> None:
        """`ask`: as `Prober.ask`. `count(process)` requests a worker's count, which arrives at `counted`.

        `fail(entry, why)`: a new process is judged to be broken. `wake()`: what was not known may be known now.
        """
        self._checks: dict[str, list[Health]] = {}
        for check in checks:
            if check.enabled and health.asks_each_worker(check):
                self._checks.setdefault(check.target, []).append(check)
        self._ask = ask
        self._count = count
        self._slots = slots
        self._fail = fail
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._asking: dict[int, asyncio.Task[None]] = {}  # by the process's number
        self._well: set[int] = set()
        self._counts: dict[str, dict[int, Count | None]] = {}  # of a unit at the end of WATCH; None: not reported yet
        self._before: dict[str, dict[int, Count | None]] = {}  # and at its beginning
        self._patience: dict[str, asyncio.TimerHandle] = {}
        self.faults = BARE

    # Health checks.

    def follow(self, unit: Unit, reload: Reload) -> None:
        """Probe the processes due to be probed, and stop probing others; called after each step of the unit's
        reload."""
        new = {
            entry.rec.process: entry
            for entry in self._slots(unit)
            if entry.role is Role.NEXT and entry.slot.state is State.RUNNING and entry.rec.process is not None
        }
        if unit.name in self._checks and unit.kind is Kind.POOL:
            for process, entry in new.items():
                if process not in self._asking:
                    work = functools.partial(self._vet, entry, process)
                    self._asking[process] = self._loop.create_task(
                        self.faults.attend(entry.name, "reading its request counts", work)
                    )
        if reload.phase is Phase.WATCH and reload.canaries and unit.name not in self._before:
            self._before[unit.name] = self._ask_counts(unit)

    def leave(self, unit: Unit) -> None:
        """The unit's reload is over."""
        for kept in (self._before, self._counts):
            kept.pop(unit.name, None)
        timer = self._patience.pop(unit.name, None)
        if timer is not None:
            timer.cancel()

    def well(self, entry: Entry) -> bool:
        """Whether a new process has passed all its checks. One that has a place already has."""
        if entry.role is not Role.NEXT or entry.unit.kind is not Kind.POOL or entry.unit.name not in self._checks:
            return True
        return entry.rec.process in self._well

    async def _vet(self, entry: Entry, process: int) -> None:
        """Until it has a place, or is judged."""
        checks, pause = self._checks[entry.unit.name], FIRST
        failures = dict.fromkeys(checks, 0)
        until = self._loop.time() + max(max(check.start_period, check.failures * LONGEST) for check in checks)
        try:
            while True:
                bad = None
                for check in checks:
                    result = await self._ask(check, entry)
                    if entry.role is not Role.NEXT or entry.rec.process != process:
                        return
                    failures[check] = 0 if result.ok else failures[check] + 1
                    if not result.ok:
                        bad = bad or (check, result)
                if bad is None and process not in self._well:
                    self._well.add(process)
                    self._wake()
                if bad is not None and self._judge(process, bad[0], failures[bad[0]], until):
                    self._fail(entry, health.bad_answer(*bad))
                    return
                await asyncio.sleep(pause)
                pause = min(pause * GROWTH, LONGEST)
                if entry.rec.process != process:
                    return
        except Exception as error:
            if self.faults.strict:
                raise
            self._fail(entry, self.faults.note(entry.name, "reading its request counts", error))
        finally:
            self._asking.pop(process, None)
            self._well.discard(process)

    def _judge(self, process: int, check: Health, failures: int, until: float) -> bool:
        """One that was well may fail as often as the check allows; one that never was gets start_period besides."""
        return failures >= check.failures and (process in self._well or self._loop.time() >= until)

    # Comparing.

    def counted(self, entry: Entry, message: Mapping[str, str]) -> None:
        """A worker reports its count."""
        process = entry.rec.process
        if process is None:
            return
        asked, errors = message["X_IMPETUSD_REQUESTS"], message["X_IMPETUSD_ERRORS"]
        if not (asked.isdecimal() and errors.isdecimal()):
            return
        name = entry.unit.name
        for kept in (self._counts, self._before):
            waiting = kept.get(name, {})
            if process in waiting and waiting[process] is None:
                waiting[process] = Count(int(asked), int(errors), _memory(entry))
                break
        if name in self._counts and None not in self._counts[name].values():
            self._wake()

    def verdict(self, unit: Unit, reload: Reload) -> Reason | None:
        """On the new processes, at the end of WATCH; None while that is not known."""
        if not reload.canaries or (reload.deadline is not None and self._loop.time() < reload.deadline):
            return NONE
        if unit.name not in self._counts:
            self._counts[unit.name] = self._ask_counts(unit)
            self._patience[unit.name] = self._loop.call_later(
                PATIENCE, self.faults.attempt, unit.name, "comparing its processes", self._impatient, unit
            )
        counts = self._counts[unit.name]
        if None in counts.values():
            return None
        new, old = [], []
        before = self._before.get(unit.name, {})
        for entry in self._slots(unit):
            count = counts.get(entry.rec.process or 0)
            if count is not None and entry.role is Role.NEXT:
                new.append(count)
            elif count is not None:
                was = before.get(entry.rec.process or 0) or Count()
                old.append(Count(count.requests - was.requests, count.errors - was.errors, count.memory))
        return verdict(old, new)

    def _ask_counts(self, unit: Unit) -> dict[int, Count | None]:
        """Programs count nothing; what they use is known."""
        counts: dict[int, Count | None] = {}
        for entry in self._slots(unit):
            process = entry.rec.process
            if process is not None and entry.slot.pid is not None and entry.role in {*SERVING, Role.NEXT}:
                told = entry.works and self._count(process)
                counts[process] = None if told else Count(memory=_memory(entry))
        return counts

    def _impatient(self, unit: Unit) -> None:
        """A new worker that has not reported is broken: its event loop stands still. An old one is left out of the
        comparison, except for its usage."""
        if unit.name not in self._counts:  # the reload is over
            return
        counts = self._counts[unit.name]
        for entry in self._slots(unit):
            if entry.rec.process is not None and counts.get(entry.rec.process, 0) is None:
                if entry.role is Role.NEXT:
                    self._fail(entry, because("no_count", within_s=PATIENCE))
                    return
                counts[entry.rec.process] = Count(memory=_memory(entry))
        self._counts[unit.name] = {process: count or Count() for process, count in counts.items()}
        self._wake()


def _memory(entry: Entry) -> int:
    """Resident bytes."""
    fields = stat(entry.slot.pid) if entry.slot.pid is not None else None
    return int(fields[21]) * PAGE if fields is not None else 0
