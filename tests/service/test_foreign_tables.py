"""In a database that has another application's tables under our names, nothing of the service reads or changes one."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from conftest import run
from pgqueuer.queries import Queries
from served import PASSWORD, PoolServer
from test_maintenance import command
from waiting import until

from impetus_service import logs
from impetus_service.administrators import create_administrator
from impetus_service.app import create_app
from impetus_service.database_report import database as report
from impetus_service.db import Database, Unavailable
from impetus_service.job_worker import Worker
from impetus_service.maintenance import maintain
from impetus_service.migrate import migrate, own, shipped
from impetus_service.ownership import _LOOK, QUEUE, UNMARKED, ForeignTables
from impetus_service.settings import Settings

OTHER_APPLICATION = """
CREATE TABLE audit_logs (id serial PRIMARY KEY, who text, what text, created_at timestamptz NOT NULL);
INSERT INTO audit_logs (who, what, created_at)
    SELECT 'x', 'y', now() - n * interval '1 day' FROM generate_series(1, 200) n;
CREATE TABLE sessions (sid text PRIMARY KEY, data jsonb, expires_at timestamptz NOT NULL);
INSERT INTO sessions SELECT n, '{}', now() + (n - 180) * interval '1 hour' FROM generate_series(1, 200) n;
"""
SAME_RECORD = """
CREATE TABLE schema_migration (
    number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()
);
"""
SAME_LOG = """
CREATE TABLE audit_logs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, company_id bigint NOT NULL, user_id bigint, action text NOT NULL,
    entity text NOT NULL, entity_id text, severity text NOT NULL, description text NOT NULL, address inet,
    request_id text, created_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO audit_logs (company_id, action, entity, severity, description, created_at)
    SELECT 1, 'a', 'b', 'info', 'c', now() - interval '1 year' FROM generate_series(1, 50);
"""
UNMARK = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
    LOOP EXECUTE format('COMMENT ON TABLE %s IS NULL', name); END LOOP;
END $$;
"""
PATH_WITH_A_STRANGER = """
CREATE SCHEMA other;
CREATE TABLE other.sessions (sid text, expires_at timestamptz);
INSERT INTO other.sessions SELECT n, now() - interval '1 day' FROM generate_series(1, 10) n;
"""

# What is there, what of it is named, and the search_path. Those without our schema begin with an empty database.
EMPTY = {
    "another application": (OTHER_APPLICATION, "public.audit_logs, public.sessions", ""),
    "one of our names": ("CREATE TABLE login_attempts (key text, expires_at timestamptz)", "public.login_attempts", ""),
    "a view": ("CREATE VIEW jobs AS SELECT now() AS finished_at", "public.jobs", ""),
    "an index": ("CREATE TABLE t (n int); CREATE INDEX roles ON t (n)", "public.roles", ""),
    "another tool's record": (
        f"CREATE TABLE schema_migration (version text); {OTHER_APPLICATION}",
        "public.audit_logs, public.schema_migration, public.sessions",
        "",
    ),
    "another copy of the service": (
        f"{SAME_RECORD} INSERT INTO schema_migration VALUES (1, 'shops', 'x'), (4, 'logs', 'y'); {SAME_LOG}",
        "public.audit_logs, public.schema_migration",
        "",
    ),
    "an empty record": (SAME_RECORD + SAME_LOG, "public.audit_logs, public.schema_migration", ""),
    "names in a later schema": (
        f"CREATE SCHEMA mine; {OTHER_APPLICATION}", "public.audit_logs, public.sessions", "mine,public"
    ),
}  # fmt: skip
OURS = {
    "ours was replaced": (f"DROP TABLE audit_logs, sessions; {OTHER_APPLICATION}", "public.audit_logs, public.sessions", ""),
    "ours was replaced by its like": (f"DROP TABLE audit_logs; {SAME_LOG}", "public.audit_logs", ""),
    "ours of an older release was replaced": (
        f"DROP TABLE audit_logs, sessions; {OTHER_APPLICATION} {UNMARK}", "public.audit_logs, public.sessions", ""
    ),
    "a view took its place": (
        "DROP TABLE sessions; CREATE VIEW sessions AS SELECT now() AS expires_at", "public.sessions", ""
    ),
    "another schema comes first": (PATH_WITH_A_STRANGER, "other.sessions", "other,public"),
    "tables of migrations that are not recorded": (
        "DELETE FROM schema_migration WHERE number > 3", "public.audit_logs, public.data_access_logs, public.jobs", ""
    ),
}  # fmt: skip


@pytest.fixture
def empty_database(shared_postgres, _template) -> str:
    name = f"test_{secrets.token_hex(6)}"

    async def make() -> None:
        connection = await asyncpg.connect(_template)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 OWNER impetus")
        await connection.close()

    run(make())
    return shared_postgres.url.replace("/impetus?", f"/{name}?")


