"""The last lines that a process wrote to stderr before it ended, to explain why."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.explain import causes
from impetusd.core.rules.lifecycle import State
from impetusd.supervisor.slots.entry import Entry

if TYPE_CHECKING:
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.slots.rounds import Rounds
    from impetusd.supervisor.slots.versions import Versions
    from impetusd.supervisor.start.starter import Starter

TAILED = 2.0  # seconds that the last lines of a run are waited for


class Tails:
    """Asks the log writer, whose thread may hang on a disk."""

    def __init__(
        self, slots: Slots, rounds: Rounds, versions: Versions, starter: Starter, record: Callable[..., None]
    ) -> None:
        """`record(entry, kind, **fields)` writes into the ledger."""
        self._slots = slots
        self._faults = slots.faults
        self._contain = slots.faults.contain
        self._rounds = rounds
        self._versions = versions
        self._starter = starter
        self._record = record
        self._loop = asyncio.get_running_loop()

    def fetch(self, entry: Entry, pid: int | None) -> None:
        """Ask for those of the run that has ended."""
        if entry.rec.pipe is None or pid is None:
            entry.rec.tail = ()  # no process, no words
            return

        def answer(data: bytes) -> None:
            came = functools.partial(self._came, entry, pid, data)
            self._loop.call_soon_threadsafe(self._contain, entry.name, "storing its last lines", came)

        self._starter.pipes.tail(entry.rec.pipe, answer)
        late = functools.partial(self._late, entry, pid)
        self._loop.call_later(TAILED, self._faults.attempt, entry.name, "waiting for its last lines", late)
        entry.tail_due, entry.tail_of = True, pid

    def _late(self, entry: Entry, pid: int) -> None:
        """Stop waiting: the disk of its log may hang."""
        if entry.tail_due and entry.tail_of == pid:
            entry.tail_due = False
            self._rounds.wake()

    def _came(self, entry: Entry, pid: int, data: bytes) -> None:
        entry.tail_due = False
        self._slots.page.at(entry.name, "storing its last lines")
        self._contain(entry.name, "storing its last lines", self._keep, entry, pid, data)
        self._rounds.wake()

    def _keep(self, entry: Entry, pid: int, data: bytes) -> None:
        given = {**self._starter.handed_on(entry.unit), **entry.unit.env}
        known = (*entry.secrets, *redact.secrets(given.items(), entry.unit.command))
        written = causes.kept(data.decode("utf-8", "backslashreplace").splitlines(), 40)
        lines = [redact.text(line, known) for line in written]
        self._versions.last_words(entry, lines)
        if entry.slot.state is not State.RUNNING:
            entry.rec.tail = tuple(lines)
            self._slots.touch(entry)
        if lines:
            self._record(entry, "stderr", pid=pid, lines=[line[:500] for line in causes.kept(lines, 20)])
