"""Run health checks on schedule, and act on their results.

A check probes only while its target is RUNNING. One that names a path alone probes each worker of its pool by itself;
every other one probes the unit at its address. A target has only one probe under way at a time, even with several
checks. `core.rules.health` concludes; this module keeps the timers.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from impetusd.core.config.model import Action, Health
from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules import health
from impetusd.core.rules.health import Condition, Observed, Result, Turn
from impetusd.core.rules.lifecycle import State, Want
from impetusd.linux.procfs import boot_id
from impetusd.supervisor import chance
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.entry import SERVING, Entry

VERSION = 1
FIELDS = frozenset(each.name for each in fields(Observed))
KEPT = 4  # fields of a result that are remembered: the first version reads no others


class _Subject:
    """What one check probes: one slot, or (`entry` None) the unit at its address."""

    __slots__ = ("active", "at", "check", "entry", "held", "last", "queued", "rule", "seen", "serial", "timer")

    def __init__(self, check: Health, entry: Entry | None) -> None:
        self.check = check
        self.entry = entry
        self.rule = health.rule_of(check)
        self.seen = Observed()
        self.active = False
        self.serial = 0  # of the process that is asked; an answer of an earlier one counts for nothing
        self.timer: asyncio.TimerHandle | None = None
        self.queued = False
        self.last: Result | None = None
        self.at: float | None = None  # Unix time of the last answer
        self.held = NONE  # why a due restart is delayed

    @property
    def key(self) -> str:
        return self.check.name if self.entry is None else f"{self.check.name} {self.entry.name}"


class Checks:
    """All health checks. Every method is called in the event loop's thread and returns without waiting."""

    def __init__(
        self,
        checks: Iterable[Health],
        *,
        ask: Callable[[Health, Entry | None], Awaitable[Result]],
        slots: Callable[[str], Sequence[Entry]],
        shown: Callable[[Entry], str],
        fail: Callable[[Entry, Reason], object],
        turned: Callable[[Health, str, Turn, int, Reason], object],
        save: Callable[[], object],
        jitter: Callable[[], float] = chance.fraction,
    ) -> None:
        """`ask`: as `Prober.ask`. `slots(name)`: the slots of a unit. `fail(slot, reason)`: it is judged broken.

        `turned(check, target, turn, failures in a row, reason)`: that is news. `save()`: what `dump` says has changed; never called from within `changed`.
        """
        self._checks = [check for check in checks if check.enabled]
        self._ask = ask
        self._slots = slots
        self._shown = shown
        self._fail = fail
        self._turned = turned
        self._save = save
        self._jitter = jitter
        self._loop = asyncio.get_running_loop()
        self._of_unit: dict[str, list[Health]] = {}
        for check in self._checks:
            self._of_unit.setdefault(check.target, []).append(check)
        self._subjects: dict[str, _Subject] = {}
        self._remembered: dict[str, dict[str, Any]] = {}
        self._restarts: dict[str, float] = {}  # of a target: when a probe last restarted a slot of it
        self._busy: set[str] = set()  # targets that are being asked
        self._queues: dict[str, deque[_Subject]] = {name: deque() for name in self._of_unit}
        self._tasks: set[asyncio.Task[None]] = set()
        self.faults = BARE

    # What is remembered.

    def dump(self) -> str:
        """What outlives the supervisor."""
        subjects = {
            key: {"seen": {**asdict(subject.seen), "condition": subject.seen.condition.value}, "at": subject.at}
            | {"last": list(subject.last[:KEPT]) if subject.last else None}
            for key, subject in self._subjects.items()
        }
        return json.dumps({"version": VERSION, "boot": boot_id(), "subjects": subjects, "restarts": self._restarts})

    def load(self, text: str) -> None:
        """Restore the previous supervisor's `dump`; nothing from another version, or from before a reboot."""
        data: dict[str, Any] = json.loads(text)
        # A monotonic time means something in its own boot only, and no process of an earlier one is left.
        if data.get("version") != VERSION or data.get("boot") != boot_id():
            return
        self._remembered = data["subjects"]
        self._restarts = data["restarts"]

    def begin(self) -> None:
        """Follow what runs already; called once, when the slots are known."""
        for name in self._of_unit:
            for entry in self._serving(name):
                self._follow_all(entry)

    # What to probe.

    def changed(self, change: Change) -> None:
        """A slot changed."""
        entry, before, _ = change
        if entry.unit.name not in self._of_unit or entry.role not in SERVING:
            return
        if (before.state, before.pid, before.want) != (entry.slot.state, entry.slot.pid, entry.slot.want):
            self._follow_all(entry)

    def _follow_all(self, entry: Entry) -> None:
        for check in self._of_unit[entry.unit.name]:
            self.faults.attempt(_source(check, entry), "updating the check", self._follow, check, entry)

    def _follow(self, check: Health, entry: Entry) -> None:
        subject = self._subject(check, entry)
        if entry.dismissed and entry.slot.state is State.STOPPED and subject.entry is entry:
            self._pause(subject, wanted=False)
            del self._subjects[subject.key]
            return
        behind = self._whose(subject)
        running = [each for each in behind if each.slot.state is State.RUNNING]
        if not running:
            self._pause(subject, wanted=any(each.slot.want is Want.UP for each in behind))
            return
        began = min(each.slot.since for each in running)
        if not subject.active or (subject.entry is not None and began != subject.seen.began):
            self._wake(subject, began)

    def _subject(self, check: Health, entry: Entry) -> _Subject:
        subject = _Subject(check, entry if health.asks_each_worker(check) else None)
        return self._subjects.setdefault(subject.key, subject)

    def _serving(self, name: str) -> list[Entry]:
        return [entry for entry in self._slots(name) if entry.role in SERVING and not entry.dismissed]

    def _whose(self, subject: _Subject) -> list[Entry]:
        """The slots that stand behind the answer."""
        return self._serving(subject.check.target) if subject.entry is None else [subject.entry]

    def _wake(self, subject: _Subject, began: float) -> None:
        self._pause(subject, wanted=True)
        self._arm(subject, health.first_wait(subject.check.interval, self._jitter()))
        subject.active = True
        subject.seen = Observed(began=began, told=subject.seen.told)
        remembered = self._remembered.pop(subject.key, None)
        if remembered is not None:
            source = _source(subject.check, subject.entry)
            self.faults.contain(source, "reading its saved state", self._recall, subject, remembered)

    @staticmethod
    def _recall(subject: _Subject, remembered: Mapping[str, Any]) -> None:
        known = {name: each for name, each in remembered["seen"].items() if name in FIELDS}  # a newer version has more
        seen = Observed(**{**known, "condition": Condition(known["condition"])})
        same = seen.began == subject.seen.began
        subject.seen = seen if same else replace(subject.seen, told=seen.told)
        if same and remembered["last"]:
            subject.at, subject.last = remembered["at"], Result(*remembered["last"])

    def _pause(self, subject: _Subject, *, wanted: bool) -> None:
        """There is nothing to probe. Knowledge of the process is dropped; the state reported to the operator stays."""
        subject.active = subject.queued = False
        subject.serial += 1
        if subject.timer is not None:
            subject.timer.cancel()
            subject.timer = None
        subject.seen = Observed(told=subject.seen.told and wanted)
        subject.last = subject.at = None
        subject.held = NONE

    # Asking, one at a time of each target.

    def _arm(self, subject: _Subject, wait: float) -> None:
        if subject.timer is not None:
            subject.timer.cancel()
        source = _source(subject.check, subject.entry)
        subject.timer = self._loop.call_later(
            wait, self.faults.attempt, source, "running the check", self._due, subject
        )

    def _due(self, subject: _Subject) -> None:
        subject.timer = None
        if not subject.active:
            return
        if subject.check.target in self._busy:
            subject.queued = True
            self._queues[subject.check.target].append(subject)
        else:
            self._go(subject)

    def _go(self, subject: _Subject) -> None:
        subject.queued = False
        work = functools.partial(self._probe, subject, subject.serial)
        task = self._loop.create_task(self.faults.attend(f"health:{subject.check.name}", "running the check", work))
        self._busy.add(subject.check.target)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, subject: _Subject, serial: int) -> None:
        check = subject.check
        began = self._loop.time()
        try:
            result = await self._ask(check, subject.entry)
        except Exception as error:
            result = Result(False, f"cannot send the check: {error!r}", blame=False)
        self._busy.discard(check.target)
        if subject.serial == serial:
            wait = health.next_wait(check.interval, self._jitter())
            self._arm(subject, max(0.0, began + wait - self._loop.time()))
            self.faults.contain(f"health:{check.name}", "evaluating its response", self._conclude, subject, result)
        queue = self._queues[check.target]
        while queue and check.target not in self._busy:
            following = queue.popleft()
            if following.queued:
                source = _source(following.check, following.entry)
                self.faults.attempt(source, "running the check", self._due, following)

    # What follows.

    def _conclude(self, subject: _Subject, result: Result) -> None:
        before, now = subject.seen, self._loop.time()
        subject.seen, turn = health.observe(subject.rule, before, result, now)
        subject.last, subject.at = result, round(time.time(), 3)
        if turn is not None:
            failures, reason = subject.seen.failures, self._reason(subject)
            self._turned(subject.check, self._target(subject), turn, failures, reason)
        subject.held = NONE
        victim = None
        if result.blame and subject.check.action is Action.RESTART and health.restart_due(subject.rule, subject.seen):
            victim = self._victim(subject, now)
        if victim is not None:
            subject.seen = health.restarted(subject.seen)
            self._restarts[subject.check.target] = now
        if subject.seen != before or victim is not None:
            self._save()
        if victim is not None:  # last: what it changes comes back through `changed`
            self._fail(victim, because("unhealthy", cause=self._reason(subject)))

    def _victim(self, subject: _Subject, now: float) -> Entry | None:
        """The slot to restart: the one that was probed, or the oldest of those that serve the address."""
        running = [each for each in self._whose(subject) if each.slot.state is State.RUNNING]
        if not running:
            return None
        victim = min(running, key=lambda each: each.slot.started or 0.0)
        others = [each for each in self._serving(subject.check.target) if each is not victim]
        out = [
            self._shown(each) for each in others if each.slot.want is Want.UP and each.slot.state is not State.RUNNING
        ]
        subject.held = health.hold(now, self._restarts.get(subject.check.target), out)
        return None if subject.held else victim

    # State to show.

    def rows(self) -> list[dict[str, Any]]:
        """The control method `health`: a row for each check, or for each worker that a check asks by itself."""
        rows = []
        for check in self._checks:
            entries: Sequence[Entry | None] = self._serving(check.target) if health.asks_each_worker(check) else [None]
            for entry in entries:
                subject = _Subject(check, entry)
                rows.append(self._row(self._subjects.get(subject.key, subject)))
        return rows

    def attention(self) -> list[tuple[str, Reason]]:
        """(unit, what to say) for each target that is unhealthy, for `status`."""
        return [
            (
                subject.check.target,
                because("check_unhealthy", target=self._target(subject), cause=self._reason(subject)),
            )
            for subject in self._subjects.values()
            if subject.active and subject.seen.condition is Condition.UNHEALTHY
        ]

    def _row(self, subject: _Subject) -> dict[str, Any]:
        reason = self._reason(subject)
        condition, last = subject.seen.condition, subject.last
        if not subject.active:
            up = any(each.slot.want is Want.UP for each in self._whose(subject))
            condition = Condition.STARTING if up else Condition.UNKNOWN
        at = (
            dt.datetime.fromtimestamp(subject.at).astimezone().isoformat(timespec="milliseconds")
            if subject.at
            else None
        )
        return {
            "name": subject.check.name,
            "target": self._target(subject),
            "what": health.what(subject.check),
            "state": condition.value,
            "reason": str(reason),
            "cause": reason.data(),
            "failures": subject.seen.failures,
            "threshold": subject.check.failures,
            "interval_s": subject.check.interval,
            "at": at,
            "latency_ms": round(last.latency * 1000, 1) if last is not None else None,
            "action": subject.check.action.value,
        }

    def _target(self, subject: _Subject) -> str:
        return subject.check.target if subject.entry is None else self._shown(subject.entry)

    def _reason(self, subject: _Subject) -> Reason:
        """The reason for the check's state; NONE if the last answer was good."""
        if not subject.active:
            behind = self._whose(subject)
            state = behind[0].slot.state.name if behind else "disabled"
            return because("is_state", name=self._target(subject), state=state, cause=NONE)
        if subject.last is None:
            return because("not_asked")
        if subject.last.ok:
            return NONE
        reason = health.bad_answer(subject.check, subject.last)
        return because("held", cause=reason, held=subject.held) if subject.held else reason


def _source(check: Health, entry: Entry | None) -> str:
    """What is said to have raised; each slot that is asked by itself is one."""
    asks = entry is not None and health.asks_each_worker(check)
    return f"health:{check.name} of {entry.name}" if asks and entry is not None else f"health:{check.name}"
