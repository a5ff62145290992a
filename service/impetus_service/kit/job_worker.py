"""`impetusd-service jobs`: a process that does jobs, any number of them on any number of hosts.

pgqueuer hands the jobs out: it locks an entry for one worker, beats its heart while the job runs, and gives the entry to
another when that stops. What it knows is only an id; the row of `jobs` is the truth. So what it loses costs nothing: every
few seconds, and at once when a web worker has notified, what waits in `jobs` without an entry gets one.

When the database goes away pgqueuer never listens again. So at the first connection that ends this process ends too, with
status 1, and its supervisor starts it anew: it waits for the database, and goes on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec

from impetus_service.kit import job_queries as queries
from impetus_service.kit import logs
from impetus_service.kit.db import Company, Database
from impetus_service.kit.job_kinds import Gone, Kind, Refused, Run, Stopping
from impetus_service.kit.migrate import Migration, own
from impetus_service.kit.outgoing import Outgoing
from impetus_service.kit.ownership import QUEUE, mark, quoted
from impetus_service.kit.provider import Provider
from impetus_service.kit.request_id import JOB_ID, REQUEST_ID
from impetus_service.kit.settings import Settings

log = logging.getLogger("impetus.jobs")

ENTRYPOINT = "job"
MADE_BY = "the queue of its job workers"
SCHEMA_LOCK = 0x696D706A6F6273  # "impjobs": the key of the advisory lock around pgqueuer's own schema
DISPATCH_EVERY = 5.0  # seconds, when nobody notifies
DISPATCH_MAX = 1000  # jobs at once
DEQUEUE_TIMEOUT = timedelta(seconds=5)  # between looks of pgqueuer, when nobody notifies
HEARD_WITHIN = 10.0  # seconds for a notification to come back, and between two of them
FIRST_DELAY, LONGEST_DELAY = 2.0, 300.0  # seconds before a job is tried again
GRACE = 5.0  # seconds that a job has to come to its next batch when this process ends
ERROR_MAX = 500  # characters of an error that its user sees


def delay_before(attempt: int, luck: float) -> float:
    """Seconds until the attempt that follows `attempt` (from 1): doubling, jittered by `luck` in [0, 1)."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 1, 16)) * (0.5 + luck / 2)


