"""In a database that has another application's tables under our names, nothing of the service reads or changes one."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient
from pgqueuer.queries import Queries
from served import PASSWORD, PoolServer, served
from server import run
from test_maintenance import command
from waiting import until

from impetus_service.administrators import create_administrator
from impetus_service.app import create_app
from impetus_service.database_report import database as report
from impetus_service.job_kinds import KINDS
from impetus_service.kit import logs
from impetus_service.kit.db import Database, Unavailable
from impetus_service.kit.job_worker import Worker
from impetus_service.kit.migrate import migrate, own
from impetus_service.kit.ownership import _LOOK, QUEUE, ForeignTables
from impetus_service.maintenance import maintain
from impetus_service.schema import UNMARKED, shipped
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
# Of what releases without a mark have made; the tables after that always had theirs.
UNMARK = """
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT oid::regclass::text FROM pg_class
    WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace AND relname <> 'idempotency_keys'
    LOOP EXECUTE format('COMMENT ON TABLE %s IS NULL', name); END LOOP;
END $$;
"""
# What is there in the schema public, and what of it is named.
EMPTY = {
    "another application": (OTHER_APPLICATION, "public.audit_logs, public.sessions"),
    "one of our names": ("CREATE TABLE login_attempts (key text, expires_at timestamptz)", "public.login_attempts"),
    "a view": ("CREATE VIEW jobs AS SELECT now() AS finished_at", "public.jobs"),
    "an index": ("CREATE TABLE t (n int); CREATE INDEX roles ON t (n)", "public.roles"),
    "another tool's record": (
        f"CREATE TABLE schema_migration (version text); {OTHER_APPLICATION}",
        "public.audit_logs, public.schema_migration, public.sessions",
    ),
    "another copy of the service": (
        f"{SAME_RECORD} INSERT INTO schema_migration VALUES (1, 'shops', 'x'), (4, 'logs', 'y'); {SAME_LOG}",
        "public.audit_logs, public.schema_migration",
    ),
    "an empty record": (SAME_RECORD + SAME_LOG, "public.audit_logs, public.schema_migration"),
}
# What happens in our schema.
OURS = {
    "ours was replaced": (f"DROP TABLE audit_logs, sessions; {OTHER_APPLICATION}", "impetus.audit_logs, impetus.sessions"),
    "ours was replaced by its like": (f"DROP TABLE audit_logs; {SAME_LOG}", "impetus.audit_logs"),
    "ours of an older release was replaced": (
        f"DROP TABLE audit_logs, sessions; {OTHER_APPLICATION} {UNMARK}", "impetus.audit_logs, impetus.sessions"
    ),
    "a view took its place": (
        "DROP TABLE sessions; CREATE VIEW sessions AS SELECT now() AS expires_at", "impetus.sessions"
    ),
    "tables of migrations that are not recorded": (
        "DELETE FROM schema_migration WHERE number > 3",
        "impetus.audit_logs, impetus.data_access_logs, impetus.idempotency_keys, impetus.jobs",
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


async def web_refuses(url: str, schema: str, sentence: str) -> None:
    os.environ.update(DATABASE_URL=url, DB_SCHEMA=schema)
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
        del os.environ["DATABASE_URL"], os.environ["DB_SCHEMA"]


async def everything_refuses(url: str, names: str, *, web: bool = True) -> None:
    """Each command and each start says the one sentence."""
    sentence = f"holds {names}, which were not created by the service's migrations; nothing was changed; give"
    schema = names.partition(".")[0]
    settings = Settings(url, schema)
    for dry_run in (True, False):
        with pytest.raises(ForeignTables, match=re.escape(sentence)):
            _ = [outcome async for outcome in maintain(settings, dry_run=dry_run)]
    with pytest.raises(ForeignTables, match=re.escape(sentence)):
        await Worker(settings, shipped(), KINDS).run()
    if not web:
        return
    with pytest.raises(ForeignTables, match=re.escape(sentence)):
        await report(url, schema)
    database = Database(settings, shipped())
    await database.start()
    with pytest.raises(Unavailable, match=re.escape(sentence)):
        await create_administrator(database, "ACME", "ada@example.com", "Ada", PASSWORD)
    await database.stop()
    await web_refuses(url, schema, sentence)


@pytest.mark.parametrize("case", EMPTY)
def test_tables_of_another_application_are_left_alone(empty_database, dump, case):
    """Also where the service is told to use the schema that they are in."""
    sql, names = EMPTY[case]
    run(execute(empty_database, sql))
    before = dump(empty_database)
    run(everything_refuses(empty_database, names))
    assert dump(empty_database) == before


@pytest.mark.parametrize("case", EMPTY)
def test_the_service_works_beside_another_application(empty_database, dump, case):
    async def main() -> None:
        await execute(empty_database, EMPTY[case][0])
        before = dump(empty_database, "--schema=public")
        assert [outcome async for outcome in maintain(Settings(empty_database)) if outcome.failed] == []
        async with served(empty_database) as service:
            admin = await service.administrator()
            assert (await admin("POST", "/api/communications", json={"subject": "s", "body": "b"}))[0] == 201
        assert [outcome async for outcome in maintain(Settings(empty_database)) if outcome.failed] == []
        assert dump(empty_database, "--schema=public") == before

    run(main())


@pytest.mark.parametrize("case", OURS)
def test_a_record_of_our_migrations_does_not_make_a_table_ours(database, dump, case):
    sql, names = OURS[case]
    run(execute(database, sql))
    before = dump(database)
    run(everything_refuses(database, names))
    assert dump(database) == before


def test_the_tables_of_another_role_are_left_alone(database, dump):
    """A shared database where somebody else runs the service, too, and we may only look at names."""
    name = f"guest_{secrets.token_hex(4)}"
    sql = f"CREATE ROLE {name}; GRANT USAGE, CREATE ON SCHEMA impetus TO {name}; GRANT {name} TO impetus;"
    run(execute(database, sql, "postgres"))
    before = dump(database)
    run(everything_refuses(f"{database}&role={name}", "impetus.schema_migration"))
    assert dump(database) == before


def test_each_command_ends_with_the_sentence(empty_database, dump):
    run(execute(empty_database, OTHER_APPLICATION))
    before = dump(empty_database)
    admin = ("create-admin", "--company", "A", "--email", "a@b.example", "--name", "A", "--password-stdin")
    for arguments in (("maintenance",), ("maintenance", "--dry-run"), ("db",), ("migrate",), ("jobs",), admin):
        done = command(empty_database, *arguments, feed=f"{PASSWORD}\n", DB_SCHEMA="public")
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
        names = ", ".join(f"impetus.{name}" for name in left) or "impetus.pgqueuer_status"
        await everything_refuses(database, names, web=False)
        assert dump(database) == before

    run(main())


@asynccontextmanager
async def working(settings: Settings) -> AsyncIterator[Worker]:
    worker = Worker(settings, shipped(), KINDS)
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: worker._manager or running.done())
        yield worker
    finally:
        worker.stop()
        await running


def test_a_queue_that_was_there_before_us_is_left_alone(empty_database, dump):
    async def main() -> None:
        async with connected(empty_database) as connection:
            await Queries.from_asyncpg_connection(connection).install()
            before = dump(empty_database, "--schema=public")
            await migrate(connection, shipped(), "public")
        names = ", ".join(f"public.{name}" for name in QUEUE)
        await everything_refuses(empty_database, names, web=False)
        async with working(Settings(empty_database, "other")):  # but in another schema it has a queue of its own
            pass
        async with connected(empty_database) as connection:
            there = await own(connection, "other", shipped(), queue=True)
            assert there.queue_schema == "other"
            await connection.execute(
                f"DROP VIEW {', '.join(f'public.{name}' for name in ('schema_migration', 'idempotency_keys', *UNMARKED))}"
            )
        assert dump(empty_database, "--schema=public") == before

    run(main())


def test_other_names_beside_ours_are_nobodys_business(empty_database, dump):
    """Also a record of migrations under another name, as Rails keeps it."""
    theirs = ("--table=schema_migrations", "--table=log")
    foreign = "CREATE TABLE schema_migrations (version text); INSERT INTO schema_migrations VALUES ('2026'); CREATE TABLE log ()"

    async def main() -> None:
        async with connected(empty_database) as connection:
            await connection.execute(foreign)
            before = dump(empty_database, *theirs)
            await migrate(connection, shipped(), "public")
            assert all([not outcome.failed async for outcome in maintain(Settings(empty_database, "public"))])
            assert dump(empty_database, *theirs) == before

    run(main())


async def marks(connection: Any, schema: str) -> dict[str, str]:
    rows = await connection.fetch(
        "SELECT relname, obj_description(oid, 'pg_class') AS text FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = to_regnamespace($1)", schema,
    )  # fmt: skip
    return {row["relname"]: row["text"] for row in rows if row["text"]}


async def older_release(connection: Any) -> None:
    """What a release without marks, and without a schema of its own, has made in the schema public."""
    await migrate(connection, shipped()[:5], "public")
    await connection.execute("SET search_path = public")
    await Queries.from_asyncpg_connection(connection).install()
    await connection.execute(UNMARK)
    assert await marks(connection, "public") == {}


def test_every_level_of_the_releases_without_a_mark_is_known(empty_database):
    async def main() -> None:
        async with connected(empty_database) as connection:
            await connection.execute("SET search_path = public")
            for level in range(1, 6):
                await migrate(connection, shipped()[:level], "public")
                await connection.execute(UNMARK)
                known = {
                    name: [columns for number, columns in sorted(levels.items()) if number <= level][-1]
                    for name, levels in UNMARKED.items()
                    if min(levels) <= level
                }
                found = await connection.fetch(_LOOK, list(UNMARKED), "public", [])
                assert {row["name"]: row["columns"] for row in found} == known
                assert (await own(connection, "public", shipped())).unmarked == {"schema_migration", *known}

    run(main())


def test_an_installation_of_an_older_release_is_marked(empty_database):
    async def main() -> None:
        async with connected(empty_database) as connection:
            await older_release(connection)
            settings = Settings(empty_database, "public")
            noted = [each.step async for each in maintain(settings) if each.failed or each.note]
            assert noted == ["expired idempotency keys"]  # which that release had not
            async with working(settings):
                ours = {"schema_migration", "idempotency_keys", *UNMARKED}
                assert set(await marks(connection, "public")) == {*ours, *QUEUE}
            assert (await own(connection, "public", shipped(), queue=True)).unmarked == frozenset()

    run(main())


def test_a_role_that_does_not_own_the_tables_leaves_them_unmarked(database):
    async def main() -> None:
        async with connected(database) as connection:
            await connection.execute(UNMARK)
            name = f"user_{secrets.token_hex(4)}"
            sql = (
                f"CREATE ROLE {name}; GRANT {name} TO impetus; GRANT USAGE ON SCHEMA impetus TO {name};"
                f"GRANT SELECT ON ALL TABLES IN SCHEMA impetus TO {name}"
            )
            await execute(database, sql, "postgres")
            await connection.execute(f"SET ROLE {name}")
            assert await migrate(connection, shipped(), "impetus") == []
            assert set(await marks(connection, "impetus")) == {"idempotency_keys"}

    run(main())
