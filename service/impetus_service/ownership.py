"""Which tables are the service's own. A database may hold another application's under the same names: those are refused.

A table is ours when its unqualified name leads into the schema of our `schema_migration`, a migration that is recorded
there makes it, and it bears our mark: the comment that the migration runner sets in the transaction that makes the table.
pg_dump and pg_restore keep comments, and nobody else writes this one. Releases before the mark set none: where
`schema_migration` itself has none, a table counts as ours when it has exactly the columns that those releases gave it.

A record of migrations alone proves nothing about a table: ours may have been dropped, or another schema's may come first
in the search_path.
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
_LOG = (
    "id bigint not null identity, company_id bigint not null, user_id bigint, action text not null, entity text not null,"
    " entity_id text, severity text not null, description text not null, address inet, request_id text,"
    " created_at timestamp with time zone not null"
)
# What releases that set no mark have made: by the number of the migration that made the table, or changed it.
UNMARKED: Mapping[str, Mapping[int, str]] = {
    "companies": {
        1: "id bigint not null identity, name text not null, created_at timestamp with time zone not null",
        2: "id bigint not null identity, name text not null, created_at timestamp with time zone not null,"
        " updated_at timestamp with time zone not null",
    },
    "roles": {
        2: "id bigint not null identity, company_id bigint not null, name text not null, level smallint not null,"
        " created_at timestamp with time zone not null",
    },
    "users": {
        2: "id bigint not null identity, company_id bigint not null, role_id bigint not null, email text not null,"
        " name text not null, password_hash text not null, active boolean not null,"
        " created_at timestamp with time zone not null",
    },
    "sessions": {
        2: "id bigint not null identity, company_id bigint not null, user_id bigint not null, token_hash bytea not null,"
        " address inet, created_at timestamp with time zone not null, expires_at timestamp with time zone not null",
    },
    "login_attempts": {2: "key bytea not null, count integer not null, expires_at timestamp with time zone not null"},
    "communications": {
        3: "id bigint not null identity, company_id bigint not null, author_id bigint, kind text not null,"
        " subject text not null, body text not null, created_at timestamp with time zone not null",
    },
    "audit_logs": {4: _LOG},
    "data_access_logs": {4: _LOG},
    "jobs": {
        5: "id bigint not null identity, company_id bigint not null, user_id bigint, kind text not null,"
        " parameters jsonb not null, state text not null, progress smallint not null, attempt smallint not null,"
        " result jsonb, error text, file text, idempotency_key text, request_id text,"
        " created_at timestamp with time zone not null, started_at timestamp with time zone,"
        " finished_at timestamp with time zone",
    },
}

_LOOK = """
SELECT name, class.oid::bigint AS oid, namespace.nspname AS schema, class.relkind::text AS kind,
       class.relowner::bigint AS owner, coalesce(obj_description(class.oid, 'pg_class'), '') AS comment,
       (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod)
                          || CASE WHEN attnotnull THEN ' not null' ELSE '' END
                          || CASE WHEN attidentity = 'a' THEN ' identity' ELSE '' END, ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = class.oid AND attnum > 0 AND NOT attisdropped) AS columns
FROM unnest($1::text[]) AS name
JOIN pg_class AS class ON class.oid = to_regclass(name)
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
"""
_RECORDED = "SELECT number, name, sha256 FROM {schema}.schema_migration"
# pgqueuer of the job workers knows one entrypoint and no schedule.
_OTHERS_WORK = """
SELECT EXISTS (SELECT FROM {schema}.pgqueuer WHERE entrypoint <> 'job')
    OR EXISTS (SELECT FROM {schema}.pgqueuer_log WHERE entrypoint <> 'job')
    OR EXISTS (SELECT FROM {schema}.pgqueuer_schedules)
"""
_QUEUE_TRACES = "SELECT to_regtype('pgqueuer_status') IS NOT NULL OR to_regproc('fn_pgqueuer_changed') IS NOT NULL"


class MigrationError(Exception):
    """The schema cannot be brought up to date: which migration, and why."""


class ForeignTables(MigrationError):
    """Names that the service uses belong to somebody else: one sentence that names them and says what to do."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(
            f"the database of DATABASE_URL holds {', '.join(sorted(names))}, which the service's migrations did not make:"
            " nothing there was changed; give the service a database of its own and set DATABASE_URL to it"
        )


