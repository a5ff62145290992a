"""The texts of `impetusd-service slow-queries` and `impetusd-service db`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import asyncpg

from impetus_service.kit.migrate import own
from impetus_service.queries import database as queries
from impetus_service.schema import shipped

CONNECT_TIMEOUT = 10.0  # seconds
LONGEST_QUERY = 4000  # characters of a statement that are shown
SWITCH_ON = """\
pg_stat_statements, which records the duration of statements, is not enabled. As the server's superuser:
    ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements';
then restart the server, and in this database:
    CREATE EXTENSION IF NOT EXISTS pg_stat_statements;"""


class NotRecorded(Exception):
    """pg_stat_statements is missing: the text says how to switch it on."""


async def slow_queries(url: str, limit: int) -> list[str]:
    """Lines: the statements that take longest, on average, first. Raises NotRecorded."""
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT)
    try:
        rows = await connection.fetch(queries.SLOW.sql, limit)
    except (asyncpg.UndefinedTableError, asyncpg.ObjectNotInPrerequisiteStateError) as error:
        raise NotRecorded(SWITCH_ON) from error
    finally:
        connection.terminate()
    lines = [f"{'MEAN':>10}  {'TOTAL':>10}  {'CALLS':>9}  {'ROWS':>9}  QUERY"]
    for row in rows:
        text = " ".join(row["query"].split())[:LONGEST_QUERY]
        numbers = f"{_ms(row['mean_exec_time'])}  {_ms(row['total_exec_time'])}  {row['calls']:>9}  {row['rows']:>9}"
        lines.append(f"{numbers}  {text}")
    return lines


async def database(url: str, schema: str) -> list[str]:
    """Lines: size and connections, each table of `schema`, the indexes that nothing has used, and the last maintenance.

    Raises ForeignTables.
    """
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT, server_settings={"search_path": schema})
    try:
        there = await own(connection, schema, shipped())
        about = await connection.fetchrow(queries.ABOUT.sql)
        tables = await connection.fetch(queries.TABLES.sql)
        unused = await connection.fetch(queries.UNUSED_INDEXES.sql)
        since = await connection.fetchval(queries.STATISTICS_SINCE.sql)
        now = await connection.fetchval(queries.NOW.sql)
        last = None
        if "audit_logs" in there.tables:
            last = await connection.fetchrow(queries.LAST_MAINTENANCE.sql)
    finally:
        connection.terminate()
    return [*_about(about, last, now), "", *_tables(tables, now), "", *_unused(unused, since)]


def _about(about: Any, last: Any, now: datetime) -> Iterator[str]:
    yield f"{about['name']} on PostgreSQL {about['server'].split()[0]}: {_size(about['bytes'])}"
    share = about["connections"] / about["limit"]
    warning = "  (nearly all: see DB_POOL_MAX)" if share > 0.8 else ""
    yield f"connections: {about['connections']} of {about['limit']}, {about['active']} of them active here{warning}"
    if last is None:
        yield "last maintenance: never"
    else:
        how = "FAILED: " + last["description"] if last["severity"] == "critical" else "well"
        yield f"last maintenance: {_ago(last['created_at'], now)}, {how}"


def _tables(tables: list[Any], now: datetime) -> Iterator[str]:
    yield f"{'TABLE':<26}  {'SIZE':>9}  {'ROWS':>10}  {'DEAD':>9}  VACUUMED"
    for table in tables:
        size, live, dead = _size(table["bytes"]), table["live"], table["dead"]
        yield f"{table['name']:<26}  {size:>9}  {live:>10}  {dead:>9}  {_ago(table['vacuumed'], now)}"


def _unused(unused: list[Any], since: datetime | None) -> Iterator[str]:
    when = f" since {since:%Y-%m-%d}" if since is not None else ""
    if not unused:
        yield f"no unused indexes of 1 MB or more{when}"
        return
    yield f"indexes not used{when} on this server:"
    for index in unused:
        yield f"    {index['name']:<32}  {_size(index['bytes']):>9}  on {index['table']}"


def _ago(when: datetime | None, now: datetime) -> str:
    if when is None:
        return "never"
    seconds = (now - when.astimezone(UTC)).total_seconds()
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{max(0, seconds):.0f} s ago"


def _ms(value: float) -> str:
    return f"{value:>7.1f} ms"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
