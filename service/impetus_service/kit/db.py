"""The database as the service sees it: a pool that may lose its server at any time and takes it back by itself.

A database that is away is a state, not an error: nothing here ends a worker. One task per worker keeps DB_POOL_MIN
connections open: when one ends it connects again, with growing, jittered pauses up to five seconds while that fails. A
request connects at once all the same, and one that succeeds cuts the pause short. Away and back are logged once each.

Statements (queries/) run by `fetch`, `fetchrow`, `fetchval` and `execute` of a Database, or of the Company whose rows they
are about. Each has DB_TIMEOUT_MS, kept by the server; should the server hang, the connection is cut a little later. What a
database that is away does to them is one error: Unavailable.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import asyncpg
from aiohttp import web

from impetus_service.kit.entries import INSERT, Actor, Entry, columns, entry
from impetus_service.kit.migrate import Migration, default_path, migrate
from impetus_service.kit.ownership import MigrationError
from impetus_service.kit.settings import Settings
from impetus_service.kit.statements import CompanyQuery, Query

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

log = logging.getLogger("impetus.db")

CHECK_TIMEOUT = 0.4  # seconds for a connection to be free or made, and as much again for SELECT 1
CHECK_ANSWER = 0.9  # seconds after which check() answers in any case
CONNECT_TIMEOUT = 5.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0  # seconds between attempts to connect
CLOSE_TIMEOUT = 2.0  # seconds for connections in use to be given back at the end
ACQUIRE_TIMEOUT = 2.0  # seconds that a statement waits for a connection
IDLE_IN_TRANSACTION_MS = 60_000  # a transaction that nobody goes on with holds locks and dead rows
CUT_AFTER = 1.0  # seconds after DB_TIMEOUT_MS in which the server should have ended the statement itself
MAX_QUERIES = 1_000_000  # of a connection before asyncpg replaces it


# What says that the database cannot answer now, as opposed to a statement that is wrong.
AWAY = (
    TimeoutError,
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,  # too many connections, a full disk
    asyncpg.OperatorInterventionError,  # shutting down, starting up, statement_timeout
    asyncpg.ReadOnlySQLTransactionError,  # it is a standby, after a failover
    asyncpg.InternalClientError,  # the connection broke at a moment that the driver does not expect
)


class Unavailable(Exception):
    """The database cannot answer at present; the text says why. Trying again later is what helps."""


class Connection(asyncpg.Connection):  # type: ignore[misc] # asyncpg has no types
    """A connection that is given back as it is: no statement of ours changes a session outside of a transaction, so the
    round trip that asyncpg makes to reset it, one for each statement, has nothing to reset."""

    def get_reset_query(self) -> str:
        return ""


@dataclass(frozen=True)
class Check:
    """The outcome of asking the database `SELECT 1`."""

    ok: bool
    latency_ms: float | None = None  # of SELECT 1 alone, without the wait for a connection
    error: str | None = None  # a sentence
    server: str | None = None  # version of the server that answered


class Database:
    """The asyncpg pool of one worker and the task that keeps it alive; `start` and `stop` in a running event loop."""

    def __init__(self, settings: Settings, migrations: Sequence[Migration]) -> None:
        self._settings = settings
        self._migrations = migrations
        self._pool: Any = None
        self._refilling: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[Check] | None = None
        self._lost = asyncio.Event()  # a connection ended, or a request got no answer
        self._answered = asyncio.Event()  # a request got an answer
        self._away: bool | None = None  # None until the first attempt
        self._taken = 0  # connections in use or waited for
        self._ended = 0  # connections that ended since they were last counted
        self._migrated = asyncio.Event()
        self._tried = asyncio.Event()  # the first attempt to connect has succeeded or failed
        self._stopping = False
        self.failure: Exception | None = None  # why the schema was not brought up to date the last time
        self._unreachable = ""  # why there was no connection to bring it up to date with

    @property
    def migrated(self) -> bool:
        """Whether the schema is known to be up to date."""
        return self._migrated.is_set()

    @property
    def unready(self) -> str:
        """Why the schema is not known to be up to date."""
        if self._unreachable:
            return f"the database cannot be used: {self._unreachable}"
        return str(self.failure or "migrating: the schema may not be up to date")

    async def start(self) -> None:
        """Make the pool and begin to connect; returns at once, whatever the database does."""
        # min_size 0: a pool that connects while it is made fails when the database is away. _refill fills it.
        self._pool = await asyncpg.create_pool(
            self._settings.database_url,
            min_size=0,
            max_size=self._settings.db_pool_max,
            max_queries=MAX_QUERIES,
            max_inactive_connection_lifetime=0,
            timeout=CONNECT_TIMEOUT,
            init=self._listen,
            connection_class=Connection,
            server_settings={
                "application_name": "impetus",
                "search_path": self._settings.db_schema,  # and no other: no name leads to a table of somebody else
                "statement_timeout": str(self._settings.db_timeout_ms),
                "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
            },
        )
        self._refilling = asyncio.create_task(self._refill())

    async def stop(self) -> None:
        """Close the pool; connections still in use after CLOSE_TIMEOUT, or held by a dead server, are cut."""
        self._stopping = True
        tasks: list[asyncio.Task[Any]] = [task for task in (self._refilling, self._checking) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT / 2)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._pool.close()
        except Exception as error:
            log.warning("database connections were closed forcibly at shutdown: %s", _sentence(error))
            self._pool.terminate()

    async def check(self) -> Check:
        """Ask the database; answers within CHECK_ANSWER seconds. Concurrent callers share one question."""
        asking = self._checking
        if asking is None or asking.done():
            asking = self._checking = asyncio.create_task(self._ask())
        # Waited for from outside: asyncpg itself may need longer to give up a connection whose server hangs.
        done, _ = await asyncio.wait({asking}, timeout=CHECK_ANSWER)
        if done and not asking.cancelled():
            return asking.result()
        return Check(ok=False, error=f"the database did not answer within {CHECK_ANSWER:g} s")

    @asynccontextmanager
    async def connection(self, timeout: float) -> AsyncIterator[Any]:  # noqa: ASYNC109
        """A connection of the pool, made if need be, within `timeout` seconds; TimeoutError says what was missing."""
        self._taken += 1
        try:
            try:
                connection = await self._pool.acquire(timeout=timeout)
            except TimeoutError:
                if self._taken > self._settings.db_pool_max:
                    size = self._settings.db_pool_max
                    raise TimeoutError(f"all {size} connections of this worker stayed busy for {timeout:g} s") from None
                raise TimeoutError(f"the database accepted no connection within {timeout:g} s") from None
            try:
                yield connection
            finally:
                await self._pool.release(connection, timeout=timeout)
        finally:
            self._taken -= 1

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        """An asyncpg connection for the statements of one request or job. Raises Unavailable.

        Waits until the first attempt to bring the schema up to date has ended: a worker serves before that.
        """
        try:
            async with asyncio.timeout(ACQUIRE_TIMEOUT):
                await self._tried.wait()
            if not self.migrated:
                raise Unavailable(self.unready)
            async with self.connection(ACQUIRE_TIMEOUT) as connection:
                try:
                    yield connection
                except (TimeoutError, asyncio.CancelledError):
                    connection.terminate()  # to give it back would take as long again
                    raise
                except asyncpg.InterfaceError as error:
                    if not connection.is_closed():
                        raise
                    raise ConnectionResetError("the connection to the database ended") from error
        except AWAY as error:
            self._lost.set()
            raise Unavailable(_public(error)) from error

    async def fetch(self, query: Query, *arguments: Any) -> list[Any]:
        """Every row."""
        async with self.session() as connection:
            return cast("list[Any]", await connection.fetch(query.sql, *arguments, timeout=self.cut_after))

    async def fetchrow(self, query: Query, *arguments: Any) -> Any:
        """The first row, or None."""
        async with self.session() as connection:
            return await connection.fetchrow(query.sql, *arguments, timeout=self.cut_after)

    async def fetchval(self, query: Query, *arguments: Any) -> Any:
        """The first value of the first row, or None."""
        async with self.session() as connection:
            return await connection.fetchval(query.sql, *arguments, timeout=self.cut_after)

    async def execute(self, query: Query, *arguments: Any) -> int:
        """The number of rows that it changed."""
        async with self.session() as connection:
            return rows_changed(await connection.execute(query.sql, *arguments, timeout=self.cut_after))

    @property
    def cut_after(self) -> float:
        """Seconds after which a statement's connection is given up."""
        return self._settings.db_timeout_ms / 1000 + CUT_AFTER

    async def _ask(self) -> Check:
        try:
            async with self.connection(CHECK_TIMEOUT) as connection:
                latency = await _select_one(connection, CHECK_TIMEOUT)
                server = connection.get_settings().server_version.split()[0]
        except Exception as error:
            self._lost.set()
            return Check(ok=False, error=_sentence(error))
        self._answered.set()
        return Check(ok=True, latency_ms=round(latency * 1000, 3), server=server)

    # -- keeping connections open

    async def _refill(self) -> None:
        pause = FIRST_PAUSE
        failures = 0
        while not self._stopping:
            self._lost.clear()
            self._answered.clear()
            try:
                await self._fill()
            except Exception as error:
                if self._stopping:
                    return  # asyncpg can answer our cancellation with an error of its own, and it comes only once
                self._tried.set()
                failures += 1
                if not isinstance(error, MigrationError):
                    self._unreachable = _public(error)
                # A server that ends its connections does so one by one, and the next may end in our hands: once is
                # no outage, unless there never was a connection. (asyncpg then says InternalClientError: state 11.)
                if not isinstance(error, MigrationError) and (failures > 1 or self._away is None):
                    self._note(away=True, why=_sentence(error))
                # Not wait_for: in Python 3.11 it loses a cancellation that comes together with the event.
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(pause / 2, pause)):  # noqa: S311
                        await self._answered.wait()
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                self._tried.set()
                failures, pause = 0, FIRST_PAUSE
                self._note(away=False)
                await self._lost.wait()

    async def _fill(self) -> None:
        """Have DB_POOL_MIN connections that answer, at least one; the first time, bring the schema up to date."""
        settings = self._settings
        if self.migrated and self._taken >= max(1, settings.db_pool_min):
            return  # requests use that many, and would tell
        async with AsyncExitStack() as held:
            first = await held.enter_async_context(self.connection(CONNECT_TIMEOUT))
            await _select_one(first, CONNECT_TIMEOUT)
            self._unreachable = ""
            if not self.migrated:
                await self._migrate(first)
            # Never waits for a request to give one back while it holds others itself.
            while self._taken < settings.db_pool_min:
                await held.enter_async_context(self.connection(CONNECT_TIMEOUT))

    async def _migrate(self, connection: Any) -> None:
        url = self._settings.database_url
        try:
            applied = await migrate(connection, self._migrations, self._settings.db_schema, partial(default_path, url))
        except AWAY:
            raise
        except Exception as error:
            ours = isinstance(error, MigrationError)
            failure = error if ours else MigrationError(f"the schema cannot be migrated: {error}")
            if str(failure) != str(self.failure):
                log.error("%s; trying again", failure)  # noqa: TRY400 - the reason is enough
            self.failure = failure
            raise failure from (None if ours else error)
        for migration in applied:
            log.info("applied %s", migration)
        self.failure = None
        self._migrated.set()

    def _note(self, *, away: bool, why: str = "") -> None:
        if away and not self._away:
            log.warning("database unavailable: %s; retrying", why)
        elif not away and self._away:
            log.info("database available again")
        elif not away and self._ended:
            log.info("%d idle database connection(s) ended; reconnected", self._ended)
        self._ended = 0
        self._away = away

    async def _listen(self, connection: Any) -> None:
        connection.add_termination_listener(self._connection_ended)

    def _connection_ended(self, _connection: Any) -> None:
        self._ended += 1
        self._lost.set()


