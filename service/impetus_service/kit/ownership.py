"""Which tables are the service's own. A database may hold another application's under the same names: those are refused.

The service works in one schema, DB_SCHEMA. A table there is ours when a migration that our `schema_migration` records makes
it, and it bears our mark: the comment that the migration runner sets in the transaction that makes the table. pg_dump and
pg_restore keep comments, and nobody else writes this one. Releases before the mark set none: where `schema_migration`
itself has none, a table counts as ours when it has exactly the columns that those releases gave it.

A record of migrations alone proves nothing about a table: ours may have been dropped, and another made under its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg

BOOKKEEPING = "schema_migration"
QUEUE = (
    "pgqueuer",
    "pgqueuer_log",
    "pgqueuer_schedules",
    "pgqueuer_statistics",
)  # made by pgqueuer for the job workers
MARK = "Impetus service: "  # how the comment of a table of ours begins

_RECORD = (
    "number integer not null, name text not null, sha256 text not null, applied_at timestamp with time zone not null"
)
_LOOK = """
SELECT name, class.oid::bigint AS oid, namespace.nspname AS schema, class.relkind::text AS kind,
       class.relowner::bigint AS owner, coalesce(obj_description(class.oid, 'pg_class'), '') AS comment,
       (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod)
                          || CASE WHEN attnotnull THEN ' not null' ELSE '' END
                          || CASE WHEN attidentity = 'a' THEN ' identity' ELSE '' END, ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = class.oid AND attnum > 0 AND NOT attisdropped) AS columns
FROM unnest($1::text[]) AS name
JOIN pg_class AS class ON class.oid = coalesce(
    to_regclass(quote_ident($2) || '.' || name), CASE WHEN name = ANY ($3::text[]) THEN to_regclass(name) END
)
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
"""
_RECORDED = "SELECT number, name, sha256 FROM {schema}.schema_migration"
# pgqueuer of the job workers knows one entrypoint and no schedule.
_OTHERS_WORK = """
SELECT EXISTS (SELECT FROM {schema}.pgqueuer WHERE entrypoint <> 'job')
    OR EXISTS (SELECT FROM {schema}.pgqueuer_log WHERE entrypoint <> 'job')
    OR EXISTS (SELECT FROM {schema}.pgqueuer_schedules)
"""
_QUEUE_TRACES = """
SELECT to_regtype(quote_ident($1) || '.pgqueuer_status') IS NOT NULL
    OR to_regproc(quote_ident($1) || '.fn_pgqueuer_changed') IS NOT NULL
