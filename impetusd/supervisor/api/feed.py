"""The control method `watch`: everything as it is, then what changes, numbered; see `core.stream` for the lines.

Changes are marked while a round goes on, and published after it: each is put into JSON once, redacted once, and the
same bytes go to everybody. What has no mark is compared once a second. Without watchers nothing of this happens;
changes are kept for KEEP seconds after the last watcher has gone, in case it only lost its connection.

Of its unread data, a reader has only what its socket and transport hold, HELD bytes, to itself: it continues in the
ring if it catches up in time, and is disconnected if it does not.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from impetusd.core import redact, stream
from impetusd.supervisor.api.control import Flow
from impetusd.supervisor.api.ring import Ring
from impetusd.supervisor.api.rows import Rows
from impetusd.supervisor.api.sampler import Sampler
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import Entry

SOURCE = "watch"  # of what raises
KEPT = 2 << 20  # bytes of changes
HELD = 1 << 16  # bytes written at once
KEEP = 60.0  # seconds after the last watcher has gone
GATHER = 0.1  # seconds in which changes of one thing become one
ALIVE = 5.0  # seconds of silence
STALLED = 30.0  # seconds in which a reader must take something
SLICE = 64  # rows made between two turns of the loop: 3 ms
WORDS = 10, 200  # lines of what a failed slot wrote last, and characters of each
FREE = ("reason", "cause", "held", "tail")  # fields of a unit's row in which there is what others wrote
# Not changes by themselves: clocks, usage, how each probe was answered; notices have seconds, attention has not.
VOLATILE = ("uptime_s", "memory_bytes", "cpu_percent", "next", "next_in_s", "running_s", "at", "latency_ms", "notices")

# Kinds of rows that change with a record of this kind in the ledger.
TOLD_BY = {"timer": (stream.TIMER,), "health": (stream.CHECK,), "reload": (stream.RELOAD,)}


class Feed:
    """One stream for all who watch."""

    def __init__(
        self,
        engine: Engine,
        rows: Rows,
        *,
        sampler: Sampler,
        dropped: Callable[[Entry], object],
        lists: Mapping[str, Callable[[], dict[str, Any]]],
        tell: Callable[[str], None],
    ) -> None:
        """`dropped`: how much of a slot's log was. `tell`: the daemon's log.

        `lists`: for each kind other than unit, a function that makes its rows by key, called when they may have
        changed.
        """
        self._engine = engine
        self._rows = rows
        self._sampler = sampler
        self._dropped = dropped
        self._lists = lists
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self.life = os.urandom(8).hex()
        self.ring = Ring(KEPT)
        self._bodies: dict[tuple[str, str], tuple[int, bytes]] = {}  # kind, key → hash of what is compared, line
        self._marks: dict[str, tuple[object, ...]] = {}  # of slots: what their rows are made of, as of the last look
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
            self._stale.update(TOLD_BY.get(kind, ()))
            self._soon()

    def _soon(self) -> None:
        if self._flushing is None:
            self._flushing = self._loop.call_later(
                GATHER, self.faults.attempt, SOURCE, "telling what has changed", self._flush
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
            self._contain(name, self._publish_unit, name)
        for kind in kinds:
            self._contain(kind, self._publish_list, kind)
        for line in records:
            self._add(stream.body(time.time(), stream.LEDGER, "", line))
        if self.ring.last != before:
            self._wake()

    def _contain(self, whose: str, act: Callable[..., None], *args: object) -> None:
        try:
            act(*args)
        except Exception as error:
            self._complain(f"watch: what has changed in {whose} cannot be told: {error!r}")

    def _complain(self, text: str) -> None:
        """Once, while it is the same again and again."""
        if text != self._complained:
            self._complained = text
            self._tell(text)

    def _wake(self) -> None:
        self._said = self._loop.time()
        self._news.set()  # wakes all present waiters
        self._news.clear()

    def _add(self, body: bytes) -> None:
        self.ring.add(stream.change_line(self.ring.last + 1, body))

    def _publish(self, kind: str, key: str, value: Mapping[str, Any] | None) -> None:
        """Another row in the place of the one that is known, if it is another."""
        known = self._bodies.get((kind, key))
        if value is None:
            if known is not None:
                del self._bodies[kind, key]
                self._add(stream.body(time.time(), kind, key, "null"))
            return
        lasting = json.dumps(
            {name: each for name, each in value.items() if name not in VOLATILE}, separators=(",", ":")
        )
        if known is not None and known[0] == hash(lasting):
            return
        rest = {name: value[name] for name in VOLATILE if name in value}
        text = f"{lasting[:-1]},{json.dumps(rest, separators=(',', ':'))[1:]}" if rest else lasting
        body = stream.body(time.time(), kind, key, text)
        self._bodies[kind, key] = (hash(lasting), body)
        if self._filled is not None and self._filled.done():
            self._add(body)

    def _publish_unit(self, name: str) -> None:
        entry = self._engine.slots.entries.get(name)
        if entry is None or not self._rows.is_shown(entry):
            self._marks.pop(name, None)
            self._publish(stream.UNIT, name, None)
            return
        self._marks[name] = self._mark(entry)
        row = self._rows.row(entry, self._sampler.read)
        lines, length = WORDS
        row["tail"] = [line[:length] for line in row["tail"][-lines:]]
        for field in FREE:
            if row[field]:
                row[field] = redact.everything(row[field])
        self._publish(stream.UNIT, name, row)

    def _mark(self, entry: Entry) -> tuple[object, ...]:
        """What changes with the slot's row, apart from clocks."""
        rec, engine = entry.rec, self._engine
        state = (rec.slot, rec.tail, rec.due, rec.generation, entry.waits, engine.slots.shown(entry))
        return (*state, engine.slots.held_because(entry), self._dropped(entry))

    def _publish_list(self, kind: str) -> None:
        rows = self._lists[kind]()
        gone = [key for known, key in self._bodies if known == kind and key not in rows]
        for key in gone:
            self._publish(kind, key, None)
        for key, row in rows.items():
            self._publish(kind, key, redact.everything(row))

    # Looking.

    async def _fill(self) -> None:
        """Make every row, for the first one who watches."""
        names = [entry.name for entry in self._rows.shown()]
        for count, name in enumerate(names, 1):
            self._contain(name, self._publish_unit, name)
            if count % SLICE == 0:
                await asyncio.sleep(0)
        for kind in self._lists:
            self._contain(kind, self._publish_list, kind)

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
                self._complain(f"watch: cannot look at what runs: {error!r}")
        self._ticking = None
        self._sampler.forget()

    async def _look(self) -> None:
        shown = {entry.name: entry for entry in self._rows.shown()}
        changed = await self._sampler.sample(shown) if self._measured else {}
        now = self._engine.slots.entries
        self._dirty |= {name for name in self._marks if name not in now}
        self._dirty |= {name for name, each in shown.items() if self._marks.get(name) != self._mark(each)}
        self._stale |= self._lists.keys()
        if changed:
            self._add(self._usage(changed))
            self._wake()
        self._flush()
        if self._loop.time() - self._said >= ALIVE:
            self._wake()

    @staticmethod
    def _usage(usage: Mapping[str, Any]) -> bytes:
        return stream.body(time.time(), stream.USAGE, "", json.dumps(usage, separators=(",", ":")))

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
                lambda filled: self.faults.contain(SOURCE, "telling everything", self._has_filled, filled)
            )
        if self._ticking is None:
            self._ticking = self._loop.create_task(self.faults.attend(SOURCE, "looking at what runs", self._tick))
        return self._filled

    def _end(self, *, usage: bool) -> None:
        self._watchers -= 1
        self._measured -= usage
        if not self._watchers:
            self._ending = self._loop.call_later(
                KEEP, self.faults.contain, SOURCE, "forgetting what nobody watches", self.close
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
        self._bodies.clear()
        self._marks.clear()
        self._dirty.clear()
        self._stale.clear()
        self._records.clear()
        self.ring.clear()

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
        bodies = [body for _, body in self._bodies.values()]
        if self._sampler.usage:
            bodies.append(self._usage(self._sampler.usage))
        chunk: list[bytes] = []
        size = 0
        for body in bodies:
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
