"""`ready =` of programs that do not speak the notify protocol: a GET, a connection or a line of the log says it for them.

The question is repeated while the slot is STARTING with a process; how long that may take is the slot's own deadline
(listen_timeout). Meanwhile the slot's reason says what the last answer was.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable

from impetusd import probe
from impetusd.core.config.model import Ready
from impetusd.core.reasons import Reason, because
from impetusd.core.rules.health import Result
from impetusd.core.rules.lifecycle import State
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.observers import Change
from impetusd.supervisor.rules.prober import in_thread
from impetusd.supervisor.slots.entry import Entry

FIRST, LONGEST, GROWTH = 0.05, 0.5, 1.5  # seconds between two questions, and what each wait is to the one before
PATIENCE = 5.0  # seconds for one answer


class _Wait:
    """One process that is waited for."""

    __slots__ = ("answer", "cancel", "pid", "ready", "said")

    def __init__(self, ready: Ready, pid: int) -> None:
        self.ready = ready
        self.pid = pid
        self.answer = ""
        self.cancel: Callable[[], object] = lambda: None
        self.said: Callable[[], Reason] = self._reason  # one object: it is recognised by its identity

    def _reason(self) -> Reason:
        if self.ready.kind == "log":
            return because("waits_for_line", pattern=self.ready.value)
        if self.ready.kind == "listen":
            return because("waits_for_listen")
        return because("waits_for_answer", what=self.ready.value, answer=self.answer)


class Readiness:
    """Every method is called in the event loop's thread and returns without waiting."""

    def __init__(
        self,
        *,
        ready: Callable[[int], object],
        watch_line: Callable[[Entry, str, Callable[[], None]], Callable[[], object]],
    ) -> None:
        """`ready(pid)`: as READY=1 from it. `watch_line(slot, pattern, found)`: call `found` in the loop's thread at the
        first line of the slot's present run that `pattern` (a regular expression) is found in; returns what ends the watch.
        """
        self._ready = ready
        self._watch_line = watch_line
        self._waits: dict[str, _Wait] = {}
        self.faults = BARE

    def begin(self, entries: Iterable[Entry]) -> None:
        """Take up what was under way when the supervisor before us died; called once, when the slots are known."""
        for entry in entries:
            self.follow(entry)

    def changed(self, change: Change) -> None:
        """A slot changed."""
        self.follow(change.entry)

    def follow(self, entry: Entry) -> None:
        """As the slot is now."""
        wait, slot = self._waits.get(entry.name), entry.slot
        pid = slot.pid if slot.state is State.STARTING else None
        if wait is not None and wait.pid != pid:
            del self._waits[entry.name]
            wait.cancel()
            if entry.waits is wait.said:
                entry.waits = None
            wait = None
        if wait is None and pid is not None and entry.unit.ready is not None:
            self._begin(entry, _Wait(entry.unit.ready, pid))

    def _begin(self, entry: Entry, wait: _Wait) -> None:
        self._waits[entry.name] = wait
        entry.waits = wait.said
        match wait.ready.kind:
            case "log":
                wait.cancel = self._watch_line(entry, wait.ready.value, lambda: self._said(wait))
            case "listen":
                pass  # its preload says READY=1
            case kind:
                what = wait.ready.value
                ask = _asks(kind, what)
                work = functools.partial(self._until_it_answers, wait, ask)
                attended = self.faults.attend(entry.name, "checking whether it is ready", work)
                task = asyncio.get_running_loop().create_task(attended)
                wait.cancel = task.cancel

    async def _until_it_answers(self, wait: _Wait, ask: Callable[[], Awaitable[Result]]) -> None:
        pause = FIRST
        while not (result := await ask()).ok:
            wait.answer = result.text
            await asyncio.sleep(pause)
            pause = min(pause * GROWTH, LONGEST)
        self._said(wait)

    def _said(self, wait: _Wait) -> None:
        self._ready(wait.pid)


def _asks(kind: str, what: str) -> Callable[[], Awaitable[Result]]:
    if kind == "tcp":
        return lambda: in_thread(lambda: probe.connect(what, PATIENCE), PATIENCE)
    # The probe tests whether it is up, not its identity: no certificate names 127.0.0.1.
    question = probe.Get(what, verify=False)
    return lambda: in_thread(lambda: probe.get(question, PATIENCE), PATIENCE)
