"""The control method `watch`: a snapshot, then numbered changes; see `core.stream` for the lines.

Changes are marked while a round goes on, and published after it (`board`). What has no mark is compared once a second.
Without watchers nothing of this happens; changes are kept for KEEP seconds after the last watcher has gone, in case it only
lost its connection.

Of its unread data, a reader has only what its socket and transport hold, HELD bytes, to itself: it continues in the
ring if it catches up in time, and is disconnected if it does not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any

from impetusd.core import stream
from impetusd.supervisor.api.board import Board
from impetusd.supervisor.api.control import Flow
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.observers import Change

SOURCE = "watch"  # of what raises
HELD = 1 << 16  # bytes written at once
KEEP = 60.0  # seconds after the last watcher has gone
GATHER = 0.1  # seconds in which changes of one thing become one
ALIVE = 5.0  # seconds of silence
STALLED = 30.0  # seconds in which a reader must take something
SLICE = 64  # rows made between two turns of the loop: 3 ms
# Kinds of rows that change with a record of this kind in the ledger.
STALE_AFTER = {"timer": (stream.TIMER,), "health": (stream.CHECK,), "reload": (stream.RELOAD,)}


class Feed:
    """One stream for all who watch."""

    def __init__(self, board: Board, log: Callable[[str], None]) -> None:
        """`board` is its own. `log`: the daemon's log."""
        self._board = board
        self._sampler = board.sampler
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.life = os.urandom(8).hex()
        self.ring = self._board.ring
        self._dirty: set[str] = set()  # slots
        self._stale: set[str] = set()  # kinds
        self._records: list[str] = []
        self._news = asyncio.Event()
        self._watchers = 0
        self._measured = 0  # those of them that want memory and CPU
        self._filled: asyncio.Task[None] | None = None  # everything was, or is being, made for the first one
        self._ticking: asyncio.Task[None] | None = None
        self._flushing: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._said = 0.0  # when something was last published
        self._complained = ""
        self.faults = BARE
        # Sets the callback for each record of the ledger; None: none.
        self.listen: Callable[[Callable[[str, str], None] | None], object] = lambda _: None

    # What changes.

    def changed(self, change: Change) -> None:
        """A slot has changed."""
        if self._filled is not None:
            self._dirty.add(change.entry.name)
            self._soon()

    def stale(self, kind: str) -> None:
        """Something among the rows of this kind has changed."""
        if self._filled is not None:
            self._stale.add(kind)
            self._soon()

    def record(self, kind: str, line: str) -> None:
        """The ledger has one more record: JSON, redacted."""
        if self._filled is not None:
            self._records.append(line)
            self._stale.update(STALE_AFTER.get(kind, ()))
            self._soon()

    def _soon(self) -> None:
        if self._flushing is None:
            self._flushing = self._loop.call_later(
                GATHER, self.faults.attempt, SOURCE, "publishing changes", self._flush
            )

    # Publishing.

    def _flush(self) -> None:
        self._flushing = None
        if self._filled is None or not self._filled.done():
            return  # once it is done
        dirty, self._dirty = self._dirty, set()
        kinds, self._stale = self._stale, set()
        records, self._records = self._records, []
        before = self.ring.last
        for name in dirty:
            self._contain(name, self._board.unit, name)
        for kind in kinds:
            self._contain(kind, self._board.kind, kind)
        for line in records:
            self._board.record(line)
        if self.ring.last != before:
            self._wake()

    def _contain(self, whose: str, act: Callable[..., None], *args: object) -> None:
        try:
            act(*args)
        except Exception as error:
            self._complain(f"watch: changes in {whose} cannot be sent: {error!r}")

    def _complain(self, text: str) -> None:
        """Once, while it is the same again and again."""
        if text != self._complained:
            self._complained = text
            self._log(text)

    def _wake(self) -> None:
        self._said = self._loop.time()
        self._news.set()  # wakes all present waiters
        self._news.clear()

    # Looking.

    async def _fill(self) -> None:
        """Make every row, for the first one who watches."""
        for count, name in enumerate(self._board.shown(), 1):
            self._contain(name, self._board.unit, name)
            if count % SLICE == 0:
                await asyncio.sleep(0)
        for kind in self._board.kinds:
            self._contain(kind, self._board.kind, kind)
        self._board.live = True

    def _has_filled(self, filled: asyncio.Task[None]) -> None:
        if filled.cancelled():
            return
        if filled.exception() is not None:
            self._filled = None  # the next one tries again
        self._flush()

    async def _tick(self) -> None:
        """While somebody watches: measure, and see what has changed without a mark."""
        while True:
            await asyncio.sleep(self._sampler.pause)
            if not self._watchers:
                break
            try:
                await self._look()
            except Exception as error:
                self._complain(f"watch: cannot sample processes: {error!r}")
        self._ticking = None
        self._sampler.forget()

    async def _look(self) -> None:
        shown = self._board.shown()
        changed = await self._sampler.sample(shown) if self._measured else {}
        self._dirty |= self._board.differing(shown)
        self._stale.update(self._board.kinds)
        if changed:
            self._board.usage(changed)
            self._wake()
        self._flush()
        if self._loop.time() - self._said >= ALIVE:
            self._wake()

    # Watching.

    async def watch(self, params: Mapping[str, Any]) -> Flow:
        """The control method: `since` is the number that the client has come to in the life `life`."""
        since = params["since"]
        usage = params["usage"]
        filled = self._begin(usage=usage)
        try:
            await asyncio.shield(filled)
        finally:
            self._end(usage=usage)
        resumed = params["life"] == self.life and self.ring.first <= since <= self.ring.last
        number = since if resumed else self.ring.last
        return Flow(
            {"life": self.life, "n": number, "resumed": resumed},
            lambda writer: self._follow(writer, number, resumed=resumed, usage=usage),
        )

    def _begin(self, *, usage: bool) -> asyncio.Task[None]:
        """One more watches. Returns what every row is made by."""
        self._watchers += 1
        self._measured += usage
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        if self._filled is None:
            self.listen(self.record)
            self._filled = self._loop.create_task(self._fill())
            self._filled.add_done_callback(
                lambda filled: self.faults.contain(SOURCE, "sending the full state", self._has_filled, filled)
            )
        if self._ticking is None:
            self._ticking = self._loop.create_task(self.faults.attend(SOURCE, "sampling processes", self._tick))
        return self._filled

    def _end(self, *, usage: bool) -> None:
        self._watchers -= 1
        self._measured -= usage
        if not self._watchers:
            self._ending = self._loop.call_later(
                KEEP, self.faults.contain, SOURCE, "dropping unwatched samples", self.close
            )

    def close(self) -> None:
        """There are no watchers: keep nothing."""
        self.listen(None)
        for handle in (self._flushing, self._ending):
            if handle is not None:
                handle.cancel()
        for task in (self._filled, self._ticking):
            if task is not None:
                task.cancel()
        self._flushing = self._ending = self._filled = self._ticking = None
        self._dirty.clear()
        self._stale.clear()
        self._records.clear()
        self._board.clear()

    async def _follow(self, writer: asyncio.StreamWriter, number: int, *, resumed: bool, usage: bool) -> None:
        filled = self._begin(usage=usage)
        try:
            await asyncio.shield(filled)  # anew, if KEEP is over since
            if not resumed:
                number = await self._snapshot(writer)
            while True:
                lines = self.ring.after(number, HELD)
                if lines is None:
                    raise ConnectionAbortedError("it reads too slowly")
                data, number = lines
                await send(writer, data or stream.mark_line(stream.ALIVE, number))
                if number == self.ring.last:
                    await self._news.wait()
        finally:
            self._end(usage=usage)

    async def _snapshot(self, writer: asyncio.StreamWriter) -> int:
        """Everything as of one instant; returns the number of the last change in it."""
        number = self.ring.last
        chunk: list[bytes] = []
        size = 0
        for body in list(self._board.bodies()):  # of this instant: it is sent in several turns of the loop
            chunk.append(stream.row_line(body))
            size += len(body)
            if size >= HELD:
                await send(writer, b"".join(chunk))
                chunk, size = [], 0
        await send(writer, b"".join([*chunk, stream.mark_line(stream.COMPLETE, number)]))
        return number


async def send(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Write, and wait until the reader has taken almost all of it. TimeoutError if it takes nothing for STALLED seconds."""
    writer.write(data)
    if writer.transport.get_write_buffer_size() > HELD:
        async with asyncio.timeout(STALLED):
            await writer.drain()
