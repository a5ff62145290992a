"""Moves what a release without a schema of its own has made into one, while workers of that release go on serving.

A table leaves a view behind, under its old name, which takes every statement of that release: reads, inserts with defaults,
ON CONFLICT, row locks. (Not the maintenance's, which names rows by ctid: it fails there, and deletes nothing.) The views go
with the next release. pgqueuer's tables stay where they are, in use by job workers of both releases, but where the new
schema is what the old search_path leads to first: there they move as well, since pgqueuer looks nowhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from impetus_service.kit.ownership import MARK, QUEUE, ForeignTables, MigrationError, Own, mark, quoted

log = logging.getLogger("impetus.db")


async def move_older(connection: Any, schema: str, former_path: str, look: Callable[..., Awaitable[Own]]) -> None:
    """Move the tables that `former_path` leads to into `schema`, in the transaction that is open.

    `look` gives the service's tables of a schema, with `queue=True` those of the queue, too. Raises ForeignTables when some
    of them are somebody else's, and MigrationError when they cannot be moved.
    """
    await connection.execute("SELECT set_config('search_path', $1, true)", former_path)
    former = await connection.fetchval(
        "SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
        " WHERE pg_class.oid = to_regclass('schema_migration')"
        " AND NOT starts_with(coalesce(obj_description(relnamespace, 'pg_namespace'), ''), $1)",
        MARK,
    )
    if former is None or former == schema:
        return
    try:
        older = await look(former)
    except ForeignTables as foreign:
        if foreign.recorded:
            raise
        return  # another application's, beside which there is room
    with suppress(ForeignTables):  # raised for another application's queue, which stays
        older = await look(former, queue=True)
    try:
        await _move(connection, older, schema)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"the service's tables cannot be moved from {former} to {schema}: {error}") from error
    log.info("moved the service's tables from the schema %s to %s; views are left there", former, schema)


async def _move(connection: Any, older: Own, schema: str) -> None:
    old, new = quoted(older.schema), quoted(schema)
    for table in sorted(older.tables.difference(QUEUE)):
        await connection.execute(f"ALTER TABLE {old}.{quoted(table)} SET SCHEMA {new}")
        await connection.execute(f"CREATE VIEW {old}.{quoted(table)} AS TABLE {new}.{quoted(table)}")
    if older.queue_schema and await connection.fetchval("SELECT current_schema()") == schema:
        for table in QUEUE:
            await connection.execute(f"ALTER TABLE {quoted(older.queue_schema)}.{table} SET SCHEMA {new}")
        await connection.execute(f"ALTER TYPE {quoted(older.queue_schema)}.pgqueuer_status SET SCHEMA {new}")
        await connection.execute(f"ALTER FUNCTION {quoted(older.queue_schema)}.fn_pgqueuer_changed SET SCHEMA {new}")
    elif older.queue_schema:
        await mark(connection, older.queue_schema, QUEUE, "the queue of its job workers")
