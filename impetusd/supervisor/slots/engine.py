"""The engine: what happens in the slots; one inbox, one timer a slot.

Events from everywhere go into the inbox and are run to completion, one by one, through the pure machine
(`core.rules.lifecycle`); what it says is to be done becomes operations for the shim. All that one round has changed and
asked for goes to the shim as one message, records first. So whatever moment the supervisor dies at, its successor finds
either none of a round or all of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import random
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, ParamSpec

from impetusd.core import redact
from impetusd.core.config.model import Config, Kind, Unit
from impetusd.core.explain import causes
from impetusd.core.reasons import (
    NONE,
    STAGES,
    Reason,
    because,
    cause_key,
    errno_of,
    not_started,
    of_os_error,
    read_start,
    rule_of,
)
from impetusd.core.rules import lifecycle, quarantine
from impetusd.core.rules.lifecycle import (
    Cancel,
    Deadline,
    Event,
    Exited,
    Fail,
    Gone,
    HandOver,
    Ping,
    Ready,
    Restart,
    Signal,
    Slot,
    Spawn,
    Spawned,
    Start,
    State,
    Stop,
    Want,
)
from impetusd.core.rules.policy import Exit, signal_name
from impetusd.core.rules.reload import overlaps
from impetusd.supervisor.faults import Faults
from impetusd.supervisor.slots.entry import (
    FORKING,
    IDLE,
    ONE_SHOT,
    PASSING,
    SERVING,
    Entry,
    Role,
    differ,
    serving,
    slot_name,
)
from impetusd.supervisor.slots.registry import Slots
from impetusd.supervisor.slots.reloads import Reloads
from impetusd.supervisor.slots.rolling import Rolling, leaving_slot, taken
from impetusd.supervisor.start import envfiles
from impetusd.supervisor.start.childspec import NOTHING, CannotStart, Found, LookUp
from impetusd.supervisor.start.starter import Starter

P = ParamSpec("P")

EX_THREADS = 77  # the template's exit when the application starts threads or opens connections at import
PATIENCE = 3  # failed runs in a row after which `start` no longer waits for a slot
TEMPLATE_GONE = frozenset({"template_gone", "template_ended"})  # why a fork failed: there was nobody to make it
LONG = 5.0  # seconds until the next try for which it does not wait either
AT_ONCE = 25  # starts in one message to the shim
SHOWN = 0.05  # seconds until the next try that are told as a number
SPARING = 10  # times what looking at the conditions of `until` takes, until they are looked at again
LEAVES = (Restart, Stop, Exited)  # what, once it is in the inbox, a process is as good as gone by
FORKED = 5.0  # seconds; a fork takes a few ms, of a large application on a busy host a few hundred
TAILED = 2.0  # seconds that the last lines of a run are waited for
LATE = 1.0  # seconds by which a watchdog's timer is late when it was we who hung, or the host that slept


class Engine(Slots):
    """All slots. Every method is called in the event loop's thread and returns without waiting."""

    def __init__(
        self,
        starter: Starter,
        publish: Callable[[Entry, Slot], None],
        tell: Callable[[str], None],
        oom: Callable[[int, float], str | None],
        record: Callable[..., None],
    ) -> None:
        """`publish` is told of each change, with the slot as it was before; `tell` writes into the daemon's log.

        `oom` says whether the kernel has killed `pid`, which ran `since`, for memory, in the kernel's words.
        `record(entry, kind, **fields)` writes into the ledger what no change of a slot tells.
        """
        self.faults = Faults(tell, self.wake)
        super().__init__(starter, self.faults)
        self._publish = publish
        self._tell = tell
        self._oom = oom
        self._record = record
        self.rolling = Rolling(self, time.monotonic, tell)
        self.reloads = Reloads(self, starter, time.monotonic, tell)
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[tuple[Entry, Event]] = deque()
        self._pumping = False
        self._gathering = False
        self._waiting: dict[str, Entry] = {}
        self._by_process: dict[int, Entry] = {}
        self._by_pid: dict[int, Entry] = {}
        self._looking_up: set[asyncio.Task[None]] = set()
        self._watchers: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._stage = ""  # of the event that is being handled
        self._changing = False  # another configuration is being brought into force

    # Building and rebuilding.

    def configure(
        self,
        at: Callable[[int], Config],
        blobs: Mapping[str, str],
        saved: Mapping[str, Mapping[str, Any]],
        before: Callable[[int], Config] | None = None,
    ) -> None:
        """As in `Slots`, with the reloads that are under way."""
        self.reloads.load(blobs)
        self._changing = before is not None
        super().configure(at, blobs, saved, before)

    def _forget_unit(self, unit: Unit) -> None:
        super()._forget_unit(unit)
        self.reloads.forget(unit)

    def adopt(self, table: Sequence[Mapping[str, Any]]) -> None:
        """Take over what the shim holds: nothing is started that runs, no exit is missed.

        First everything that is held becomes known, then what has happened is gathered; only then is anything decided.
        """
        with self.at_once():
            self._take_over(table)
        for unit in list(self.units.values()):
            self.page.at(unit.name, "looking who serves")
            self.faults.contain(unit.name, "looking who serves", self._refuse_if_nobody_serves, unit)
        self.page.blank()

    def _take_over(self, table: Sequence[Mapping[str, Any]]) -> None:
        held = {row["process"]: row for row in table}
        for entry in self.entries.values():
            rec = entry.rec
            self.page.at(entry.name, "taking it over")
            if self.holds(entry):
                lives = rec.process is not None
                rec.slot = quarantine.begin(rec.slot, time.monotonic(), entry.policy, lives=lives)
                self.touch(entry)
            if rec.process is not None:
                self._by_process[rec.process] = entry
            if rec.slot.pid is not None:
                self._by_pid[rec.slot.pid] = entry
            if not self.faults.contain(entry.name, "taking over its log pipes", self._take_over_pipes, entry):
                rec.pipe = None
            if rec.slot.state is State.RUNNING and entry.policy.watchdog and not self.holds(entry):
                rec.slot = replace(rec.slot, deadline=time.monotonic() + entry.policy.watchdog)  # nobody was listening
            self._arm(entry)
        pipes = {entry.rec.pipe for entry in self.entries.values() if entry.rec.pipe is not None}
        self._starter.continue_from(max([0, *held, *self._by_process]) + 1, pipes)
        for entry in self.entries.values():
            row = held.pop(entry.rec.process, None) if entry.rec.process is not None else None
            self.page.at(entry.name, "taking it over")
            self.faults.contain(entry.name, "taking it over", self._reconcile, entry, row)
            if (
                entry.dismissed and entry.slot.want is Want.UP and not self.holds(entry)
            ):  # it was scaled away, and nobody has told it yet
                self._inbox.append((entry, Stop()))
        for entry in list(self.entries.values()):
            if entry.dismissed and entry.slot.state in IDLE and entry.rec.process is None:
                self.dismiss(entry)
        self.page.blank()
        if self.held.whole is not None:
            return
        if not self._changing:
            self.drop_listeners()
        for process, row in held.items():
            if not row["acked"]:  # of a slot that is gone; what was acked is a rest that treekill = no has spared
                self._starter.signal(process, signal.SIGKILL, lifecycle.Scope.TREE)
                self._starter.ack(process)
        self.faults.contain("replacing processes", "taking it over", self.rolling.resume)
        self.faults.contain("replacing processes", "looking for those out of reach", self._replace_unreachable)

    def _take_over_pipes(self, entry: Entry) -> None:
        if entry.rec.pipe is not None and not self._starter.adopt_pipe(entry):
            self._tell(f"{entry.name}: its log pipes are lost: what it prints is, until its next start")
            self.touch(entry)

    def _replace_unreachable(self) -> None:
        """Workers whose command channel died with a shim: those that serve by and by, the others at once."""
        reason = because("channel_lost")
        for entry in list(self.entries.values()):
            process = entry.rec.process
            if entry.works and process is not None and not self.holds(entry) and not self._starter.reaches(process):
                if entry.role is Role.WORKER and entry.slot.state is State.RUNNING:
                    self.recycle([entry], reason)
                elif entry.slot.state in {State.STARTING, State.RUNNING}:
                    self._inbox.append((entry, Restart()))  # none of its failures, which would be the end of a reload
                else:
                    self._inbox.append((entry, Fail(reason, True)))

    def _reconcile_without(self, entry: Entry) -> None:
        """The shim holds nothing of this slot."""
        slot = entry.slot
        if entry.rec.process is not None:
            self._release(entry)
            if slot.pid is None and slot.state is State.STOPPING:
                self._inbox.append((entry, Gone()))
            else:
                failed = not_started("find", because("process_unknown"))
                end = Exit(failed=failed, at=round(time.time(), 3))
                self._inbox.append((entry, Exited(end)))
        elif slot.state is State.STARTING and not self.holds(entry):
            self._waiting[entry.name] = entry
        elif slot.state is State.STOPPING:
            self._inbox.append((entry, Gone()))

    def _reconcile(self, entry: Entry, row: Mapping[str, Any] | None) -> None:
        if row is None:
            self._reconcile_without(entry)
            return
        if row["pid"] and not row["acked"]:
            self._inbox.append((entry, Spawned(row["pid"])))
        if row["ended"] is not None and not row["acked"]:
            self.exited({"process": row["process"], "left": row["left"], **row["ended"]})
        elif self.holds(entry):
            return
        elif entry.slot.state is State.STARTING and entry.works and entry.rec.process is not None:
            if entry.serves:
                self._starter.put_to_work(entry.rec.process, entry.name)
            self._starter.tell(entry.rec.process, {"do": "tell"})  # its READY=1 may have died with who read it

    # What is asked for.

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """What is asked for in here goes to the shim as one round."""
        self._pumping = True
        try:
            yield
        finally:
            self._pumping = False
            self._pump()

    @contextlib.contextmanager
    def gather(self) -> Iterator[None]:
        """What follows from several events is decided event by event, and goes to the shim as one message."""
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
            self._flush()

    def start(self, entries: Iterable[Entry]) -> None:
        """Have them up; those that run already are left alone."""
        self._ask(entries, Start())

    def restart(self, entries: Iterable[Entry]) -> None:
        """Have a new process in each."""
        self._ask(entries, Restart())

    def stop(self, entries: Iterable[Entry]) -> None:
        """Have them down."""
        self._inbox.extend((entry, Stop()) for entry in entries)
        self._pump()

    def hold(self, entries: Iterable[Entry]) -> None:
        """The operator has stopped these by name: they stay stopped, over reboots too, until they are started."""
        for entry in entries:
            entry.rec.stopped = True
            self.touch(entry)
            self._publish(entry, entry.slot)

    def recycle(self, entries: Iterable[Entry], reason: Reason) -> None:
        """A rule of the INI wants new processes in the place of healthy ones: one at a time, counted."""
        entries = list(entries)
        for unit in {entry.unit.name: entry.unit for entry in entries if entry.role is Role.TEMPLATE}.values():
            entries = [entry for entry in entries if entry.unit is not unit]
            self.renew(unit, reason)  # with its template a pool is imported anew
        known = [entry for entry in entries if entry.rec.due]  # a rule says so again until their turn has come
        if marked := self.rolling.mark(entries, reason):
            for entry in marked:
                if entry not in known:
                    self._acted(entry, reason)
            self._pump()

    def roll(self, entries: Iterable[Entry], reason: Reason) -> list[Entry]:
        """The operator wants new processes, one at a time. Returns the slots that will get one."""
        marked = self.rolling.mark(entries, reason, asked=True)
        for unit in {entry.unit.name: entry.unit for entry in marked}.values():
            facts: dict[str, Any] = {"generation": self.generation(unit) + 1}
            self._note(unit, **facts)
        self._pump()
        return marked

    def fail(self, entry: Entry, reason: Reason, *, hard: bool = False) -> None:
        """The process is judged to be broken. A worker is replaced before it goes, unless it has to go at once."""
        if self.holds(entry):
            return
        if self.reloads.judged(entry, reason) and not hard:
            self._acted(entry, reason)
            self._pump()
        elif entry.role is Role.WORKER and not hard:
            self.recycle([entry], reason)
        else:
            if entry.slot.state in {State.STARTING, State.RUNNING} or (hard and not entry.slot.kills):
                self._acted(entry, reason)
            self.post(entry, Fail(reason, hard))

    def renew(self, unit: Unit, reason: Reason) -> None:
        """A rule of the INI wants the version on the disk."""
        if self.holds_any(unit):
            return
        if overlaps(unit):
            for entry in self.reloads.renew(unit, reason):
                self._acted(entry, reason)
            self._pump()
        else:
            self.recycle([entry for entry in self.of_unit(unit) if entry.role is not Role.TEMPLATE], reason)

    def _acted(self, entry: Entry, reason: Reason) -> None:
        self._record(entry, "rule", pid=entry.slot.pid, rule=rule_of(reason), reason=reason)

    def cut_off(self, entry: Entry, count: int) -> None:
        """A worker that leaves says how many requests it could not answer in the time that it has."""
        reason = because("cut_off", count=count, limit_s=entry.unit.drain_timeout)
        self._tell(f"{entry.name}: {reason}")
        self._acted(entry, reason)

    def drop_listeners(self) -> None:
        """Close what nobody listens on any more."""
        self._changing = False
        self._starter.drop_listeners_but((e.unit for e in self.entries.values()), self.reloads.unfinished())

    def _ask(self, entries: Iterable[Entry], event: Event) -> None:
        """A few at a time: the shim has begun by when the next are told, and a fork copies the pipes of fewer slots."""
        waiting = iter(entries)
        while some := list(islice(waiting, AT_ONCE)):
            self._ask_some(some, event)

    def _ask_some(self, entries: Iterable[Entry], event: Event) -> None:
        for entry in entries:
            if entry.role in PASSING or entry.dismissed or (isinstance(event, Start) and self.reloads.puts_away(entry)):
                continue  # it has been replaced already, is still to come, or is going for good
            if self.holds(entry):
                self.faults.contain(entry.name, "refusing its start", self._refuse_start, entry)
                continue
            entry.rec.stopped = False
            fresh = isinstance(event, Restart) or entry.slot.state in IDLE
            self.faults.contain(entry.name, "preparing what was asked", self._prepare, entry, event, fresh=fresh)
            entry.rec.gated = entry.rec.gated or fresh
            self._inbox.append((entry, event))
        self._pump()

    def _refuse_start(self, entry: Entry) -> None:
        """The run of a one-shot process that is due ends before it has begun; nobody waits for the others."""
        if entry.role in ONE_SHOT and entry.rec.process is None:
            before, failed = entry.slot, not_started("start", self.reason(entry))
            end = Exit(failed=failed, at=round(time.time(), 3))
            self._enter(entry, replace(before, state=State.FATAL, reason=failed, last_exit=end))
            self._publish(entry, replace(before, state=State.STARTING))

    def _prepare(self, entry: Entry, event: Event, *, fresh: bool) -> None:
        """A start by command ends a reload, or makes a new generation of the unit."""
        if isinstance(event, Restart):
            self.reloads.cancel(entry.unit, because("restart_asked"))
        if fresh and entry.index == 0 and self._leads(entry):
            reload = self.reloads.active(entry.unit)
            least = reload.generation if reload is not None else self.generation(entry.unit)
            facts: dict[str, Any] = {"generation": least + 1}
            if entry.role is Role.TEMPLATE:
                facts["afresh"] = False
            if reload is None:
                self.reloads.forget(entry.unit)
            self._note(entry.unit, **facts)

    def _leads(self, entry: Entry) -> bool:
        """Whether its start by command makes a new generation of the unit."""
        if entry.role is Role.WORKER:
            return not entry.unit.preload
        return entry.role in {Role.TEMPLATE, Role.PROGRAM}

    def signal(self, entries: Iterable[Entry], number: int) -> None:
        """Send a signal to the main process of each."""
        for entry in entries:
            if entry.rec.process is not None and entry.slot.pid is not None:
                self._starter.signal(entry.rec.process, number, lifecycle.Scope.MAIN)
        self._starter.flush()

    def wake(self) -> None:
        """What somebody waits for may have come, though no slot has changed; and send what was put."""
        self._pump()

    def scale(self, unit: Unit, count: int, token: str = "") -> list[Entry]:
        """Have `count` serving slots of the unit: the highest ones go, new ones are started. Returns those that change.

        `token`: of who asks, for `was_scaled`.
        """
        role = serving(unit)
        present = {e.index: e for e in self.of_unit(unit) if e.role is role}
        changed: list[Entry] = []
        for index in range(count):
            entry = present.get(index)
            if entry is None or entry.dismissed:
                if entry is None:
                    entry = self._make(unit, role, index, {})
                entry.dismissed = False
                changed.append(entry)
        leaving = [entry for index, entry in present.items() if index >= count]
        for entry in leaving:
            entry.dismissed = True
        self._note(unit, instances=count, scaled=token)
        self._sort()
        self.start(changed)
        self.stop(leaving)
        for entry in leaving:
            if entry.slot.state is State.STOPPED:
                self.dismiss(entry)
        return changed + leaving

    # What happens.

    def post(self, entry: Entry, event: Event) -> None:
        """Put an event into the inbox and run the inbox empty, unless that is already under way."""
        self._inbox.append((entry, event))
        self._pump()

    def hear(self, event: dict[str, Any]) -> None:
        """An event from the shim, which is not lost whatever is raised over it."""
        process = event["process"]
        entry = self._by_process[process] if process in self._by_process else None  # noqa: SIM401  # nothing is called
        pid = entry.slot.pid if entry is not None else None
        try:
            if entry is not None:
                self.page.at(entry.name, f"hearing that it {event['event']}")
            self._hear(event)
        except Exception as error:
            self.faults.note(
                entry.name if entry is not None else "the shim", f"hearing that it {event['event']}", error
            )
            if entry is not None:
                self._hear_again(entry, pid, event)

    def _hear_again(self, entry: Entry, pid: int | None, event: dict[str, Any]) -> None:
        """The least that an event means, unless it has been handled already; `pid` was the slot's before."""
        slot, process = entry.slot, event["process"]
        untouched = slot.pid == pid if pid is not None else slot.state in {State.STARTING, State.STOPPING}
        mine = entry.rec.process in {None, process} and entry.name not in self._waiting and entry.waits is None
        if untouched and mine and not any(each is entry for each, _ in self._inbox):
            match event["event"]:
                case "spawned":
                    self._inbox.append((entry, Spawned(event["pid"])))
                case "gone":
                    self._release(entry)
                    self._inbox.append((entry, Gone()))
                case "exited":
                    self._starter.ack(process)
                    end = _exit_of(event)
                    if not event["left"]:
                        self._release(entry)
                    self._inbox.append((entry, Exited(end, event["left"])))
        self._pump()

    def _hear(self, event: dict[str, Any]) -> None:
        entry = self._by_process.get(event["process"])
        match event["event"]:
            case "spawned" if entry is not None:
                self.post(entry, Spawned(event["pid"]))
            case "exited":
                self.exited(event)
            case "gone" if entry is not None:
                self._release(entry)
                self.post(entry, Gone())

    def exited(self, event: Mapping[str, Any]) -> None:
        """A process has ended; the shim keeps the fact until we have written it down."""
        process = event["process"]
        self._starter.ack(process)
        entry = self._by_process.get(process)
        if entry is None:
            self._pump()
            return
        end = _exit_of(event)
        left = bool(event["left"]) and entry.policy.treekill
        held = self.holds(entry)
        try:
            end = self._looked_at(entry, end, event)
            unborn = cause_key(end.failed) in TEMPLATE_GONE or (
                "unknown" in event and entry.works and entry.slot.pid is None
            )
            if unborn and entry.slot.state is State.STARTING and not held:
                # No run of this slot has failed: there was nobody to fork it, or the shim was killed over it.
                if event["left"]:  # and what it has left is nobody's: it goes before another is started
                    self._starter.signal(process, signal.SIGKILL, lifecycle.Scope.TREE)
                self._release(entry)
                self._waiting[entry.name] = entry
                self._pump()
                return
            if not held:
                self._before_its_end(entry, end, event)
        except Exception as error:
            self.faults.note(entry.name, "looking at how it ended", error)
        if not left:
            self._release(entry)
        self.post(entry, Exited(end, left))

    def _looked_at(self, entry: Entry, end: Exit, event: Mapping[str, Any]) -> Exit:
        """`end` with core dump, CPU time, memory, and whether the kernel killed it for memory."""
        used = {name: event[name] for name in ("core", "cpu_s", "max_rss") if name in event}
        if end.signal == signal.SIGKILL and not entry.slot.kills and entry.slot.pid is not None:
            counted = "out of memory, as its cgroup's memory.events says" if event.get("oom") else ""
            used["oom"] = self._oom(entry.slot.pid, entry.slot.started or 0.0) or counted
        return replace(end, **used)

    def _before_its_end(self, entry: Entry, end: Exit, event: Mapping[str, Any]) -> None:
        """What else follows from an end than that the process is gone."""
        if errno_of(end.failed) == errno.EMFILE:  # the shim may have none of its pipes: the next start makes others
            self._starter.forget_pipe(entry)
        if end.code == EX_THREADS and entry.role is Role.TEMPLATE:
            self._run_afresh(entry)
        if end.code == EX_THREADS and entry.role is Role.NEXT_TEMPLATE:
            self.reloads.starts_threads(entry)
        begun = {State.STARTING, State.RUNNING} if entry.role in FORKING else {State.STARTING} if entry.works else set()
        if event.get("unknown") and entry.slot.state in begun:
            self._inbox.append((entry, Restart()))  # it has ended because the shim had: none of its failures

    def _run_afresh(self, template: Entry) -> None:
        """The application starts threads or opens connections at import, which no fork survives: each worker is executed afresh."""
        self._note(template.unit, afresh=True)
        self.post(template, Stop())

    def _release(self, entry: Entry) -> None:
        if entry.rec.process is not None:
            self._by_process.pop(entry.rec.process, None)
            self._starter.forget_channel(entry.rec.process)
            entry.rec.process = None
            self._dirty[entry.name] = entry

    def ready(self, pid: int) -> bool:
        """READY=1 from `pid`. False when no slot has that pid (yet)."""
        entry = self._by_pid.get(pid)
        if entry is None:
            return False
        self.post(entry, Ready())
        return True

    def ping(self, entry: Entry) -> None:
        """WATCHDOG=1. Nothing is written down and no timer moved: the timer looks again when it is due."""
        if self.holds(entry):
            return
        entry.rec.slot, _ = lifecycle.step(entry.policy, entry.slot, Ping(), time.monotonic(), 0.0)
        if entry.timer is None:
            self._arm(entry)

    def of_pid(self, pid: int) -> Entry | None:
        """The slot whose main process is `pid`."""
        return self._by_pid.get(pid)

    def expects(self) -> bool:
        """Whether a process was asked for whose pid has not been told."""
        return any(each.rec.process is not None and each.slot.pid is None for each in self.entries.values())

    def _arm(self, entry: Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.slot.deadline is not None:
            entry.timer = self._loop.call_at(entry.slot.deadline, self._deadline, entry)

    def _deadline(self, entry: Entry) -> None:
        entry.timer = None
        try:
            self.page.at(entry.name, "looking at its deadline")
            self._look_at_deadline(entry)
            self.page.blank()
        except Exception as error:
            self.faults.note(entry.name, "looking at its deadline", error)
            entry.timer = self._loop.call_later(LATE, self._deadline, entry)

    def _look_at_deadline(self, entry: Entry) -> None:
        slot, now = entry.slot, time.monotonic()
        if slot.deadline is not None and slot.state is State.RUNNING and now - slot.deadline > LATE:
            entry.rec.slot = slot = replace(slot, deadline=now + entry.policy.watchdog)
        if slot.deadline is not None and slot.deadline > now:  # it has been moved since
            self._arm(entry)
            return
        if slot.pid is None and slot.started is None and entry.rec.process is not None and not self.holds(entry):
            self.faults.contain(entry.name, "looking after its fork", self._not_forked, entry)
        if slot.state is not State.STARTING or slot.pid is not None:
            self.post(entry, Deadline())

    def _not_forked(self, entry: Entry) -> None:
        """Its template is stopped, or hangs: replace it; the next one forks the slot."""
        template = self.reloads.parent(entry)
        if template is not None and template.slot.pid is not None:
            self.fail(template, because("no_fork", slot=entry.name, within_s=_fork_within(entry)), hard=True)

    # The loop.

    def _pump(self) -> None:
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._inbox or self._more():
                while self._inbox:
                    self._guard(*self._inbox.popleft())
            for entry in list(self._dirty.values()):
                self.page.at(entry.name, "recording it")
                self.faults.contain(entry.name, "recording it", self._write_down, entry)
            self.page.blank()
        except Exception as error:
            self.faults.note("the engine", "going round", error)  # which has it go round again
        finally:
            self._pumping = False
        if not self._gathering:
            self._flush()
        if self._watchers and self._looking is None:
            self._looking = self._loop.call_at(
                self._look_at, self.faults.contain, "the engine", "looking who waits no longer", self._look
            )

    def _flush(self) -> None:
        """Send the round. What this raises before that is as if the round were not over yet: see `Starter.flush`."""
        try:
            self._starter.flush()
        except Exception as error:
            self.faults.note("the engine", "sending a round", error)

    def _more(self) -> bool:
        """Whether anything follows from what the last events have changed."""
        if self.held.whole is None:
            self._wake_waiting()
            self.reloads.advance()
            self.rolling.advance()
            self.page.blank()
        return bool(self._inbox)

    def _guard(self, entry: Entry, event: Event) -> None:
        """Handle one event for one slot. An exception costs this slot its start or its process, and affects no other."""
        before, self._stage = entry.rec.slot, "deciding"  # nothing is called that could raise
        try:
            self.page.at(entry.name, f"deciding on {type(event).__name__}")
            if self.holds(entry):
                self.faults.contain(entry.name, "holding it", self._handle_held, entry, event)
            else:
                self._handle(entry, event)
        except Exception as error:
            self._mend(entry, event, before, error)

    def _handle_held(self, entry: Entry, event: Event) -> None:
        """Nothing is decided for the slot: what happens to it is recorded, and a stop is carried out."""
        before, now = entry.slot, time.monotonic()
        lives = entry.rec.process is not None
        after, actions = quarantine.step(entry.policy, before, event, now, lives=lives)
        if after == before and not actions:
            return
        self._enter(entry, after)
        if after.pid is None and before.pid is not None:
            self.faults.contain(entry.name, "ending its log lines", self._starter.end_run, entry)
        for action in actions:
            if isinstance(action, Signal) and entry.rec.process is not None:
                self._starter.signal(entry.rec.process, action.number, action.scope)
        self.faults.contain(entry.name, "publishing its change", self._publish, entry, before)
        if entry.rec.process is None and after.state not in {State.STARTING, State.STOPPING}:
            if entry.role in PASSING or entry.dismissed:
                self.dismiss(entry)
            if after.state is State.STOPPED:
                self._release_stopped(entry)

    def _release_stopped(self, entry: Entry) -> None:
        """What was stopped is in quarantine no more: the next start is the operator's."""
        for name in (entry.name, entry.unit.name):
            covered = [each for each in self.entries.values() if name in {each.name, each.unit.name}]
            if name in self.held.slots and all(each.rec.process is None for each in covered):
                self.release([name])

    def release(self, names: Collection[str] | None = None) -> None:
        """Hold these (names of `Held.slots`) no more; None: whatever is held, with all that has counted against it."""
        known, now = [entry for entry in self.entries.values() if self.holds(entry)], time.monotonic()
        if names is None:
            self.held = quarantine.Held()
            self._starter.put(quarantine.ENDS, None)
        else:
            kept = {name: cause for name, cause in self.held.slots.items() if name not in names}
            self.held = replace(self.held, slots=kept)
        self._starter.put(quarantine.HELD, quarantine.dump(self.held) if self.held != quarantine.Held() else None)
        for entry in known:
            if not self.holds(entry):
                entry.rec.slot = quarantine.end(entry.slot, now)
                self._write_down(entry)
                self._arm(entry)

    def _handle(self, entry: Entry, event: Event) -> None:
        before, now = entry.slot, time.monotonic()
        try:
            after, actions = lifecycle.step(entry.policy, before, event, now, random.random())  # noqa: S311
        except Exception as error:
            why = self.faults.note(entry.name, f"deciding on {type(event).__name__} in {before.state.name}", error)
            after, actions = lifecycle.undecided(entry.policy, before, event, now, why)
        if after == before and not actions:
            return
        self._stage = "entering"
        self._enter(entry, after)
        name, contain = entry.name, self.faults.contain
        if after.pid is None and before.pid is not None:
            contain(name, "ending its log lines", self._starter.end_run, entry)
        if isinstance(event, Exited) and (entry.role is Role.JOB or (after.want is Want.UP and not after.asked)):
            contain(name, "asking for its last lines", self._fetch_tail, entry, before.pid)
        contain(name, "going on with its reload", self.reloads.changed, entry, before)
        for action in actions:
            self._try(entry, action)
        self._follow_up(entry, before)

    def _follow_up(self, entry: Entry, before: Slot) -> None:
        """Publish the change of its state, and clear up after it."""
        self._stage = "publishing"
        self.faults.contain(entry.name, "publishing its change", self._publish, entry, before)
        self._stage = "clearing up"
        # One that goes for good is EXITED first, then STOPPED: it is cleared up after twice.
        if entry.slot.state in IDLE and entry.slot.state is not before.state:
            self.faults.contain(entry.name, "clearing up after it", self._idle, entry)
        if entry.role is not Role.TEMPLATE or entry.slot.state is not State.STARTING:  # its workers are told next
            self.faults.contain(entry.name, "looking who serves", self._refuse_if_nobody_serves, entry.unit)

    def _mend(self, entry: Entry, event: Event, before: Slot, error: Exception) -> None:
        """An exception between two steps, which nothing smaller has contained: bring the slot into a state that is looked after."""
        stage, name = self._stage, entry.name
        why = self.faults.note(name, f"{stage} on {type(event).__name__}", error)
        actions: tuple[lifecycle.Action, ...] = ()
        if entry.slot == before and stage in {"deciding", "entering"}:
            after, actions = lifecycle.undecided(entry.policy, before, event, time.monotonic(), why)
            entry.rec.slot = after
        slot, process = entry.slot, entry.rec.process
        self._enter(entry, slot)
        self._by_pid = {each.slot.pid: each for each in self.entries.values() if each.slot.pid is not None}
        self._arm(entry)
        for action in actions:
            self._try(entry, action)
        if slot.pid is None and process is None and not actions and name not in self._waiting and entry.waits is None:
            if slot.state is State.STARTING:
                self._failed_to_start(entry, not_started("start", why))
            elif slot.state is State.STOPPING:
                self._inbox.append((entry, Gone()))
        if stage in {"deciding", "entering"}:
            self._follow_up(entry, before)

    def _enter(self, entry: Entry, after: Slot) -> None:
        """Set the slot's new state, and the indexes, timer and record that follow from it."""
        before, entry.rec.slot = entry.slot, after
        self._dirty[entry.name] = entry
        if after.pid != before.pid:
            if before.pid is not None and self._by_pid.get(before.pid) is entry:
                del self._by_pid[before.pid]
            if after.pid is not None:
                self._by_pid[after.pid] = entry
        if after.deadline != before.deadline:
            self._arm(entry)
        if after.state is State.RUNNING and before.state is not State.RUNNING:
            entry.rec.gated = False
            entry.rec.tail = []

    def _try(self, entry: Entry, action: lifecycle.Action) -> None:
        """Carry out an action, entirely or not at all."""
        match action:
            case Spawn():
                self._try_to_start(entry, "prepare", self._spawn, entry)
            case Cancel():
                if entry.rec.process is None:  # it is still waiting for its turn
                    self._waiting.pop(entry.name, None)
                    entry.waits = None
                    self._inbox.append((entry, Gone()))
            case Signal(number, scope):
                if entry.rec.process is not None and number == entry.policy.kill_signal:
                    self.faults.contain(entry.name, "preparing its end", self._prepare_end, entry, entry.rec.process)
                if entry.rec.process is not None:
                    self._starter.signal(entry.rec.process, number, scope)

    def _prepare_end(self, entry: Entry, process: int) -> None:
        if self._is_last(entry):
            self._starter.drop_new_connections(entry.unit)
            self._starter.tell(process, {"do": "quit"})

    def _is_last(self, entry: Entry) -> bool:
        """Whether nobody takes over from this process: then its idle connections need not be waited for."""

        def serves(e: Entry) -> bool:
            return e.serves or e.role is Role.PROGRAM

        if not serves(entry) or entry.slot.want is Want.UP:
            return False
        others = [e for e in self.of_unit(entry.unit) if serves(e) and e is not entry and not e.dismissed]
        told = [e for e, event in self._inbox if isinstance(event, Stop)]
        return all(other.slot.want is Want.DOWN or other in told for other in others)

    def _idle(self, entry: Entry) -> None:
        if entry.role is Role.LEAVING:
            heir = self.entries.get(slot_name(entry.unit, serving(entry.unit), entry.index))
            if heir is not None:
                heir.rec.slot = replace(heir.slot, last_exit=entry.slot.last_exit)
                self.touch(heir)
        gone = entry.dismissed or entry.role in PASSING
        if entry.role is Role.LEAVING or (gone and entry.slot.state is State.STOPPED):
            self.dismiss(entry)
        if not self._holds(entry.unit) and all(each.slot.state in IDLE for each in self.of_unit(entry.unit)):
            for each in [entry, *self.of_unit(entry.unit)]:
                self._starter.close_listeners(each.unit)

    def _holds(self, unit: Unit) -> bool:
        """Whether clients are to wait although the unit was given up."""
        return unit.on_fatal == "hold" and any(each.slot.state is State.FATAL for each in self.of_unit(unit))

    def _refuse_if_nobody_serves(self, unit: Unit) -> None:
        """A template and parked workers hold a pool's sockets, too: clients are to be refused all the same."""
        if unit.kind is not Kind.POOL or unit.name in self._leaving or self._holds(unit) or self.holds_any(unit):
            return
        if not any(self._may_serve(entry) for entry in self.of_unit(unit)) and self._starter.refuse(unit):
            self._tell(f"{unit.name}: none of its workers runs: connections are refused until one is started")

    def _may_serve(self, entry: Entry) -> bool:
        """Whether the slot's process accepts connections, or one that will is on its way."""
        if not (entry.serves or entry.role is Role.LEAVING):
            return False
        if entry.slot.pid is not None or entry.rec.process is not None or entry.slot.state is State.STOPPING:
            return True
        if entry.slot.state in IDLE:
            return False
        template = self.reloads.parent(entry)
        return template is None or template.slot.state not in IDLE or self.parked(entry) is not None

    # Starting.

    def _try_to_start(
        self, entry: Entry, stage: str, act: Callable[P, object], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Call `act`, which starts a process. If it raises, the start has failed, and nothing of it reaches the shim."""
        mark = self._starter.mark()
        port = 0
        try:
            act(*args, **kwargs)
            return
        except CannotStart as failure:
            failed, port = failure.reason, failure.port
        except OSError as failure:  # the host's: no descriptor is left, say
            failed = not_started(stage, of_os_error(failure))
        except Exception as failure:
            failed = not_started(stage, self.faults.note(entry.name, STAGES[stage], failure))
        self._starter.roll_back(mark)
        if entry.rec.process is not None:
            self._by_process.pop(entry.rec.process, None)
            entry.rec.process = None
        if port:
            self._waiting.pop(entry.name, None)
            entry.waits = lambda: because("waits_for_holder", end=failed)
            self._in_background(entry, functools.partial(self._fail_for_a_port, entry, failed, port))
        else:
            self._failed_to_start(entry, failed)

    async def _fail_for_a_port(self, entry: Entry, failed: Reason, port: int, since: float) -> None:
        """Another process has the port: find out which one, then fail the start."""
        holder = await self._starter.look_ups.holder(port)
        if entry.slot.state is State.STARTING and entry.slot.since == since and entry.rec.process is None:
            if holder:
                cause = because("port_held", cause=failed.facts["cause"], holder=holder)
                failed = not_started(failed.facts["stage"], cause, failed.facts["what"])
            self._failed_to_start(entry, failed)
            self._pump()

    def _in_background(self, entry: Entry, work: Callable[[float], Coroutine[Any, Any, None]]) -> None:
        """Go on with the slot's start, which has failed if this raises. `work` takes since when the slot is STARTING."""
        since = entry.slot.since

        async def attended() -> None:
            try:
                await work(since)
            except Exception as error:
                why = self.faults.note(entry.name, STAGES["look_up"], error)
                if entry.slot.state is State.STARTING and entry.slot.since == since and entry.rec.process is None:
                    self._failed_to_start(entry, not_started("look_up", why))
                    self._pump()

        task = self._loop.create_task(attended())
        self._looking_up.add(task)
        task.add_done_callback(self._looking_up.discard)

    def _failed_to_start(self, entry: Entry, failed: Reason) -> None:
        self._waiting.pop(entry.name, None)
        entry.waits = None
        self._inbox.append((entry, Exited(Exit(failed=failed, at=round(time.time(), 3)))))

    def _spawn(self, entry: Entry) -> None:
        entry.waits = self._gate(entry)
        if entry.waits is not None:
            self._waiting[entry.name] = entry
            return
        parked = self.parked(entry) if entry.role in SERVING else None
        if parked is not None:
            self._starter.let_in(entry.unit)
            self._promote(entry, parked)
            return
        entry.rec.generation = self.reloads.generation(entry)
        if not LookUp(entry.unit).needed:
            self._launch(entry, NOTHING)
            return
        entry.waits = lambda: because("waits_for_host")
        self._in_background(entry, functools.partial(self._launch_when_found, entry))

    async def _launch_when_found(self, entry: Entry, since: float) -> None:
        """The slot may have been stopped, and even started again, while the host was asked."""
        found: Found | Reason
        self.page.blank()
        try:
            found = await self._starter.look_ups.of(entry.unit)
        except CannotStart as error:
            found = error.reason
        except Exception as error:
            found = not_started("look_up", self.faults.note(entry.name, STAGES["look_up"], error))
        if entry.slot.state is not State.STARTING or entry.slot.since != since or entry.rec.process is not None:
            return
        entry.waits = None
        self.page.at(entry.name, "starting it")
        if isinstance(found, Reason):
            self._failed_to_start(entry, found)
        else:
            self._try_to_start(entry, "prepare", self._launch, entry, found)
        self._pump()

    def _launch(self, entry: Entry, found: Found) -> None:
        template = self.reloads.parent(entry)
        process = self._starter.launch(entry, found, template.rec.process if template is not None else None)
        entry.secrets = redact.secrets({**found.env_file, **entry.unit.env}.items(), entry.unit.command)
        self._by_process[process] = entry
        entry.rec.process = process
        self._dirty[entry.name] = entry
        own = template is None and entry.unit.env_file  # a forked worker has its template's
        self.started_with(entry, envfiles.digest(found.env_file) if own else "")
        if template is not None:  # which is somebody else's code: it may never answer
            entry.rec.slot = replace(entry.slot, deadline=time.monotonic() + _fork_within(entry))
            self._arm(entry)

    def _promote(self, worker: Entry, parked: Entry) -> None:
        """A parked worker is put to work: its process, its pipes and its generation move; nothing is started."""
        events: list[tuple[Entry, Event]] = [(parked, taken(parked)), (worker, Spawned(parked.slot.pid or 0))]
        if parked.role is Role.NEXT:
            events.append((worker, Ready()))
        self.started_with(worker, self.started_as(parked))
        self._move(parked, worker)
        self._inbox += events

    def hand_over(self, worker: Entry, parked: Entry, event: HandOver) -> None:
        """Another process takes the place of one that serves, which goes on in a slot of its own until it leaves."""
        contain = self.faults.contain
        events: list[tuple[Entry, Event]] = [(parked, taken(parked)), (worker, event)]
        self.rolling.follow(worker.unit)  # first, for whatever is raised below, what leaves is to be ended
        leaving = self._make(worker.unit, Role.LEAVING, worker.index, {})
        try:
            self.started_with(leaving, self.started_as(worker))
            self.started_with(worker, self.started_as(parked))
            leaving.rec.slot = leaving_slot(worker.slot)
            self._move(worker, leaving)
            try:
                self._move(parked, worker)
            except BaseException:
                self._move(leaving, worker)
                self._by_pid[worker.slot.pid or 0] = worker
                raise
        except BaseException:
            self._unmake(leaving)
            raise
        self._inbox += events
        if leaving.rec.slot.pid is not None:
            self._by_pid[leaving.rec.slot.pid] = leaving
        contain(leaving.name, "timing it", self._arm, leaving)
        contain(leaving.name, "showing it", self._sort)
        contain(leaving.name, "publishing its change", self._publish, leaving, Slot())

    def rename(self, source: Entry, target: Entry) -> None:
        """The process of `source` is that of `target`, in which none runs, from now on."""
        before = target.slot
        past = {"restarts": before.restarts, "recent": before.recent, "last_exit": before.last_exit}
        after = replace(source.slot, **past)  # type: ignore[arg-type]
        self.started_with(target, self.started_as(source))
        self._move(source, target)
        target.rec.slot = after
        if after.pid is not None:
            self._by_pid[after.pid] = target
        self.faults.contain(target.name, "timing it", self._arm, target)
        self.faults.contain(target.name, "publishing its change", self._publish, target, before)

    def _move(self, source: Entry, target: Entry) -> None:
        """The process of `source`, with its log pipes, lives in `target` from now on; or, if this raises, not."""
        process, pid = source.rec.process, source.slot.pid
        if process is None or pid is None:
            raise AssertionError(f"{source.name} is RUNNING without a process")
        self._starter.swap_pipes(target, source)
        try:
            if target.serves:
                self._starter.put_to_work(process, target.name)
        except BaseException:
            self._starter.swap_pipes(target, source)
            raise
        # From here on nothing is called that could raise.
        target.rec.process, source.rec.process = process, None
        target.rec.generation = source.rec.generation
        self._by_process[process] = target
        if pid in self._by_pid:
            del self._by_pid[pid]
        self._dirty[source.name], self._dirty[target.name] = source, target

    def parked(self, worker: Entry) -> Entry | None:
        """A process that waits to be put to work, of the version that is due there, and may be in the place of this one."""
        generation = self.reloads.generation(worker)
        return next(
            (
                entry
                for entry in self.of_unit(worker.unit)
                if entry.role in {Role.STANDBY, Role.NEXT}
                and entry.slot.state is State.RUNNING
                and entry.rec.process is not None
                and entry.rec.generation == generation
                and (entry.index == worker.index or (entry.role is Role.STANDBY and not differ(worker.unit)))
                and not any(e is entry and isinstance(event, LEAVES) for e, event in self._inbox)
            ),
            None,
        )

    def _gate(self, entry: Entry) -> Callable[[], Reason] | None:
        """What the start has to wait for, as a reason that is made when it is asked for; None when it may go on."""
        if entry.rec.gated:
            for name in entry.unit.depends_on:
                unit = self.units[name]
                if unit.enabled and not self.is_ready(unit):
                    return lambda: self._waits_for(name, self.of_unit(unit))
        if entry.role in SERVING and self.parked(entry) is not None:
            return None
        ending = [e for e in self.of_unit(entry.unit) if e is not entry and e.slot.state is State.STOPPING]
        if ending and self._starter.has_to_bind(entry.unit):
            return lambda: because("waits_for_address", name=ending[0].name)
        template = self.reloads.parent(entry)
        if template is not None and template.slot.state is not State.RUNNING:
            return lambda: self._waits_for(template.name, [template])
        return None

    @staticmethod
    def _waits_for(name: str, entries: Iterable[Entry]) -> Reason:
        worst = next((e for e in entries if e.slot.state in IDLE or e.slot.state is State.BACKOFF), None)
        if worst is None:
            return because("waits_for", name=name, state="", cause=NONE)
        told = worst.slot.state is State.FATAL and worst.unit.type == "oneshot"
        cause = worst.slot.reason if told else NONE
        return because("waits_for", name=name, state=worst.slot.state.name, cause=cause)

    def _wake_waiting(self) -> None:
        """Start whoever no longer has to wait."""
        for entry in list(self._waiting.values()):
            if entry.slot.state is not State.STARTING:
                del self._waiting[entry.name]
                entry.waits = None
            else:
                self.page.at(entry.name, "waiting for its turn")
                self._try_to_start(entry, "turn", self._start_if_it_may, entry)

    def _start_if_it_may(self, entry: Entry) -> None:
        entry.waits = self._gate(entry)  # what it waited for before may have come meanwhile
        if entry.waits is None:
            del self._waiting[entry.name]
            self._spawn(entry)

    def _fetch_tail(self, entry: Entry, pid: int | None) -> None:
        """Ask the writer for the last stderr lines of the run that ended, for whoever asks why."""
        if entry.rec.pipe is None or pid is None:
            entry.rec.tail = []  # no process, no words
            return

        def answer(data: bytes) -> None:
            came = functools.partial(self._tail_came, entry, pid, data)
            self._loop.call_soon_threadsafe(self.faults.contain, entry.name, "keeping its last lines", came)

        self._starter.tail(entry.rec.pipe, answer)
        late = functools.partial(self._tail_late, entry, pid)
        self._loop.call_later(TAILED, self.faults.contain, entry.name, "waiting for its last lines", late)
        entry.tail_due, entry.tail_of = True, pid

    def _tail_late(self, entry: Entry, pid: int) -> None:
        """Nobody waits longer for the last lines: the disk that its log is on may hang."""
        if entry.tail_due and entry.tail_of == pid:
            entry.tail_due = False
            self._pump()

    def _tail_came(self, entry: Entry, pid: int, data: bytes) -> None:
        entry.tail_due = False
        self.page.at(entry.name, "keeping its last lines")
        self.faults.contain(entry.name, "keeping its last lines", self._keep_tail, entry, pid, data)
        self._pump()

    def _keep_tail(self, entry: Entry, pid: int, data: bytes) -> None:
        known = entry.secrets or redact.secrets(entry.unit.env.items(), entry.unit.command)
        written = causes.kept(data.decode("utf-8", "backslashreplace").splitlines(), 40)
        lines = [redact.text(line, known) for line in written]
        self.reloads.told(entry, lines)
        if entry.slot.state is not State.RUNNING:
            entry.rec.tail = lines
            self._dirty[entry.name] = entry
        if lines:
            self._record(entry, "stderr", pid=pid, lines=[line[:500] for line in causes.kept(lines, 20)])

    # What is to be known.

    def settled(self, entry: Entry) -> bool:
        """Whether waiting longer for this slot to come up is pointless: it is up, or it will not be soon."""
        slot = entry.slot
        if self.holds(entry):
            return True
        if entry.tail_due or entry.rec.due or entry.role is Role.LEAVING:
            return False
        if slot.state is State.STARTING and slot.pid is None and entry.waits is not None:
            return self._hopeless(entry)
        if slot.state is State.BACKOFF:
            return slot.failures >= PATIENCE or (slot.deadline or 0.0) - time.monotonic() > LONG
        if slot.state is State.STOPPING:
            return lifecycle.is_unkillable(entry.policy, slot)
        return slot.state is State.RUNNING or slot.state in IDLE

    def _hopeless(self, entry: Entry) -> bool:
        """It waits for something that is settled and not up."""
        needs = [e for name in entry.unit.depends_on for e in self.of_unit(self.units[name])] if entry.rec.gated else []
        template = self.reloads.parent(entry)
        needs += [template] if template is not None else []
        return any(self.settled(need) and not need.is_up for need in needs)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at again after each change, or a little later: see SPARING."""
        while not condition():
            met = self._loop.create_future()
            self._watchers[met] = condition
            try:
                await met
            finally:
                del self._watchers[met]

    def _look(self) -> None:
        """Wake those whose conditions hold. Of 500 slots one may ask for all and 500 for one each, at each change."""
        self._looking = None
        began = time.thread_time()
        for met, condition in self._watchers.items():
            if met.done():
                continue
            try:
                if condition():
                    met.set_result(None)
            except Exception as error:  # whoever waits is to hear of it
                met.set_exception(error)
        self._look_at = time.monotonic() + SPARING * (time.thread_time() - began)

    def reason(self, entry: Entry) -> Reason:
        """Why the slot is as it is; NONE when there is nothing to say."""
        slot = entry.slot
        if (why := self.held_because(entry)) and slot.state is not State.STOPPING:
            return quarantine.reason(why)
        if self.held.whole is not None and slot.state is State.BACKOFF:
            return because("not_while_held", end=slot.last_exit.reason if slot.last_exit is not None else NONE)
        if entry.rec.due:
            return because("waits_for_turn", due=entry.rec.due)
        if entry.waits is not None and slot.state is State.STARTING:
            return entry.waits()
        if entry.role is Role.TEMPLATE and slot.state is State.STOPPED and self._facts[entry.unit.name].get("afresh"):
            return because("threads")
        if slot.state is State.BACKOFF and slot.deadline is not None:
            left = slot.deadline - time.monotonic()
            if left < SHOWN:
                return because("retrying_now", end=slot.reason)
            return because("retrying", end=slot.reason, wait_s=round(left, 3))
        if slot.state is State.STOPPING and slot.kills and not slot.reason:
            number = signal_name(entry.policy.kill_signal)
            return because("not_ended", within_s=entry.policy.kill_timeout, signal=number)
        return slot.reason


def _exit_of(event: Mapping[str, Any]) -> Exit:
    """How a process ended, as the shim says it; an older shim gives no cause."""
    failed = NONE
    if event.get("stage"):
        failed = read_start(event.get("cause"), event["stage"], event.get("error", ""))
    return Exit(event.get("code"), event.get("signal"), failed, round(event["at"], 3))


def _fork_within(entry: Entry) -> float:
    """Seconds that a template has for a fork: there is to be time for another template within listen_timeout."""
    return min(FORKED, entry.policy.listen_timeout / 3)