DATABASE = web.AppKey("impetus.database", Database)


class Company:
    """The rows of one company, and no way to any other's: the id goes in as $1 of every statement.

    `actor` is who changes them, and does what; None where nothing is recorded.
    """

    def __init__(self, database: Database, company_id: int, actor: Actor | None = None) -> None:
        self.id = company_id
        self._database = database
        self._actor = actor

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Change]:
        """Statements that are done all together, with the audit entries that `Change.record` makes of them, or not at all.

        It holds a connection of the pool: what takes long goes before it. Raises Unavailable.
        """
        async with self._database.session() as connection, connection.transaction():
            change = Change(self.id, connection, self._database.cut_after, self._actor)
            yield change
            await change.write()

    async def refused(self, why: str) -> None:
        """Record that what the actor asked for was not done. Raises Unavailable."""
        assert self._actor is not None
        who = self._actor
        refusal = entry(
            self.id, who.user_id, f"{who.action}.refused", who.entity,
            severity="warning", description=why, address=who.address,
        )  # fmt: skip
        await self._database.execute(INSERT["audit_logs"], *columns([refusal]))

    async def fetch(self, query: CompanyQuery, *arguments: Any) -> list[Any]:
        """Every row."""
        return await self._database.fetch(Query(query.sql), self.id, *arguments)

    async def fetchrow(self, query: CompanyQuery, *arguments: Any) -> Any:
        """The first row, or None."""
        return await self._database.fetchrow(Query(query.sql), self.id, *arguments)

    async def fetchval(self, query: CompanyQuery, *arguments: Any) -> Any:
        """The first value of the first row, or None."""
        return await self._database.fetchval(Query(query.sql), self.id, *arguments)

    async def execute(self, query: CompanyQuery, *arguments: Any) -> int:
        """The number of rows that it changed."""
        return await self._database.execute(Query(query.sql), self.id, *arguments)

    @asynccontextmanager
    async def cursor(self, query: CompanyQuery, *arguments: Any, prefetch: int) -> AsyncIterator[Any]:
        """A server-side cursor, to iterate over any number of rows in the memory of `prefetch`, all of one snapshot."""
        async with self._database.session() as connection, connection.transaction(isolation="repeatable_read"):
            yield connection.cursor(query.sql, self.id, *arguments, prefetch=prefetch, timeout=self._database.cut_after)


