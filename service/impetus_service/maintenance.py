"""What the database needs regularly: what has expired is deleted, and the tables that change much are vacuumed.

Requests go on meanwhile. A DELETE takes few rows, none that is locked, and is over within milliseconds; the pause after
it is twice as long as it took itself. VACUUM locks out nobody, and pauses as autovacuum does. Steps do not depend on each other: a table that is missing is
skipped, a step that fails is told and makes the whole fail, and the others run all the same, on a new connection if need be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from impetus_service.kit import job_files, job_queries
from impetus_service.kit.db import rows_changed
from impetus_service.kit.migrate import own
from impetus_service.kit.ownership import ForeignTables, Own, quoted
from impetus_service.kit.statements import Query
from impetus_service.queries import maintenance as queries
from impetus_service.schema import shipped
from impetus_service.settings import Settings

log = logging.getLogger("impetus.maintenance")

LOCK = 0x696D706D61696E  # "impmain": the key of the advisory lock
CONNECT_TIMEOUT = 10.0  # seconds
BATCH_ROWS = 2000  # of one DELETE: some 10 ms
PAUSES = 2.0  # times what a DELETE took, for the requests of others
DELETE_TIMEOUT = 60.0  # seconds for one batch
LOCK_TIMEOUT_MS = 30_000  # VACUUM waits for another of the same table, but not for ever


class Busy(Exception):
    """Another maintenance runs on this database."""


@dataclass(frozen=True)
class Delete:
    """Delete the rows of `table` that are older than `age`, in batches."""

    name: str
    table: str
    age: timedelta
    count: Query
    delete: Query


@dataclass(frozen=True)
class Vacuum:
    """VACUUM (ANALYZE) `table`."""

    name: str
    table: str


@dataclass(frozen=True)
class Sweep:
    """Remove the files that no row of `table` has any more: its results' whose time is over, and what a crash has left."""

    name: str
    table: str
    folder: str
    age: timedelta  # of a result whose time is over


@dataclass(frozen=True)
class Outcome:
    """What became of a step."""

    step: str
    rows: int | None  # (or files) deleted, or to be deleted; None for a step that deletes none, or did not come to it
    seconds: float
    note: str = ""  # why it was skipped, or failed
    failed: bool = False


def steps(settings: Settings) -> list[Delete | Sweep | Vacuum]:
    """All that maintenance does, in order."""
    now, days = timedelta(), settings.audit_log_retention_days
    kept, results = timedelta(days=days), timedelta(days=settings.job_result_days)
    return [
        Delete("expired sessions", "sessions", now, queries.COUNT_SESSIONS, queries.DELETE_SESSIONS),
        Delete("expired idempotency keys", "idempotency_keys", now, queries.COUNT_KEYS, queries.DELETE_KEYS),
        Delete("expired login attempts", "login_attempts", now, queries.COUNT_LOGINS, queries.DELETE_LOGINS),
        Delete(f"audit_logs older than {days} days", "audit_logs", kept, queries.COUNT_AUDIT, queries.DELETE_AUDIT),
        Delete(
            f"data_access_logs older than {days} days",
            "data_access_logs",
            kept,
            queries.COUNT_ACCESS,
            queries.DELETE_ACCESS,
        ),
        Delete(
            f"jobs that ended over {settings.job_result_days} days ago",
            "jobs",
            results,
            queries.COUNT_JOBS,
            queries.DELETE_JOBS,
        ),
        Delete("pgqueuer_log of that age", "pgqueuer_log", results, queries.COUNT_QUEUE_LOG, queries.DELETE_QUEUE_LOG),
        Sweep("files of deleted jobs", "jobs", settings.job_files_dir, results),
        *(Vacuum(f"vacuum {table}", table) for table in queries.VACUUM),
    ]


