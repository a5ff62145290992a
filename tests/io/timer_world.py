"""A world for timers: three clocks that are numbers, an alarm, and slots driven by the real state machine."""

from __future__ import annotations

import signal
from collections import deque
from types import SimpleNamespace
from typing import Any

from impetusd.core.config.model import Timer
from impetusd.core.reasons import Reason, because, not_started, read
from impetusd.core.rules import lifecycle
from impetusd.core.rules.lifecycle import Deadline, Event, Exited, Scope, Signal, Slot, Spawn, Spawned, Start, Stop
from impetusd.core.rules.policy import Exit, policy_of
from impetusd.core.rules.timer import Now
from impetusd.supervisor.observers import Change
from impetusd.supervisor.rules.timer_job import Effects
from impetusd.supervisor.rules.timers import Timers

BEGIN = 1_774_742_400.0  # 2026-03-29 00:00 UTC

NO_PROGRAM = not_started("exec", because("os_error", errno=2, detail=""), "/x")


def brief(reason: Reason) -> str:
    """The reason as its key and its facts: `exit 1`, `timed_out 5.0`."""
    facts = [brief(fact) if isinstance(fact, Reason) else str(fact) for fact in reason.facts.values()]
    return " ".join([reason.key, *facts])


def job_changed(unit: str, before: Slot, after: Slot) -> Change:
    """The slot of the unit has changed."""
    entry: Any = SimpleNamespace(unit=SimpleNamespace(name=unit))
    return Change(entry, before, after)


class FakeAlarm:
    """Rings when the world's wall clock gets there."""

    def __init__(self, world: World, ring: Any) -> None:
        self.world = world
        self.ring = ring
        self.at: float | None = None
        world.alarms.append(self)

    def set(self, seconds: float | None) -> None:
        # Time passes by the microsecond here: a float's rest must not make it stand still.
        self.at = None if seconds is None else self.world.wall + (max(1e-6, seconds) if seconds > 0 else 0.0)

    def close(self) -> None:
        self.world.alarms.remove(self)