@pytest.fixture
def dump(shared_postgres):
    """A function that gives all that a database holds, by the pg_dump of its server."""
    pg_dump = Path(os.readlink(f"/proc/{shared_postgres.process.pid}/exe")).parent / "pg_dump"

    def dumped(url: str, *options: str) -> str:
        as_superuser = re.sub(r"&search_path=\S+", "", url).replace("user=impetus", "user=postgres")
        done = subprocess.run([pg_dump, *options, as_superuser], capture_output=True, text=True, check=True)
        # \restrict is followed by a random word.
        return "\n".join(
            line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))
        )

    return dumped


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def execute(url: str, sql: str, user: str = "impetus") -> None:
    async with connected(url.replace("user=impetus", f"user={user}")) as connection:
        await connection.execute(sql)


async def web_refuses(url: str, sentence: str) -> None:
    os.environ["DATABASE_URL"] = url
    try:
        async with TestClient(PoolServer(create_app())) as client:
            for path in ("/health/ready", "/api/communications"):

                async def told(path: str = path) -> bool:
                    headers = {"Authorization": "Bearer x"}
                    async with client.get(path, headers=headers) as response:
                        return response.status == 503 and sentence in await response.text()

                await until(told)
    finally:
        logs.stop()
        del os.environ["DATABASE_URL"]


async def everything_refuses(url: str, names: str, *, web: bool = True) -> None:
    """Each command and each start says the one sentence."""
    sentence = f"holds {names}, which the service's migrations did not make: nothing there was changed; give"
    settings = Settings(url)
    for dry_run in (True, False):
        with pytest.raises(ForeignTables, match=re.escape(sentence)):
            _ = [outcome async for outcome in maintain(settings, dry_run=dry_run)]
    with pytest.raises(ForeignTables, match=re.escape(sentence)):
        await Worker(settings).run()
    if not web:
        return
    with pytest.raises(ForeignTables, match=re.escape(sentence)):
        await report(url)
    database = Database(settings)
    await database.start()
    with pytest.raises(Unavailable, match=re.escape(sentence)):
        await create_administrator(database, "ACME", "ada@example.com", "Ada", PASSWORD)
    await database.stop()
    await web_refuses(url, sentence)


@pytest.mark.parametrize("case", EMPTY)
def test_tables_of_another_application_are_left_alone(empty_database, dump, case):
    sql, names, path = EMPTY[case]
    run(execute(empty_database, sql))
    before = dump(empty_database)
    run(everything_refuses(empty_database + (path and f"&search_path={path}"), names))
    assert dump(empty_database) == before


@pytest.mark.parametrize("case", OURS)
def test_a_record_of_our_migrations_does_not_make_a_table_ours(database, dump, case):
    sql, names, path = OURS[case]
    run(execute(database, sql))
    before = dump(database)
    run(everything_refuses(database + (path and f"&search_path={path}"), names))
    assert dump(database) == before


def test_the_tables_of_another_role_are_left_alone(database, dump):
    """A shared database where somebody else runs the service, too, and we may only look at names."""
    name = f"guest_{secrets.token_hex(4)}"
    sql = f"CREATE ROLE {name}; GRANT USAGE, CREATE ON SCHEMA public TO {name}; GRANT {name} TO impetus;"
    run(execute(database, sql, "postgres"))
    before = dump(database)
    run(everything_refuses(f"{database}&role={name}", "public.schema_migration"))
    assert dump(database) == before


def test_each_command_ends_with_the_sentence(empty_database, dump):
    run(execute(empty_database, OTHER_APPLICATION))
    before = dump(empty_database)
    admin = ("create-admin", "--company", "A", "--email", "a@b.example", "--name", "A", "--password-stdin")
    for arguments in (("maintenance",), ("maintenance", "--dry-run"), ("db",), ("jobs",), admin):
        done = command(empty_database, *arguments, feed=f"{PASSWORD}\n")
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert "holds public.audit_logs, public.sessions, which" in done.stderr
        assert len(done.stderr.splitlines()) == (2 if arguments == ("jobs",) else 1), done.stderr
        assert "Traceback" not in done.stderr
    assert dump(empty_database) == before


QUEUES = {
    "in use": "INSERT INTO pgqueuer (priority, status, entrypoint) VALUES (0, 'queued', 'mail')",
    "used once": "INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint) VALUES (1, 'successful', 0, 'mail')",
    "lacks a table": "DROP TABLE pgqueuer_schedules",
    "lacks all tables": f"DROP TABLE {', '.join(QUEUE)}",
}