async def maintain(settings: Settings, *, dry_run: bool = False) -> AsyncIterator[Outcome]:
    """Run every step and yield what became of it; with `dry_run` count what would be deleted, and change nothing.

    How it went is recorded: in the log, and in audit_logs as an event of the installation, critical when a step failed.
    Raises Busy while another one runs, ForeignTables when names of the service's tables are somebody else's (then nothing
    is changed), and what asyncpg.connect raises when there is no database to begin with.
    """
    connection = await _connect(settings, lock=not dry_run)
    try:
        now = await connection.fetchval(queries.NOW.sql)  # one instant for all: what is counted is what is deleted
        failures = []
        for step in steps(settings):
            began = time.monotonic()
            try:
                if connection.is_closed():
                    connection = await _connect(settings, lock=not dry_run)
                there = await own(connection, settings.db_schema, shipped(), queue=True)
                rows, note = await _do(connection, step, there, now, dry_run=dry_run)
                yield Outcome(step.name, rows, time.monotonic() - began, note)
            except Exception as error:
                why = " ".join(str(error).split()) or type(error).__name__
                failures.append(f"{step.name}: {why}")
                log.error("maintenance step %s failed: %s", step.name, why)  # noqa: TRY400 - `why` is what an operator needs
                yield Outcome(step.name, None, time.monotonic() - began, why, failed=True)
        if not dry_run:
            await _record(connection, settings.db_schema, failures)
    finally:
        connection.terminate()  # and with it goes the lock


async def _connect(settings: Settings, *, lock: bool) -> Any:
    connection = await asyncpg.connect(
        settings.database_url,
        timeout=CONNECT_TIMEOUT,
        server_settings={
            "application_name": "impetus maintenance",
            "lock_timeout": str(LOCK_TIMEOUT_MS),
            "vacuum_cost_delay": "2ms",  # a VACUUM by hand would take all the disk there is
            "synchronous_commit": "off",  # what a crash brings back goes the next time
        },
    )
    if lock and not await connection.fetchval(queries.LOCK.sql, LOCK):
        connection.terminate()
        raise Busy("another maintenance is running on this database; nothing was done")
    try:
        there = await own(connection, settings.db_schema, shipped(), queue=True)
    except ForeignTables:
        connection.terminate()
        raise
    path = ", ".join(dict.fromkeys(quoted(schema) for schema in (there.schema, there.queue_schema) if schema))
    await connection.execute("SELECT set_config('search_path', $1, false)", path)
    return connection


async def _do(
    connection: Any, step: Delete | Sweep | Vacuum, there: Own, now: datetime, *, dry_run: bool
) -> tuple[int | None, str]:
    """The rows of the step, and why it was skipped."""
    if step.table not in there.tables:
        return None, "skipped: no such table"
    if isinstance(step, Vacuum):
        if dry_run:
            return None, "not run"
        await connection.execute(queries.VACUUM[step.table].sql)
        return None, ""
    if isinstance(step, Sweep):
        return await _sweep(connection, step, now - step.age, dry_run=dry_run), ""
    if dry_run:
        return await connection.fetchval(step.count.sql, now - step.age), ""
    return await _delete(connection, step, now - step.age), ""


async def _delete(connection: Any, step: Delete, before: datetime) -> int:
    rows = 0
    while True:
        began = time.monotonic()
        status = await connection.execute(step.delete.sql, before, BATCH_ROWS, timeout=DELETE_TIMEOUT)
        deleted = rows_changed(status)
        rows += deleted
        if deleted < BATCH_ROWS:
            return rows
        await asyncio.sleep(PAUSES * (time.monotonic() - began))


async def _sweep(connection: Any, step: Sweep, before: datetime, *, dry_run: bool) -> int:
    names = await asyncio.to_thread(job_files.old_files, step.folder)
    kept = {row["file"] for row in await connection.fetch(job_queries.FILES.sql, names, before)}
    orphans = [name for name in names if name not in kept]
    if not dry_run:
        await asyncio.to_thread(job_files.remove, step.folder, orphans)
    return len(orphans)


async def _record(connection: Any, schema: str, failures: list[str]) -> None:
    severity = "critical" if failures else "info"
    description = "; ".join(failures) or "every step was done"
    try:
        if "audit_logs" in (await own(connection, schema, shipped())).tables:
            await connection.execute(queries.RECORD.sql, severity, description)
    except Exception as error:
        log.error("the outcome of the maintenance could not be recorded: %s", error)  # noqa: TRY400