class World:
    """`starts` has (name, seconds since the beginning) of each start, `told` what the daemon's log says."""

    def __init__(self, *timers: Timer) -> None:
        self.configured = {each.name: each for each in timers}
        self.wall, self.boot, self.run = BEGIN, 1000.0, 500.0
        self.boot_id = "first"
        self.alarms: list[FakeAlarm] = []
        self.records: dict[str, str] = {}
        self.told: list[str] = []
        self.recorded: list[tuple[str, str, int]] = []
        self.starts: list[tuple[str, float]] = []
        self.rings = 0
        self.slots = {name: Slot() for name in self.configured}
        self.inbox: deque[tuple[str, Event]] = deque()
        self.pumping = False
        self.unstartable = False
        self.stubborn = False  # jobs ignore SIGTERM
        self.deaf = False  # no supervisor lives: nothing is told to timers
        self.timers = self.supervisor()
        self.timers.begin(self.slots)

    def supervisor(self, boot_id: str | None = None) -> Timers:
        """A new supervisor's timers; `begin` is the caller's."""
        self.boot_id = boot_id or self.boot_id
        self.deaf = False
        self.effects = Effects(
            start=lambda unit: self.post(unit.name, Start()),
            stop=lambda unit: self.post(unit.name, Stop()),
            keep=self.records.__setitem__,
            log=self.told.append,
            record=lambda name, outcome, attempt: self.recorded.append((name, outcome.result, attempt)),
            boot_id=self.boot_id,
            clock=lambda: Now(self.wall, self.boot, self.run),
        )
        return Timers(self.configured, self.effects, self.make_alarm)

    def make_alarm(self, ring: Any) -> FakeAlarm:
        return FakeAlarm(self, ring)

    def die(self) -> None:
        """The supervisor dies: its alarm goes, what happens waits."""
        self.alarms.clear()
        self.deaf = True

    def succeed(self, *, anew: bool = False) -> None:
        """The next one takes over: from records, then what has happened, then it begins."""
        timers = self.supervisor()
        timers.load(dict(self.records), anew=anew)
        self.timers = timers
        self.pump()
        timers.begin(self.slots)

    def reboot(self, down: float) -> None:
        """The host goes down for so long; everything that ran is gone."""
        self.die()
        self.inbox.clear()
        self.wall += down
        self.boot, self.run, self.boot_id = 7.0, 7.0, self.boot_id + "'"
        self.slots = {name: Slot() for name in self.configured}
        self.succeed(anew=True)

    # Slots.

    def start(self) -> None:
        """An operator starts the job's slot."""
        self.post("job", Start())

    def stop(self) -> None:
        """And stops it."""
        self.post("job", Stop())

    def post(self, name: str, event: Event) -> None:
        self.inbox.append((name, event))
        self.pump()

    def pump(self) -> None:
        if self.pumping or self.deaf:
            return
        self.pumping = True
        while self.inbox:
            name, event = self.inbox.popleft()
            before = self.slots[name]
            policy = policy_of(self.configured[name].unit)
            after, actions = lifecycle.step(policy, before, event, self.run, 0.5)
            self.slots[name] = after
            for action in actions:
                self.act(name, action)
            if after != before:
                change = job_changed(name, before, after)
                self.effects.faults.contain(name, "notifying its timer", self.timers.changed, change)
            if after.state is lifecycle.State.STARTING and after.deadline is not None and after.deadline <= self.run:
                self.inbox.append((name, Deadline()))
        self.pumping = False

    def act(self, name: str, action: lifecycle.Action) -> None:
        match action:
            case Spawn() if self.unstartable:
                self.inbox.append((name, Exited(Exit(failed=NO_PROGRAM, at=round(self.wall, 3)))))
            case Spawn():
                self.starts.append((name, round(self.wall - BEGIN, 3)))
                self.inbox.append((name, Spawned(100 + len(self.starts))))
            case Signal(number, scope) if scope is not Scope.REST and (
                number == signal.SIGKILL or (number == signal.SIGTERM and not self.stubborn)
            ):
                self.inbox.append((name, Exited(Exit(signal=number, at=round(self.wall, 3)))))

    def exit(self, code: int = 0, name: str = "job") -> None:
        """The job's process ends."""
        self.post(name, Exited(Exit(code=code, at=round(self.wall, 3))))

    # Time.

    def ring(self) -> None:
        self.rings += 1
        assert self.rings < 5000, "the alarm rings for ever"
        for alarm in list(self.alarms):
            alarm.at = None
            alarm.ring()

    def advance(self, seconds: float) -> None:
        """So much time passes; what is due meanwhile happens at its time."""
        end = self.run + seconds
        while True:
            alarms = [self.run + alarm.at - self.wall for alarm in self.alarms if alarm.at is not None]
            deadlines = {name: slot.deadline for name, slot in self.slots.items() if slot.deadline is not None}
            at = min([end, *alarms, *deadlines.values()])
            self._pass(max(0.0, at - self.run), awake=True)
            if alarms and min(alarms) <= at:
                self.ring()
                continue
            passed = [name for name, deadline in deadlines.items() if deadline <= at]
            if not passed or self.deaf:
                if at >= end:
                    return
                continue
            for name in passed:
                self.post(name, Deadline())

    def _pass(self, seconds: float, *, awake: bool) -> None:
        self.wall = round(self.wall + seconds, 6)
        self.boot = round(self.boot + seconds, 6)
        if awake:
            self.run = round(self.run + seconds, 6)

    def suspend(self, seconds: float) -> None:
        """The host sleeps; when it wakes, the alarm rings."""
        self._pass(seconds, awake=False)
        self.ring()

    def set_clock(self, seconds: float) -> None:
        """Somebody moves the wall clock by so much; the alarm rings."""
        self.wall += seconds
        self.ring()

    # Looking.

    def row(self, name: str = "job") -> dict[str, Any]:
        return next(row for row in self.timers.rows() if row["name"] == name)

    @property
    def results(self) -> list[tuple[str, str]]:
        """(why, result as key and facts) of each, oldest first."""
        return [(run["why"], brief(read(run["cause"]))) for run in reversed(self.row()["runs"])]

    @property
    def times(self) -> list[float]:
        return [at for _, at in self.starts]
