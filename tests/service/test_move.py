"""An installation of a release without a schema of its own is moved into one, while workers of that release serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from served import PASSWORD, Person, served
from server import run
from test_foreign_tables import (  # noqa: F401 - a fixture
    OTHER_APPLICATION,
    connected,
    empty_database,
    execute,
    marks,
    older_release,
    working,
)
from test_jobs import EXPORT, ended
from waiting import until

from impetus_service.job_kinds import KINDS
from impetus_service.kit.job_worker import Worker
from impetus_service.kit.migrate import migrate, own
from impetus_service.kit.ownership import ForeignTables, MigrationError
from impetus_service.schema import UNMARKED, shipped
from impetus_service.settings import Settings

TABLES = {"schema_migration", *UNMARKED}


async def every_kind_of_statement(admin: Person, number: int) -> None:
    """Inserts with defaults and ON CONFLICT, updates, deletes, row locks and pages."""
    service = admin.served
    assert (await admin("PATCH", "/api/company", json={"name": f"Shop {number}"}))[0] == 200
    status, role = await admin("POST", "/api/roles", json={"name": f"role {number}", "level": 20})
    assert status == 201
    assert (await admin("POST", "/api/roles", json={"name": f"role {number}", "level": 20}))[0] == 409
    user = await service.colleague(admin, f"role {number}")
    body = {"email": user.email, "name": "Bob", "role": "member", "password": PASSWORD}
    assert (await admin("POST", "/api/users", json=body))[0] == 409
    assert (await admin("PATCH", f"/api/users/{user.id}", json={"role": "member"}))[1]["level"] == 10
    assert (await admin("DELETE", f"/api/roles/{role['id']}"))[0] == 204
    assert (await service("POST", "/api/auth/login", json={"email": user.email, "password": "wrong"}))[0] == 401
    user = await service.log_in(user.email)
    assert (await user("POST", "/api/communications", json={"subject": "s", "body": "b"}))[0] == 201
    headers = {"Idempotency-Key": f"key {number}"}
    one = await admin("POST", "/api/jobs/exports", json=EXPORT, headers=headers)
    two = await admin("POST", "/api/jobs/exports", json=EXPORT, headers=headers)
    assert (one[0], one[1]["id"]) == (202, two[1]["id"])
    assert (await user("POST", "/api/auth/logout"))[0] == 204
    assert (await admin("DELETE", f"/api/users/{user.id}"))[0] == 204
    for path in ("communications", "users", "roles", "jobs", "admin/logs/audit", "admin/logs/export"):
        assert (await admin("GET", f"/api/{path}"))[0] == 200, path


@asynccontextmanager
async def on(url: str, schema: str, of: Person | None = None) -> AsyncIterator[Person]:
    """An administrator at a worker that works in `schema`; with `of`, in the session of that one."""
    async with served(url, DB_SCHEMA=schema) as service:
        person = await service.administrator() if of is None else Person(service, of.email, of.token)
        yield person


@pytest.mark.parametrize("path", ["", "&search_path=public"])
def test_workers_of_both_releases_serve_at_once(empty_database, path):  # noqa: F811
    """With the schema on the old search_path ("$user"), and off it."""
    url = empty_database + path

    async def main() -> None:
        async with connected(empty_database) as connection:
            await older_release(connection)
            # The statements of the older release are those of this one, by the names that public has.
            async with on(url, "public") as old:
                await every_kind_of_statement(old, 1)
                async with on(url, "impetus", old) as new:
                    await until(lambda: new.served.app is not None)
                    for number, worker in ((2, old), (3, new), (4, old)):
                        await every_kind_of_statement(worker, number)
                    for worker in (old, new):
                        assert (await worker("GET", "/api/company"))[1]["name"] == "Shop 4"
                        assert (await worker("GET", "/api/communications"))[1]["pagination"]["total"] == 4
            assert set(await marks(connection, "impetus")) >= TABLES
            views = "SELECT count(*) FROM pg_views WHERE schemaname = 'public' AND viewname = ANY ($1::text[])"
            assert await connection.fetchval(views, list(TABLES)) == len(TABLES)
            there = await own(connection, "impetus", shipped(), queue=True)
            assert there.queue_schema == ("public" if path else "impetus")

    run(main())


def test_job_workers_of_both_releases_share_one_queue(empty_database, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("JOB_FILES_DIR", str(tmp_path))
    url = f"{empty_database}&search_path=public"

    async def main() -> None:
        async with connected(empty_database) as connection:
            await older_release(connection)
        older, newer = (Settings(url, schema, job_files_dir=str(tmp_path)) for schema in ("public", "impetus"))
        async with (
            on(url, "public") as old, working(older), on(url, "impetus", old) as new, working(newer)
        ):  # fmt: skip
            for worker in (old, new, old):
                job = (await worker("POST", "/api/jobs/exports", json=EXPORT))[1]
                done = await ended(worker, job["id"])
                assert (done["state"], done["attempt"]) == ("succeeded", 1)

    run(main())


def test_another_installation_in_a_schema_of_its_own_stays_where_it_is(empty_database):  # noqa: F811
    """Also where the search_path leads there, since the role has the schema's name."""

    async def main() -> None:
        async with on(empty_database, "impetus") as one, on(empty_database, "second") as two:
            for person, count in ((one, 1), (two, 2)):
                for _ in range(count):
                    assert (await person("POST", "/api/communications", json={"subject": "s", "body": "b"}))[0] == 201
                assert (await person("GET", "/api/communications"))[1]["pagination"]["total"] == count

    run(main())


def test_what_is_half_somebody_elses_is_not_moved(empty_database):  # noqa: F811
    async def main() -> None:
        async with connected(empty_database) as connection:
            await older_release(connection)
            await connection.execute(f"DROP TABLE audit_logs, sessions; {OTHER_APPLICATION}")
            with pytest.raises(ForeignTables, match=r"public\.audit_logs, public\.sessions"):
                await migrate(connection, shipped(), "impetus", lambda: asyncio.sleep(0, "public"))
            assert await connection.fetchval("SELECT to_regnamespace('impetus')") is None

    run(main())


def test_a_table_that_is_in_use_is_waited_for_in_small_portions(empty_database):  # noqa: F811
    """Nobody who waits behind the move waits for long: it gives up, has changed nothing, and comes again."""

    async def main() -> None:
        async with connected(empty_database) as holder, connected(empty_database) as connection:
            await older_release(connection)
            async with holder.transaction():
                await holder.fetch("SELECT FROM communications LIMIT 1")
                with pytest.raises(MigrationError, match=r"cannot be moved from public to impetus: .*lock timeout"):
                    await migrate(connection, shipped(), "impetus", lambda: asyncio.sleep(0, "public"))
            assert await migrate(connection, shipped(), "impetus", lambda: asyncio.sleep(0, "public")) == shipped()[5:]

    run(main())


def test_a_role_that_may_make_no_schema_is_told_what_to_do(empty_database):  # noqa: F811
    async def main() -> None:
        await execute(empty_database, "CREATE ROLE modest; GRANT modest TO impetus", "postgres")
        with pytest.raises(
            MigrationError, match=r"the schema impetus cannot be created: .*: CREATE SCHEMA|run CREATE SCHEMA"
        ):
            await Worker(Settings(f"{empty_database}&role=modest"), shipped(), KINDS).run()

    run(main())