"""


class MigrationError(Exception):
    """The schema cannot be brought up to date: which migration, and why."""


class ForeignTables(MigrationError):
    """Names that the service uses belong to somebody else: one sentence that names them and says what to do.

    `recorded`: our migrations are recorded beside them.
    """

    def __init__(self, names: Iterable[str], *, recorded: bool) -> None:
        super().__init__(
            f"the database of DATABASE_URL holds {', '.join(sorted(names))}, which were not created by the service's"
            " migrations; nothing was changed; give the service a schema (DB_SCHEMA) or a database (DATABASE_URL) of"
            " its own"
        )
        self.recorded = recorded


@dataclass(frozen=True)
class Own:
    """The tables of the service that a database has."""

    schema: str  # where they are
    tables: frozenset[str] = frozenset()
    unmarked: frozenset[str] = frozenset()  # those of `tables` that an older release has made
    recorded: Mapping[int, str] = field(default_factory=dict)  # migration to the SHA-256 of its text
    queue_schema: str = ""  # where pgqueuer's tables are; empty: nowhere, or not looked at


async def own_tables(
    connection: Any,
    schema: str,
    made_by: Mapping[str, int],
    names: Mapping[int, str],
    unmarked_forms: Mapping[str, Mapping[int, str]],
    *,
    queue: bool = False,
) -> Own:
    """What of the service's tables there is in `schema`, by one look that changes nothing.

    `made_by` gives the migration that makes each table, `names` the name of each migration, `unmarked_forms` the columns that
    releases without the mark gave a table, by the number of the migration. With `queue` pgqueuer's tables
    are looked for, too: there, or where the search_path leads to, for what has made them there may use them still. Raises
    ForeignTables.
    """
    wanted = [BOOKKEEPING, *made_by, *(QUEUE if queue else ())]
    found = {row["name"]: row for row in await connection.fetch(_LOOK, wanted, schema, QUEUE)}
    book = found.pop(BOOKKEEPING, None)
    recorded = {} if book is None else await _recorded(connection, book, names)
    queued = [found.pop(name) for name in QUEUE if name in found]
    if not recorded:
        strangers = [_qualified(row) for row in (book, *found.values(), *queued) if row is not None]
        strangers = [name for name in strangers if name.startswith(f"{schema}.")]
        if strangers:
            raise ForeignTables(strangers, recorded=False)
        return Own(schema)
    assert book is not None
    unmarked = set() if book["comment"].startswith(MARK) else {BOOKKEEPING}
    strangers = []
    for name, row in found.items():
        if row["kind"] != "r" or made_by[name] not in recorded:
            strangers.append(_qualified(row))
        elif not row["comment"].startswith(MARK):
            if BOOKKEEPING in unmarked and row["columns"] == _columns_at(unmarked_forms.get(name, {}), max(recorded)):
                unmarked.add(name)
            else:
                strangers.append(_qualified(row))
    queue_schema = ""
    if queue:
        if await _is_our_queue(connection, queued, found.get("jobs")):
            queue_schema = queued[0]["schema"]
        else:
            strangers += [_qualified(row) for row in queued if row["schema"] == schema]
            if not strangers and await connection.fetchval(_QUEUE_TRACES, schema):
                strangers.append(f"{schema}.pgqueuer_status")
    if strangers:
        raise ForeignTables(strangers, recorded=True)
    tables = {BOOKKEEPING, *found, *(row["name"] for row in queued if queue_schema)}
    return Own(schema, frozenset(tables), frozenset(unmarked), recorded, queue_schema)


async def _recorded(connection: Any, book: Any, names: Mapping[int, str]) -> dict[int, str]:
    """The migrations that a `schema_migration` records; none when it is not ours, or another copy of the service's."""
    if book["kind"] != "r" or book["columns"] != _RECORD:
        return {}
    try:
        rows = await connection.fetch(_RECORDED.format(schema=quoted(book["schema"])))
    except asyncpg.InsufficientPrivilegeError:
        raise ForeignTables([_qualified(book)], recorded=False) from None
    known = [names[row["number"]] == row["name"] for row in rows if row["number"] in names]
    if not known or not all(known):
        return {}
    return {row["number"]: row["sha256"] for row in rows}


async def _is_our_queue(connection: Any, queued: list[Any], jobs: Any) -> bool:
    """Whether pgqueuer's tables are our job workers'.

    Releases before the mark made them after `jobs`, so they have a later oid (a restore makes tables by name, and so in
    the same order), and all of what is in them is our job workers'.
    """
    if not queued or jobs is None or len({row["schema"] for row in queued}) > 1:
        return False
    if all(row["comment"].startswith(MARK) for row in queued):
        return True
    plausible = len(queued) == len(QUEUE) and all(
        row["kind"] == "r" and row["owner"] == jobs["owner"] and row["oid"] > jobs["oid"] for row in queued
    )
    return plausible and not await connection.fetchval(_OTHERS_WORK.format(schema=quoted(queued[0]["schema"])))


async def mark(connection: Any, schema: str, tables: Iterable[str], what: str) -> None:
    """Set the mark on tables of the service; `what` has made them."""
    text = (MARK + what).replace("'", "''")
    for table in tables:
        await connection.execute(f"COMMENT ON TABLE {quoted(schema)}.{quoted(table)} IS '{text}'")


def _columns_at(known: Mapping[int, str], level: int) -> str | None:
    """What a table had for columns once the migrations up to `level` were applied by a release without the mark."""
    return known[max(numbers)] if (numbers := [number for number in known if number <= level]) else None


def _qualified(row: Any) -> str:
    return f"{row['schema']}.{row['name']}"


def quoted(name: str) -> str:
    """An identifier as SQL writes it."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