class Change:
    """One transaction on the rows of a company, and the entries of the audit log that are part of it."""

    def __init__(self, company_id: int, connection: Any, cut_after: float, actor: Actor | None) -> None:
        self.id = company_id
        self._connection = connection
        self._cut_after = cut_after
        self._actor = actor
        self._entries: list[Entry] = []

    async def fetchrow(self, query: CompanyQuery, *arguments: Any) -> Any:
        """The first row, or None."""
        return await self._connection.fetchrow(query.sql, self.id, *arguments, timeout=self._cut_after)

    async def fetchval(self, query: CompanyQuery, *arguments: Any) -> Any:
        """The first value of the first row, or None."""
        return await self._connection.fetchval(query.sql, self.id, *arguments, timeout=self._cut_after)

    async def execute(self, query: CompanyQuery, *arguments: Any) -> int:
        """The number of rows that it changed."""
        return rows_changed(await self._connection.execute(query.sql, self.id, *arguments, timeout=self._cut_after))

    def record(self, entity_id: object, what: str = "", severity: str = "info") -> None:
        """Have the audit log say that the actor's action was done to `entity_id`, and `what` changed."""
        assert self._actor is not None
        who = self._actor
        self._entries.append(
            entry(
                self.id, who.user_id, who.action, who.entity,
                entity_id=entity_id, severity=severity, description=what, address=who.address,
            )
        )  # fmt: skip

    async def write(self) -> None:
        """Write what was recorded, as the last of the transaction."""
        if self._entries:
            await self._connection.execute(INSERT["audit_logs"].sql, *columns(self._entries), timeout=self._cut_after)


def rows_changed(status: str) -> int:
    """The count in a command's status: "DELETE 3"."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdecimal() else 0


async def _select_one(connection: Any, timeout: float) -> float:  # noqa: ASYNC109
    """Seconds until the answer. A connection that does not answer is cut: to give it back would take as long again."""
    asked = time.perf_counter()
    try:
        await connection.fetchval("SELECT 1", timeout=timeout)
    except BaseException:
        connection.terminate()
        raise
    return time.perf_counter() - asked


def _public(error: BaseException) -> str:
    """As _sentence, for a client: without the address, which an error of a connection has in its text."""
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return f"cannot connect: {os.strerror(error.errno)}" if error.errno else "cannot connect"
    return _sentence(error)


def _sentence(error: BaseException) -> str:
    """One line that says what went wrong, also for errors that carry no text."""
    text = " ".join(str(error).split())
    if isinstance(error, TimeoutError):
        return text or "the database did not answer in time"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot connect: {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