@pytest.mark.parametrize("case", QUEUES)
def test_another_applications_queue_is_left_alone(database, dump, case):
    async def main() -> None:
        async with connected(database) as connection:
            await Queries.from_asyncpg_connection(connection).install()
            await connection.execute(QUEUES[case])
            left = [name for name in sorted(QUEUE) if await connection.fetchval("SELECT to_regclass($1)", name)]
        before = dump(database)
        names = ", ".join(f"public.{name}" for name in left) or "pgqueuer's types"
        await everything_refuses(database, names, web=False)
        assert dump(database) == before

    run(main())


def test_a_queue_that_was_there_before_us_is_left_alone(empty_database, dump):
    async def main() -> None:
        async with connected(empty_database) as connection:
            await Queries.from_asyncpg_connection(connection).install()
            await migrate(connection, shipped())
        before = dump(empty_database)
        await everything_refuses(empty_database, ", ".join(f"public.{name}" for name in QUEUE), web=False)
        assert dump(empty_database) == before

    run(main())


def test_other_names_beside_ours_are_nobodys_business(empty_database, dump):
    """Also a record of migrations under another name, as Rails keeps it."""
    theirs = ("--table=schema_migrations", "--table=log")
    foreign = "CREATE TABLE schema_migrations (version text); INSERT INTO schema_migrations VALUES ('2026'); CREATE TABLE log ()"

    async def main() -> None:
        async with connected(empty_database) as connection:
            await connection.execute(foreign)
            before = dump(empty_database, *theirs)
            await migrate(connection, shipped())
            assert all([not outcome.failed async for outcome in maintain(Settings(empty_database))])
            assert dump(empty_database, *theirs) == before

    run(main())


async def marks(connection: Any) -> dict[str, str]:
    rows = await connection.fetch(
        "SELECT relname, obj_description(oid, 'pg_class') AS text FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return {row["relname"]: row["text"] for row in rows if row["text"]}


def test_an_installation_of_an_older_release_is_known_by_its_record_and_its_columns(database):
    """Also its queue, whether it was used or not: and after the first start everything is marked."""

    async def main() -> None:
        async with connected(database) as connection:
            every = {*await marks(connection), *QUEUE}
            await Queries.from_asyncpg_connection(connection).install()
            await connection.execute(UNMARK)
            assert await marks(connection) == {}
            done = [outcome async for outcome in maintain(Settings(database))]
            assert not any(outcome.failed or outcome.note for outcome in done)
            assert await migrate(connection, shipped()) == []
            worker = Worker(Settings(database))
            running = asyncio.create_task(worker.run())
            await until(lambda: worker._manager)
            worker.stop()
            await running
            assert set(await marks(connection)) == every
            assert (await own(connection, queue=True)).unmarked == frozenset()

    run(main())


def test_every_level_of_the_releases_without_a_mark_is_known(empty_database):
    async def main() -> None:
        async with connected(empty_database) as connection:
            for level in range(1, 6):
                await migrate(connection, shipped()[:level])
                await connection.execute(UNMARK)
                known = {
                    name: [columns for number, columns in sorted(levels.items()) if number <= level][-1]
                    for name, levels in UNMARKED.items()
                    if min(levels) <= level
                }
                assert {row["name"]: row["columns"] for row in await connection.fetch(_LOOK, list(UNMARKED))} == known
                assert (await own(connection)).unmarked == {"schema_migration", *known}

    run(main())


def test_a_role_that_does_not_own_the_tables_leaves_them_unmarked(database):
    async def main() -> None:
        async with connected(database) as connection:
            await connection.execute(UNMARK)
            name = f"user_{secrets.token_hex(4)}"
            await execute(
                database,
                f"CREATE ROLE {name}; GRANT {name} TO impetus; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
                "postgres",
            )
            await connection.execute(f"SET ROLE {name}")
            assert await migrate(connection, shipped()) == []
            assert await marks(connection) == {}

    run(main())


def test_a_schema_that_comes_to_stand_first_changes_nothing(database):
    """New tables are made where ours are."""

    async def main() -> None:
        await execute(database, "CREATE SCHEMA first")
        async with connected(f"{database}&search_path=first,public") as connection:
            await connection.execute("DROP TABLE jobs; DELETE FROM schema_migration WHERE number = 5")
            assert [each.number for each in await migrate(connection, shipped())] == [5]
            worker = Worker(Settings(f"{database}&search_path=first,public"))
            running = asyncio.create_task(worker.run())
            await until(lambda: worker._manager)
            worker.stop()
            with suppress(ConnectionError):
                await running
            there = await connection.fetch("SELECT relname FROM pg_class WHERE relnamespace = 'first'::regnamespace")
            assert there == []
            assert (await own(connection, queue=True)).tables >= set(QUEUE)

    run(main())
