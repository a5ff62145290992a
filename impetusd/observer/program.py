"""The observer at work: what `watch` says goes through the rules, their notices through the outbox to each channel.

Everything that may hang (the disk, a receiver, a command) runs in threads with a deadline; the loop goes on. Whatever the
disk does, notices are delivered; whatever a receiver does, the others get theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import os
import sqlite3
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from impetusd.client.async_control import AsyncControl
from impetusd.client.control import ControlError
from impetusd.core import redact, stream
from impetusd.core.explain import happened
from impetusd.core.explain.incidents import IMPETUSD, Problem
from impetusd.core.reasons import because, said
from impetusd.core.stream import Change, Mirror
from impetusd.observer import channels, history, rules
from impetusd.observer.outbox import REPORTED, Damaged, Outbox, Waiting, aside
from impetusd.observer.rules import Notice, State
from impetusd.observer.settings import Alert, Settings
from impetusd.observer.text import LINES, Message, message
from impetusd.supervisor.threads import NoAnswer, Threads

SILENT = 30.0  # seconds without the supervisor, after which that is a problem
DISK = 10.0  # seconds for the disk
TAIL = 2.0  # seconds for the last lines of a log
APART = 1.0  # seconds between two messages to one receiver
FIRST_AGAIN, LAST_AGAIN = 5.0, 600.0  # seconds until an undelivered one is tried again; doubled each time
HEAD = 5  # tries of the oldest, after which those behind it are tried, too
MINUTE = 60.0
AFTER_MISTAKE = 5.0
SPARING = 10  # times what a look at everything took, until the next one
TOGETHER = 0.25  # seconds in which changes are looked at once
REPORTS = 1.0  # seconds between two reports
SET_ASIDE = 3600.0  # seconds that a damaged file is a problem
SEND = frozenset({"fatal", "unhealthy", "restarts", "memory", "timer"})  # problems of which stderr may say more


class Observer:
    """One run of it. `run` never ends by itself."""

    def __init__(self, settings: Settings, client: AsyncControl, *, clock: Callable[[], float] = time.time) -> None:
        """Opens the files in `settings.folder`; `clock` is Unix time."""
        self._settings = settings
        self._client = client
        self._clock = clock
        self._mirror = Mirror()
        self._ready = False  # the mirror and the ledger's records are complete
        self._lost: float | None = clock()  # since when there is no supervisor
        self._aside: list[Problem] = []
        self._changed = asyncio.Event()  # something that the rules look at
        self._news: dict[str, asyncio.Event] = {name: asyncio.Event() for name in settings.alerts}  # in the outbox
        self._report_due = asyncio.Event()
        self._disk = Threads("disk", 1)
        self._past = Threads("history", 1)
        self._outgoing = {name: Threads(f"alert {name}", 1) for name in settings.alerts}
        self._pings = {name: Threads(f"heartbeat {name}", 1) for name in settings.alerts}
        self._saving = asyncio.Lock()
        self._saved = ""  # the rules' state, but for the record's number
        self._sent_at: dict[str, float] = {}  # monotonic, by alert
        self._turns = {name: asyncio.Lock() for name in settings.alerts}
        self._tests: dict[str, dict[str, Any]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._last_report: dict[str, Any] = {}
        self._beats: dict[str, str] = {}  # by alert, why its heartbeat fails
        self._complained = ""
        self._marks: list[tuple[float, int, str, str, str]] = []
        self._pools: tuple[Mapping[str, Any], float] = {}, 0.0  # what `metrics` said of them last, and when
        self._history_error = ""
        self._writer: history.Writer | None = None
        self.outbox = self._open_outbox()
        self.state: State = self.outbox.state(os.urandom(6).hex())
        self.outbox.forget(name for name, alert in settings.alerts.items() if alert.sends)

    def _open_outbox(self) -> Outbox:
        path = os.path.join(self._settings.folder, "alerts.sqlite")
        try:
            return Outbox(path)
        except Damaged as error:
            self._put_aside(path, error)
            return Outbox(path)

    def _put_aside(self, path: str, error: Damaged) -> None:
        new = aside(path)
        say(f"{path} is damaged ({error}); it was renamed to {new}, and a new file was started")
        cause = because("set_aside", path=path, what=new)
        self._aside.append(Problem("disk", path, cause, self._clock()))

    async def run(self) -> None:
        """Until it is cancelled. What raises is a mistake: it is logged and begun again, and the rest goes on."""
        alerts = self._settings.alerts.values()
        acts: list[Callable[[], Awaitable[None]]] = [self._watch, self._think, self._report, self._remember]
        acts += [functools.partial(self._deliver, alert) for alert in alerts if alert.sends]
        acts += [functools.partial(self._beat, alert) for alert in alerts if alert.heartbeat]
        async with asyncio.TaskGroup() as tasks:
            for act in acts:
                tasks.create_task(_contained(act))

    async def close(self) -> None:
        """Write down what there is; a file that hangs is left as it is."""
        await self._save()
        if not self.outbox.error:
            self.outbox.close()
        if self._writer is not None and not self._history_error:
            self._writer.close()

    def _complain(self, text: str) -> None:
        """Once, while it is the same again and again."""
        if text != self._complained:
            self._complained = text
            say(text)

    # What comes in.

    async def _watch(self) -> None:
        while True:
            try:
                async for change in self._client.watch(self._mirror, usage=False):
                    await self._take(change)
            except ControlError as error:  # an older supervisor, say: another try may meet another one
                self._complain(f"cannot watch impetusd: {error}")
                self._lost = self._lost or self._clock()
                self._changed.set()
                await asyncio.sleep(5.0)

    async def _take(self, change: Change) -> None:
        if change.kind == "lost":
            self._lost = self._lost or self._clock()
        elif change.kind in {"snapshot", "resumed"}:
            await self._catch_up()
            self._ready, self._lost, self._last_report = True, None, {}
            self._report_due.set()
        elif change.kind == stream.LEDGER:
            if self.state.record is None or change.value["n"] > self.state.record + 1:
                await self._catch_up()
            self._record(change.value)
        elif change.kind == stream.DAEMON:
            self._test(change.value or {})
        if change.kind == "snapshot":
            self._test(self._mirror.rows.get(stream.DAEMON, {}).get("", {}))
        self._changed.set()

    async def _catch_up(self) -> None:
        """Take what the ledger has of the time when nobody looked."""
        try:
            if self.state.record is None:
                self.state.record = (await self._client.call("events", {"last": 1}))["last"]
                return
            more = True
            while more:
                page = await self._client.call("events", {"after": self.state.record})
                if page["last"] < self.state.record:  # the ledger was begun anew
                    self.state.record = 0
                    continue
                for record in page["records"]:
                    self._record(record)
                more = page["more"] and bool(page["records"])
        except ControlError as error:
            self._complain(f"cannot read the ledger: {error}")

    def _record(self, record: Mapping[str, Any]) -> None:
        if happened.take(self.state, record) and (mark := history.mark(record)) is not None:
            self._marks.append((record["at"], record["n"], *mark))
            del self._marks[: -history.MARKS]

    # What follows.

    async def _think(self) -> None:
        while True:
            due, began, took = None, time.monotonic(), 0.0
            if self._ready:
                notices, due = rules.step(self._settings, self.state, self._mirror.rows, self._clock(), own=self._own())
                took = time.monotonic() - began
                self.outbox.add(notices)  # at once: the rules take them for sent
                for notice in await asyncio.gather(*map(self._with_lines, notices)):
                    self.outbox.improve(notice)
                if notices or self._memory() != self._saved:
                    await self._save()
                self.outbox.release()
                for notice in notices:
                    self._news[notice.alert].set()
                    self._report_due.set()
            if self._lost is not None and self._clock() < self._lost + SILENT:
                due = min(due or math.inf, self._lost + SILENT)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.05, due - self._clock())):
                    await self._changed.wait()
            await asyncio.sleep(max(TOGETHER, SPARING * took))
            self._changed.clear()

    def _own(self) -> Iterable[Problem]:
        now = self._clock()
        if self._lost is not None and now - self._lost >= SILENT:
            yield Problem("daemon", IMPETUSD, because("supervisor_silent", within_s=SILENT), self._lost)
        for path, error in ((self.outbox.path, self.outbox.error), (self._history_path, self._history_error)):
            if error:
                yield Problem("disk", path, because("not_kept", path=path, cause=said(error)))
        self._aside = [each for each in self._aside if now - each.since < SET_ASIDE]
        yield from self._aside

    def _memory(self) -> str:
        return repr(replace(self.state, record=0))

    async def _save(self) -> None:
        """Have the disk know everything; where it does not take it, memory does, and it is tried again a minute later."""
        async with self._saving:
            image, memory = self.outbox.image(), self._memory()
            before = self.outbox.error
            try:
                kept = await self._disk.run(lambda: self.outbox.write(image), DISK)
            except NoAnswer as error:
                kept, self.outbox.error = False, str(error)
            if kept:
                self._saved = memory
        if self.outbox.error != before:
            say(f"{self.outbox.path}: {self.outbox.error or 'written again'}")
            self._changed.set()

    async def _with_lines(self, notice: Notice) -> Notice:
        """With the last lines of the first problem's slot, where the rows have none."""
        first = next((each for each in notice.problems if each.event in SEND), None)
        if notice.kind == "recovered" or first is None or any(each.lines for each in notice.problems):
            return notice
        slot = first.slots[0] if first.slots else first.name
        with contextlib.suppress(Exception):  # it is as good without
            async with asyncio.timeout(TAIL):
                page = await self._client.call("tail", {"name": slot, "stream": "error"})
            lines = tuple(redact.text(str(line)) for line in page["lines"][-LINES:])
            with_lines = replace(first, lines=lines)
            return replace(notice, problems=tuple(with_lines if each is first else each for each in notice.problems))
        return notice

    # What goes out.

    async def _deliver(self, alert: Alert) -> None:
        """One after the other, for ever."""
        while True:
            of = self.outbox.waiting.setdefault(alert.name, [])
            news = self._news[alert.name]
            news.clear()
            now = time.monotonic()
            ready = [each for each in of[: None if of and of[0].tries >= HEAD else 1] if each.due <= now]
            if not ready:
                wait = min((each.due - now for each in of), default=math.inf)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == math.inf else max(0.05, wait)):
                        await news.wait()
                continue
            await self._try(alert, min(ready, key=lambda each: each.due))

    async def _try(self, alert: Alert, waiting: Waiting) -> None:
        shown = self._message(waiting.notice)
        error, again = await self._send(alert, shown.id, lambda: channels.send(alert, shown))
        if not error:
            self.outbox.delivered(waiting, self._clock(), shown.title)
            await self._save()
        else:
            if not waiting.tries:
                say(f"alert {alert.name}: {shown.id} not delivered yet: {error}")
            waiting.tries, waiting.error = waiting.tries + 1, error
            wait = again or min(LAST_AGAIN, FIRST_AGAIN * 2 ** min(waiting.tries - 1, 10))
            waiting.due = time.monotonic() + wait
        self._report_due.set()

    def _message(self, notice: Notice) -> Message:
        """With a link to the unit's view on the page, which listens where the supervisor says."""
        gateway = self._mirror.rows.get(stream.DAEMON, {}).get("", {}).get("gateway") or {}
        listen = gateway.get("listen") or ()
        link = self._settings.link or (f"http{'s' if gateway['tls'] else ''}://{listen[0]}/" if listen else "")
        if link and any(row["unit"] == notice.root for row in self._mirror.rows.get(stream.UNIT, {}).values()):
            link = f"{link}#/unit/{quote(notice.root)}"
        return message(notice, replace(self._settings, link=link))

    async def _send(self, alert: Alert, ident: str, send: Callable[[], None]) -> tuple[str, float]:
        """Why it was not delivered, "" if it was, and how long the receiver wants to be left alone; one at a time."""
        async with self._turns[alert.name]:
            await asyncio.sleep(self._sent_at.get(alert.name, 0.0) + APART - time.monotonic())
            again = 0.0
            try:
                await self._outgoing[alert.name].run(send, channels.DEADLINE)
                return "", 0.0
            except channels.PartlyDelivered as error:
                say(f"alert {alert.name}: {ident}: {error}")
                return "", 0.0
            except channels.Undelivered as error:
                again = error.again
                return str(error), again
            except NoAnswer as error:
                return str(error), 0.0
            finally:
                self._sent_at[alert.name] = time.monotonic() + max(0.0, again - APART)

    async def _beat(self, alert: Alert) -> None:
        """The dead man's ping, while impetusd is well: it is silence that raises the alarm."""
        while True:
            held = self._mirror.rows.get(stream.DAEMON, {}).get("", {}).get("held")
            if self._ready and self._lost is None and not held:
                try:
                    await self._pings[alert.name].run(lambda: channels.ping(alert.heartbeat), channels.DEADLINE)
                    error = ""
                except (channels.Undelivered, NoAnswer) as failed:
                    error = str(failed)
                if error != self._beats.get(alert.name, ""):
                    self._beats[alert.name] = error
                    say(f"heartbeat of alert {alert.name}: {error or 'accepted again'}")
                    self._report_due.set()
            elif not self._ready:
                await asyncio.sleep(0.2)
                continue
            await asyncio.sleep(alert.heartbeat_every)

    def _test(self, row: Mapping[str, Any]) -> None:
        """Send what somebody wants tested, once each."""
        asked = (row.get("alerts") or {}).get("tests") or ()
        waiting = {each["id"] for each in asked}
        self._tests = {key: result for key, result in self._tests.items() if key in waiting}
        for each in asked:
            alert = self._settings.alerts.get(each["name"])
            if each["id"] not in self._tests and alert is not None:
                self._tests[each["id"]] = {}
                task = asyncio.get_running_loop().create_task(self._send_test(alert, each))
                self._running.add(task)
                task.add_done_callback(self._running.discard)

    async def _send_test(self, alert: Alert, asked: Mapping[str, Any]) -> None:
        ident = f"{self.state.salt}-test-{asked['id']}"
        notice = Notice(id=ident, incident=ident, alert=alert.name, kind="test", at=asked["at"], by=str(asked["by"]))
        shown = self._message(notice)
        send = (lambda: channels.send(alert, shown)) if alert.sends else (lambda: channels.ping(alert.heartbeat))
        error, _ = await self._send(alert, ident, send)
        text = f"not delivered: {error}" if error else f"delivered, id {ident}" if alert.sends else "heartbeat taken"
        self._tests[asked["id"]] = {"ok": not error, "text": text}
        self._report_due.set()

    async def _report(self) -> None:
        """Say what has become of all that, whenever it is another."""
        while True:
            await self._report_due.wait()
            self._report_due.clear()
            report = {
                **self.outbox.report(),
                "tests": {key: result for key, result in self._tests.items() if result},
                "heartbeats": dict([(name, error[:200]) for name, error in self._beats.items() if error][:REPORTED]),
                "troubles": [problem.cause.shown() for problem in self._own()],
            }
            if report == self._last_report and self._lost is None:
                continue
            try:
                await self._client.call("observer-report", {"report": report})
                self._last_report = report
            except ControlError as error:
                self._complain(f"cannot report to impetusd: {error}")
                self._last_report = {}
            await asyncio.sleep(REPORTS)

    # History.

    @property
    def _history_path(self) -> str:
        return os.path.join(self._settings.folder, history.NAME)

    async def _remember(self) -> None:
        while True:
            now = self._clock()
            await asyncio.sleep(MINUTE - now % MINUTE)
            if self._lost is None:
                await self.sample()
            if self.outbox.error or self._memory() != self._saved:
                await self._save()

    async def sample(self) -> None:
        """A minute's samples, and what happened in it, into the file."""
        try:
            rows = (await self._client.call("status"))["units"]
            pools = (await self._client.call("metrics"))["pools"]
        except ControlError as error:
            self._complain(f"cannot get samples from impetusd: {error}")
            return
        samples = {row["name"]: history.values(row) for row in rows}
        earlier, at = self._pools
        self._pools = pools, self._clock()
        samples |= history.of_pools(pools, earlier, self._clock() - at)
        marks, self._marks = self._marks, []
        before, now = self._history_error, self._clock()
        try:
            await self._past.run(lambda: self._write(samples, marks, now), DISK)
            self._history_error = ""
        except (OSError, sqlite3.Error, NoAnswer) as error:
            self._history_error = str(error)
            self._marks = [*marks, *self._marks][-history.MARKS :]
        if self._history_error != before:
            say(f"{self._history_path}: {self._history_error or 'written again'}")
            self._changed.set()

    def _write(self, samples: Mapping[str, Mapping[str, float]], marks: Any, now: float) -> None:
        if self._writer is None:
            try:
                self._writer = history.Writer(self._history_path, now)
            except Damaged as error:
                self._put_aside(self._history_path, error)
                self._writer = history.Writer(self._history_path, now)
        self._writer.write(samples, marks, now)


async def _contained(act: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await act()
        except Exception:
            traceback.print_exc()
            await asyncio.sleep(AFTER_MISTAKE)


def say(text: str) -> None:
    """To our own log."""
    print(text, file=sys.stderr, flush=True)