class Worker:
    """One process of the program `jobs`."""

    def __init__(self, settings: Settings, migrations: Sequence[Migration], kinds: Mapping[str, Kind]) -> None:
        self._settings = settings
        self._migrations = migrations
        self._kinds = kinds
        # A job's statement may take as long as it needs to go through a table.
        self._database = Database(replace(settings, db_timeout_ms=settings.job_statement_ms, db_pool_min=1), migrations)
        self._outgoing = Outgoing(settings)
        self._provider = Provider(settings, self._outgoing)
        self._stopping = asyncio.Event()
        self._manager: Any = None

    def stop(self) -> None:
        """Take up no further job, and give back those under way."""
        self._stopping.set()
        if self._manager is not None:
            self._manager.shutdown.set()

    async def run(self) -> None:
        """Do jobs until `stop`. Raises when the database goes away, to be started anew."""
        from pgqueuer.core.qm import QueueManager
        from pgqueuer.queries import Queries

        await self._database.start()
        await self._outgoing.start()
        pool = None
        try:
            if not await self._until_migrated():
                return
            path = await self._install()
            lost = asyncio.Event()

            async def listen(connection: Any) -> None:
                connection.add_termination_listener(lambda *_: lost.set())

            # pgqueuer keeps one of them to listen. None is closed for being idle: one that ends has been lost.
            pool = await asyncpg.create_pool(
                self._settings.database_url, min_size=0, max_size=4, max_inactive_connection_lifetime=0, init=listen,
                server_settings={"search_path": path},
            )  # fmt: skip
            manager = self._manager = QueueManager(Queries.from_asyncpg_pool(pool))
            manager.entrypoint(ENTRYPOINT)(self._do)
            if self._stopping.is_set():
                return
            await self._work(manager, pool, lost)
        finally:
            if pool is not None:
                pool.terminate()
            await self._outgoing.stop()
            await self._database.stop()

    async def _work(self, manager: Any, pool: Any, lost: asyncio.Event) -> None:
        """Hand out and do jobs until `stop`. Raises when a connection to the database is `lost`."""
        new = asyncio.Event()
        connection = await asyncpg.connect(self._settings.database_url)
        connection.add_termination_listener(lambda *_: lost.set())
        await connection.add_listener(queries.CHANNEL, lambda *_: new.set())
        running = asyncio.create_task(
            manager.run(
                dequeue_timeout=DEQUEUE_TIMEOUT,
                batch_size=1,
                max_concurrent_tasks=self._settings.job_concurrency,
                heartbeat_timeout=timedelta(seconds=self._settings.job_heartbeat_s),
                log_aggregation_interval=timedelta(0),
            )
        )
        waiting = asyncio.create_task(lost.wait())
        others = [
            waiting,
            asyncio.create_task(self._dispatch(pool, manager.queries, new)),
            asyncio.create_task(_watch(manager, lost)),
        ]
        try:
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            if lost.is_set() and not self._stopping.is_set():
                self.stop()
                await asyncio.wait({running}, timeout=GRACE * 2)
                raise ConnectionError("a connection to the database ended")
            await running
        finally:
            connection.terminate()
            for task in (running, *others):
                task.cancel()
            await asyncio.wait({running, *others})

    async def _until_migrated(self) -> bool:
        """Wait for the database, however long it is away; False when asked to stop before. Raises MigrationError."""
        while not self._database.migrated and not self._stopping.is_set():
            if self._database.failure is not None:
                raise self._database.failure
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await self._stopping.wait()
        return self._database.migrated

    async def _install(self) -> str:
        """Bring pgqueuer's own tables up to its release: by one worker, while the others wait.

        Returns the search_path for pgqueuer, which makes and seeks its tables in the first schema of it alone. Raises
        ForeignTables.
        """
        from pgqueuer.queries import Queries

        connection = await asyncpg.connect(self._settings.database_url)
        try:
            await connection.execute("SELECT pg_advisory_lock($1)", SCHEMA_LOCK)
            there = await own(connection, self._settings.db_schema, self._migrations, queue=True)
            place = there.queue_schema or there.schema
            path = ", ".join(dict.fromkeys((quoted(place), quoted(there.schema))))
            await connection.execute("SELECT set_config('search_path', $1, false)", path)
            schema = Queries.from_asyncpg_connection(connection)
            if there.queue_schema:
                await mark(connection, place, there.tables.intersection(QUEUE), MADE_BY)
                await schema.upgrade()
                await mark(connection, place, QUEUE, MADE_BY)
            else:
                async with connection.transaction():
                    await schema.install()
                    await mark(connection, place, QUEUE, MADE_BY)
            return path
        finally:
            connection.terminate()  # and with it goes the lock

    async def _dispatch(self, pool: Any, pgqueuer: Any, new: asyncio.Event) -> None:
        """Make an entry for every job that has none, at once when there is a `new` one."""
        while True:
            new.clear()
            found = 0
            try:
                found = await self._dispatch_once(pool, pgqueuer)
            except Exception as error:
                log.warning("jobs cannot be claimed at the moment: %s", error)
            if found < DISPATCH_MAX:
                with suppress(TimeoutError):
                    async with asyncio.timeout(DISPATCH_EVERY):
                        await new.wait()

    async def _dispatch_once(self, pool: Any, pgqueuer: Any) -> int:
        rows = await pool.fetch(queries.NOT_DISPATCHED.sql, DISPATCH_MAX, timeout=self._database.cut_after)
        if rows:
            keys = [str(row["id"]) for row in rows]
            await pgqueuer.enqueue(
                [ENTRYPOINT] * len(keys), [key.encode() for key in keys], [0] * len(keys),
                dedupe_key=keys, on_conflict="skip",
            )  # fmt: skip
        return len(rows)

    # -- one job

    async def _do(self, entry: Any) -> None:
        from pgqueuer.errors import RetryRequested

        row = await self._database.fetchrow(queries.BEGIN, int(entry.payload))
        if row is None:
            return  # cancelled meanwhile, or done by another
        REQUEST_ID.set(row["request_id"] or "")
        JOB_ID.set(row["id"])
        company, key = Company(self._database, row["company_id"]), (row["id"], row["attempt"], row["run"])
        if row["attempt"] > self._settings.job_attempts:
            why = f"its worker was lost {self._settings.job_attempts} times"
            log.warning("job %d failed for good: %s", row["id"], why)
            await company.execute(queries.FAIL, *key, why)
            return
        run = Run(
            row["id"], row["attempt"], row["run"], company, self._provider,
            self._settings.job_files_dir, self._stopping.is_set,
        )  # fmt: skip
        log.info("job %d (%s): attempt %d begins", run.id, row["kind"], run.attempt)
        try:
            if row["kind"] not in self._kinds:
                raise LookupError(f"this worker's release does not support jobs of kind {row['kind']}")
            result = await self._unless_stopping(self._kinds[row["kind"]].begin(run, row["parameters"]))
        except Gone:
            log.info("job %d: cancelled, or taken over", run.id)
        except Stopping:
            log.info("job %d: returned to the queue, because this worker is exiting", run.id)
            await company.execute(queries.GIVE_BACK, *key)
            raise RetryRequested(timedelta(0), "the worker is exiting") from None
        except Refused as error:
            log.warning("job %d failed: %s", run.id, error)
            await company.execute(queries.FAIL, *key, str(error)[:ERROR_MAX])
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:ERROR_MAX]
            if run.attempt >= self._settings.job_attempts:
                log.warning("job %d failed for good, attempt %d: %s", run.id, run.attempt, why)
                await company.execute(queries.FAIL, *key, why)
                return
            delay = delay_before(run.attempt, random.random())  # noqa: S311
            log.warning("job %d: attempt %d failed, next in %.0f s: %s", run.id, run.attempt, delay, why)
            await company.execute(queries.RETRY, *key, why)
            raise RetryRequested(timedelta(seconds=delay), why) from error
        else:
            done = await company.execute(queries.SUCCEED, *key, msgspec.json.encode(result).decode(), run.file)
            log.info("job %d: %s", run.id, "succeeded" if done else "cancelled, or taken over")

    async def _unless_stopping(self, work: Any) -> Any:
        """What `work` gives; it is cancelled when it has come to no next batch within GRACE after `stop`: Stopping."""
        task = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                await asyncio.wait({task}, timeout=GRACE)
            if not task.done():
                raise Stopping
            return task.result()
        finally:
            stopping.cancel()
            task.cancel()
            await asyncio.wait({task})