@dataclass(frozen=True)
class Own:
    """The tables of the service that a database has."""

    schema: str = ""  # where they are; empty: there are none yet
    tables: frozenset[str] = frozenset()
    unmarked: frozenset[str] = frozenset()  # those of `tables` that an older release has made
    recorded: Mapping[int, str] = field(default_factory=dict)  # migration to the SHA-256 of its text


async def own_tables(
    connection: Any, made_by: Mapping[str, int], names: Mapping[int, str], *, queue: bool = False
) -> Own:
    """What of the service's tables there is, by one look that changes nothing; with `queue` also at pgqueuer's.

    `made_by` gives the migration that makes each table, `names` the name of each migration. Raises ForeignTables.
    """
    wanted = [BOOKKEEPING, *made_by, *(QUEUE if queue else ())]
    found = {row["name"]: row for row in await connection.fetch(_LOOK, wanted)}
    book = found.pop(BOOKKEEPING, None)
    recorded = {} if book is None else await _recorded(connection, book, names)
    if not recorded:
        traces = queue and await connection.fetchval(_QUEUE_TRACES)
        strangers = [_qualified(row) for row in (book, *found.values()) if row is not None]
        if strangers or traces:
            raise ForeignTables(strangers or ["pgqueuer's types"])
        return Own()
    assert book is not None
    unmarked = set() if book["comment"].startswith(MARK) else {BOOKKEEPING}
    strangers = []
    for name, row in found.items():
        if name in QUEUE:
            continue
        if row["kind"] != "r" or row["schema"] != book["schema"] or made_by[name] not in recorded:
            strangers.append(_qualified(row))
        elif not row["comment"].startswith(MARK):
            if BOOKKEEPING in unmarked and row["columns"] == _columns_at(name, max(recorded)):
                unmarked.add(name)
            else:
                strangers.append(_qualified(row))
    if queue and not strangers:
        strangers = await _queue_strangers(connection, book, found)
    if strangers:
        raise ForeignTables(strangers)
    return Own(book["schema"], frozenset({BOOKKEEPING, *found}), frozenset(unmarked), recorded)


async def _recorded(connection: Any, book: Any, names: Mapping[int, str]) -> dict[int, str]:
    """The migrations that a `schema_migration` records; none when it is not ours, or another copy of the service's."""
    if book["kind"] != "r" or book["columns"] != _RECORD:
        return {}
    try:
        rows = await connection.fetch(_RECORDED.format(schema=_quoted(book["schema"])))
    except asyncpg.InsufficientPrivilegeError:
        raise ForeignTables([_qualified(book)]) from None
    known = [names[row["number"]] == row["name"] for row in rows if row["number"] in names]
    if not known or not all(known):
        return {}
    return {row["number"]: row["sha256"] for row in rows}


async def _queue_strangers(connection: Any, book: Any, found: Mapping[str, Any]) -> list[str]:
    """Those of pgqueuer's tables that are not our job workers'.

    Releases before the mark made them right after `jobs`, so they have a later oid (a restore makes tables by name, and
    so in the same order), and all of what is in them is our job workers'.
    """
    there = [found[name] for name in QUEUE if name in found]
    if not there:
        return ["pgqueuer's types"] if await connection.fetchval(_QUEUE_TRACES) else []
    if all(row["schema"] == book["schema"] and row["comment"].startswith(MARK) for row in there):
        return []
    jobs = found.get("jobs")
    plausible = (
        jobs is not None
        and len(there) == len(QUEUE)
        and all(
            row["kind"] == "r"
            and (row["schema"], row["owner"]) == (jobs["schema"], jobs["owner"])
            and row["oid"] > jobs["oid"]
            for row in there
        )
    )
    if plausible and not await connection.fetchval(_OTHERS_WORK.format(schema=_quoted(book["schema"]))):
        return []
    return [_qualified(row) for row in there]


async def mark(connection: Any, schema: str, tables: Iterable[str], what: str) -> None:
    """Set the mark on tables of the service; `what` has made them."""
    text = (MARK + what).replace("'", "''")
    for table in tables:
        await connection.execute(f"COMMENT ON TABLE {_quoted(schema)}.{_quoted(table)} IS '{text}'")


def _columns_at(table: str, level: int) -> str | None:
    """What `table` had for columns once the migrations up to `level` were applied by a release without the mark."""
    known = UNMARKED.get(table, {})
    return known[max(numbers)] if (numbers := [number for number in known if number <= level]) else None


def _qualified(row: Any) -> str:
    return f"{row['schema']}.{row['name']}"


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
