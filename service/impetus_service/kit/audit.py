"""The data-access log, and what of the audit log belongs to no change: entries are handed over here, and written in
batches off the request path. (A change and its entry are one transaction: `db.Change`.)

An entry waits in memory until the database has it. While the database is away, what is more than MAX_WAITING goes to a file
(spool.py); so does, at a graceful stop, what the database does not take in time, and the next worker writes it. Only where the
disk takes nothing either is something lost, counted in /health and told in the log. A batch whose answer is lost is written
again: an entry may then be there twice, never missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from itertools import islice

import asyncpg
import msgspec
from aiohttp import web

from impetus_service.kit import spool
from impetus_service.kit.db import Database, Unavailable
from impetus_service.kit.entries import INSERT, Entry, columns, entry

log = logging.getLogger("impetus.audit")

BATCH = 500  # entries in one INSERT
GATHER = 0.1  # seconds that the first entry waits for others
PAUSE = 1.0  # seconds between attempts while the database is away
MAX_WAITING = 5000  # entries that wait in memory for a database that is away
MOST_WAITING = 20_000  # also when no disk takes what is more than that; some 10 MB
LAST_ATTEMPT = 4.0  # seconds that a graceful stop takes at most


class Journal:
    """Both logs of one worker; `start` and `stop` in a running event loop."""

    def __init__(self, database: Database, folder: str) -> None:
        self.dropped = 0
        self._folder = folder  # of the spool
        self._file: spool.Held | None = None  # of this worker, once there is something in it
        self._spooled = True  # there may be files to take up
        self._database = database
        self._waiting: dict[str, deque[Entry]] = {table: deque() for table in INSERT}
        self._some = asyncio.Event()
        self._stopping = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Entries that the database does not have yet."""
        return sum(map(len, self._waiting.values()))

    def add(
        self,
        table: str,
        company_id: int,
        user_id: int | None,
        action: str,
        entity: str,
        *,
        entity_id: object = None,
        severity: str = "info",
        description: str = "",
        address: str | None = None,
    ) -> None:
        """Hand an entry of audit_logs or data_access_logs over; returns at once."""
        if self.waiting >= MOST_WAITING:
            if not self.dropped:
                log.error(
                    "the database is down and %d audit entries are queued: further entries are lost", MOST_WAITING
                )
            self.dropped += 1
            return
        self._waiting[table].append(
            entry(
                company_id,
                user_id,
                action,
                entity,
                entity_id=entity_id,
                severity=severity,
                description=description,
                address=address,
            )
        )
        self._some.set()

    async def start(self) -> None:
        """Begin to write."""
        self._writer = asyncio.create_task(self._write())

    async def stop(self) -> None:
        """Write what waits; after LAST_ATTEMPT seconds without a database, to a file for the next worker."""
        assert self._writer is not None
        self._stopping.set()
        self._some.set()
        await asyncio.wait({self._writer}, timeout=LAST_ATTEMPT)
        self._writer.cancel()
        await asyncio.wait({self._writer})
        left = self.waiting
        if left and await self._spill(0):
            log.warning("%d audit entries are kept in %s for the next worker", left, self._folder)
        elif left:
            log.error(
                "%d audit entries were lost: they could be written neither to the database nor to %s",
                left,
                self._folder,
            )
        if self._file is not None:
            self._file.release()

    async def _spill(self, keep: int) -> bool:
        """Move what is more than `keep` entries from the memory to the file; whether the disk took it."""
        rows = []
        for table, waiting in self._waiting.items():
            rows += [(table, each) for each in islice(waiting, max(0, len(waiting) - keep))]
        try:
            if self._file is None:
                self._file = await asyncio.to_thread(spool.begin, self._folder)
            await asyncio.to_thread(self._file.append, rows)
        except OSError as error:
            log.error("audit entries cannot be kept in %s: %s", self._folder, error)  # noqa: TRY400
            return False
        for table, _ in rows:
            self._waiting[table].popleft()
        return True

    async def _take_up(self) -> None:
        """Write what this worker, or one that has ended, has left in files. Raises Unavailable."""
        files = await asyncio.to_thread(spool.left_behind, self._folder)
        if self._file is not None:
            files.append(self._file)
            self._file = None
        try:
            while files:
                rows = await asyncio.to_thread(files[-1].rows)
                for begin in range(0, len(rows), BATCH):
                    part = rows[begin : begin + BATCH]
                    for table in self._waiting:
                        if batch := [each for name, each in part if name == table]:
                            await self._insert_or_each(table, batch)
                await asyncio.to_thread(files.pop().remove)
        finally:
            for file in files:
                file.release()

    async def _write(self) -> None:
        while not self._stopping.is_set() or self.waiting:
            if not self._spooled:
                await self._some.wait()
            self._some.clear()
            await self._sleep(GATHER)
            for table in self._waiting:
                while self._waiting[table]:
                    await self._write_batch(table)
            if self._spooled and not self._stopping.is_set():
                try:
                    await self._take_up()
                    self._spooled = False
                except Unavailable:
                    await self._sleep(PAUSE)
                except (OSError, msgspec.MsgspecError) as error:
                    self._spooled = False  # the next worker tries again
                    log.error("audit entries in %s cannot be loaded: %s", self._folder, error)  # noqa: TRY400

    async def _write_batch(self, table: str) -> None:
        waiting = self._waiting[table]
        batch = list(islice(waiting, BATCH))
        try:
            await self._insert_or_each(table, batch)
        except Unavailable:
            if self.waiting > MAX_WAITING:
                self._spooled = await self._spill(MAX_WAITING // 2) or self._spooled
            await self._sleep(PAUSE)
            return
        for _ in batch:
            waiting.popleft()
        if self.dropped and not self.waiting:
            log.warning("%d audit entries have been lost since this worker started", self.dropped)

    async def _insert_or_each(self, table: str, batch: Sequence[Entry]) -> None:
        try:
            await self._insert(table, batch)
        except Unavailable:
            raise
        except Exception as error:  # one that the database refuses must not hold up the others
            log.error("a batch of %d entries of %s was rejected: %s", len(batch), table, error)  # noqa: TRY400
            await self._insert_each(table, batch)

    async def _insert(self, table: str, batch: Sequence[Entry]) -> None:
        await self._database.execute(INSERT[table], *columns(batch))

    async def _insert_each(self, table: str, batch: Sequence[Entry]) -> None:
        for each in batch:
            try:
                await self._insert(table, [each])
            except (Unavailable, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
                self.dropped += 1
                log.error("an entry of %s is lost: %s: %s", table, each.action, error)  # noqa: TRY400

    async def _sleep(self, seconds: float) -> None:
        """Wait, but not while the worker stops."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
            await asyncio.sleep(seconds / 10)
        except TimeoutError:
            pass


JOURNAL = web.AppKey("impetus.journal", Journal)