async def _watch(manager: Any, lost: asyncio.Event) -> None:
    """Find a connection that is dead without having ended: when pgqueuer twice does not hear its own notification.

    Its own watch gives up after one, which at the start may have been sent before it listened.
    """
    unheard = 0
    while unheard < 2:
        try:
            await manager.listener_healthy(timedelta(seconds=HEARD_WITHIN))
        except Exception:
            unheard += 1
        else:
            unheard = 0
            await asyncio.sleep(HEARD_WITHIN)
    lost.set()


def _without_traceback(record: logging.LogRecord) -> bool:
    """A filter that lets everything through: of a job's failure, and of an outage, pgqueuer's own frames tell nothing."""
    record.exc_info = None
    return True


def main(settings: Settings, migrations: Sequence[Migration], kinds: Mapping[str, Kind]) -> int:
    """Run a worker until SIGTERM; the exit status."""
    # pgqueuer reads names of its objects from the environment, also by bare names such as TRIGGER: none of it is meant.
    from pgqueuer.domain.settings import DBSettings

    for field in DBSettings.model_fields:
        for name in (field, field.upper(), f"pgqueuer_{field}", f"PGQUEUER_{field.upper()}"):
            os.environ.pop(name, None)
    logs.hide(*settings.secrets())
    logs.configure(settings.log_level)
    logging.getLogger("pgqueuer").addFilter(_without_traceback)

    async def run() -> int:
        worker = Worker(settings, migrations, kinds)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, worker.stop)
        try:
            await worker.run()
        except Exception as error:
            log.error("this worker exits to be restarted: %s", error)  # noqa: TRY400 - the reason is enough
            return 1
        return 0

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())
