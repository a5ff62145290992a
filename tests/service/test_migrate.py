"""Migrations against a real server: once each, whole or not at all."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from server import run
from test_maintenance import command

from impetus_service.kit.migrate import Migration, MigrationError, migrate
from impetus_service.schema import shipped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SLOW = Migration(1, "slow", "CREATE TABLE one (n int); SELECT pg_sleep(0.1)")
SECOND = Migration(2, "second", "CREATE TABLE two (n int)")
BROKEN = Migration(3, "broken", "CREATE TABLE three (n int); SELECT 1 / 0")


@asynccontextmanager
async def connections(server: Any, count: int = 1) -> AsyncIterator[list[Any]]:
    """Connections to a schema of their own."""
    schema = f"test_{uuid4().hex}"
    opened = []
    try:
        for _ in range(count):
            opened.append(await asyncpg.connect(server.url, server_settings={"search_path": schema}))
            await opened[0].execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        yield opened
    finally:
        await opened[0].execute(f"DROP SCHEMA {schema} CASCADE")
        for connection in opened:
            await connection.close()


async def schema_of(connection: Any) -> str:
    schema: str = await connection.fetchval("SELECT current_schema()")
    return schema


async def tables(connection: Any) -> set[str]:
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    return {row["tablename"] for row in rows}


def test_four_at_once_apply_each_exactly_once(shared_postgres):
    async def main() -> None:
        async with connections(shared_postgres, 4) as four:
            schema = await schema_of(four[0])
            done = await asyncio.gather(*(migrate(connection, [SLOW, SECOND], schema) for connection in four))
            assert sorted(migration.number for applied in done for migration in applied) == [1, 2]
            assert await tables(four[0]) == {"schema_migration", "one", "two"}

    run(main())


def test_one_that_fails_leaves_nothing_of_itself_and_all_before_it(shared_postgres):
    async def main() -> None:
        async with connections(shared_postgres) as (connection,):
            with pytest.raises(MigrationError, match="migration 0003 broken failed: division by zero"):
                await migrate(connection, [SLOW, SECOND, BROKEN], await schema_of(connection))
            assert await tables(connection) == {"schema_migration", "one", "two"}
            mended = Migration(3, "broken", "CREATE TABLE three (n int)")
            assert await migrate(connection, [SLOW, SECOND, mended], await schema_of(connection)) == [mended]

    run(main())


def test_one_that_was_edited_after_it_had_been_applied_is_told(shared_postgres):
    async def main() -> None:
        async with connections(shared_postgres) as (connection,):
            await migrate(connection, [SECOND], await schema_of(connection))
            edited = Migration(2, "second", "CREATE TABLE two (n bigint)")
            with pytest.raises(MigrationError, match="0002 second was changed after it had been applied"):
                await migrate(connection, [edited], await schema_of(connection))

    run(main())


def test_one_that_waits_for_a_lock_gives_up_and_leaves_nothing(shared_postgres, monkeypatch):
    monkeypatch.setattr("impetus_service.kit.migrate.LOCK_TIMEOUT_MS", 50)

    async def main() -> None:
        async with connections(shared_postgres, 2) as (holder, connection):
            schema = await schema_of(connection)
            await migrate(connection, [SLOW, SECOND], schema)
            changes = Migration(3, "changes", "ALTER TABLE one ADD COLUMN m int; ALTER TABLE two ADD COLUMN m int")
            async with holder.transaction():
                await holder.execute("LOCK TABLE two IN ACCESS SHARE MODE")
                with pytest.raises(MigrationError, match=r"migration 0003 changes failed: .* lock timeout"):
                    await migrate(connection, [SLOW, SECOND, changes], schema)
                await holder.execute("INSERT INTO one (n) VALUES (1)")  # nobody waits behind it any more
            assert await migrate(connection, [SLOW, SECOND, changes], schema) == [changes]

    run(main())


def test_a_connection_that_ends_is_no_fault_of_the_migration(shared_postgres):
    suicide = Migration(1, "suicide", "SELECT pg_terminate_backend(pg_backend_pid())")

    async def main() -> None:
        async with connections(shared_postgres, 2) as (_, connection):
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as failure:
                await migrate(connection, [suicide], await schema_of(connection))
            assert not isinstance(failure.value, MigrationError)

    run(main())


def test_the_shipped_ones_are_numbered_without_a_gap_and_apply(shared_postgres):
    assert [migration.number for migration in shipped()] == list(range(1, len(shipped()) + 1))

    async def main() -> None:
        async with connections(shared_postgres) as (connection,):
            assert await migrate(connection, shipped(), await schema_of(connection)) == shipped()
            assert await migrate(connection, shipped(), await schema_of(connection)) == []
            assert "companies" in await tables(connection)

    run(main())


def test_by_hand_before_a_reload(shared_postgres):
    name = f"by_hand_{uuid4().hex}"
    done = command(shared_postgres.url, "migrate", DB_SCHEMA=name)
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"applied {each}" for each in shipped()])
    done = command(shared_postgres.url, "migrate", DB_SCHEMA=name)
    assert (done.returncode, done.stdout) == (0, f"the schema {name} is up to date\n")


def test_a_server_that_is_too_old_is_told(shared_postgres, monkeypatch):
    monkeypatch.setattr("impetus_service.kit.migrate.OLDEST_MAJOR", 99)

    async def main() -> None:
        connection = await asyncpg.connect(shared_postgres.url)
        try:
            with pytest.raises(MigrationError, match=r"DATABASE_URL is PostgreSQL \d\d, but 99 or newer"):
                await migrate(connection, shipped(), "impetus")
        finally:
            await connection.close()

    run(main())
