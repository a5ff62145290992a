"""GET /health of a real application on a real server that stops, hangs, fills up and comes back."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from aiohttp.test_utils import TestClient, TestServer
from server import run
from waiting import PATIENCE, until

import impetusd
from impetus_service.app import create_app
from impetus_service.kit import db
from impetus_service.kit.db import DATABASE, Database
from impetus_service.kit.health import PARTS
from impetus_service.kit.migrate import Migration
from impetus_service.schema import shipped
from impetus_service.settings import Settings, SettingsError
from impetusd.worker.draining import DRAINING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
def _environment(monkeypatch, caplog):
    for name in ("DATABASE_URL", "DB_POOL_MIN", "DB_POOL_MAX", "CACHE_MAX_ENTRIES", "LOG_LEVEL", "IMPETUSD_NAME"):
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.INFO)


@asynccontextmanager
async def application(url: str, **settings: str) -> AsyncIterator[TestClient]:
    os.environ.update(settings, DATABASE_URL=url)
    async with TestClient(TestServer(create_app())) as client:
        try:
            yield client
        finally:
            for name in (*settings, "DATABASE_URL"):
                del os.environ[name]


async def health(client: TestClient) -> tuple[int, dict[str, Any]]:
    async with asyncio.timeout(PATIENCE):  # what hangs here hangs for ever
        response = await client.get("/health")
        assert ("Retry-After" in response.headers) == (response.status == 503)
        return response.status, await response.json()


async def until_status(client: TestClient, status: int) -> dict[str, Any]:
    async def body() -> dict[str, Any] | None:
        got, body = await health(client)
        return body if got == status else None

    answer: dict[str, Any] = await until(body, f"the status {status}")
    return answer


async def asyncpg_answer(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def said(caplog, text: str) -> int:
    return sum(text in record.getMessage() for record in caplog.records)


def test_a_healthy_worker_tells_all_about_itself(shared_postgres):
    async def main() -> None:
        async with application(shared_postgres.url, CACHE_MAX_ENTRIES="12") as client:
            os.environ["IMPETUSD_NAME"] = "web:0"  # as when a parked worker is put to work
            body = await until_status(client, 200)
            assert set(body) == {
                "status", "database", "memory", "cache", "audit", "breakers", "parts", "rooms", "draining", "uptime_s", "version", "worker"
            }  # fmt: skip
            assert (body["status"], body["version"], body["worker"]) == ("ok", impetusd.__version__, "web:0")
            assert body["database"]["ok"] is True
            assert body["database"]["error"] is None
            assert body["database"]["latency_ms"] > 0
            number = int(await asyncpg_answer(shared_postgres.url, "SHOW server_version_num"))
            assert body["database"]["server"] == f"{number // 10000}.{number % 10000}"
            cache = body["cache"]
            assert cache["max_entries"] == 12
            assert cache["hits"] >= 1, "the server's version, at least"
            assert 0 < body["memory"]["heap_mb"] < body["memory"]["rss_mb"] < 4000
            assert body["uptime_s"] >= 0

    try:
        run(main())
    finally:
        os.environ.pop("IMPETUSD_NAME", None)


def test_the_schema_is_brought_up_to_date_in_the_background(postgres):
    async def main() -> None:
        connection = await asyncpg.connect(postgres.url)
        exists = "SELECT to_regclass('companies') IS NOT NULL"
        assert await connection.fetchval(exists) is False
        async with application(postgres.url):
            await until(lambda: connection.fetchval(exists))
        await connection.close()

    postgres.start()
    run(main())


def test_a_database_that_comes_later_is_found(postgres, caplog):
    async def main() -> None:
        async with application(postgres.url) as client:
            status, body = await health(client)
            assert status == 503
            assert body["status"] == "unavailable"
            assert body["database"]["ok"] is False
            assert body["database"]["latency_ms"] is None
            assert "cannot connect" in body["database"]["error"]
            assert body["cache"]["size"] == 0
            await asyncio.to_thread(postgres.start)
            await until_status(client, 200)
            await until(lambda: said(caplog, "database available again") == 1)
        assert said(caplog, "database unavailable") == 1

    run(main())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_database_that_goes_and_comes_back_ends_no_worker(postgres, caplog, number):
    async def main() -> None:
        async with application(postgres.url) as client:
            server = (await until_status(client, 200))["database"]["server"]
            await asyncio.to_thread(postgres.stop, number)
            body = await until_status(client, 503)
            assert body["database"]["error"]
            assert body["database"]["server"] == server  # which one it was
            await until(lambda: said(caplog, "database unavailable") == 1)
            await asyncio.to_thread(postgres.start)
            await until_status(client, 200)
            await until(lambda: said(caplog, "database available again") == 1)
        assert said(caplog, "database unavailable") == 1
        assert not [record for record in caplog.records if record.exc_info]

    postgres.start()
    run(main())


def test_a_database_that_hangs_is_told_in_time(postgres):
    async def main() -> None:
        async with application(postgres.url) as client:
            await until_status(client, 200)
            stopped = postgres.processes()
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(3):
                    status, body = await health(client)
                    assert status == 503
                    assert "did not answer" in body["database"]["error"] or "no connection" in body["database"]["error"]
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
            await until_status(client, 200)

    postgres.start()
    run(main())


def test_a_hanging_database_does_not_hold_up_the_shutdown(postgres):
    async def main() -> None:
        async with asyncio.timeout(60):
            async with application(postgres.url) as client:
                await until_status(client, 200)
                for pid in postgres.processes():
                    os.kill(pid, signal.SIGSTOP)
                await health(client)

    postgres.start()
    try:
        run(main())
    finally:
        for pid in postgres.processes():
            os.kill(pid, signal.SIGCONT)


def test_the_end_is_obeyed_when_the_driver_turns_the_cancellation_into_an_error(shared_postgres):
    async def main() -> None:
        filling = asyncio.Event()

        async def swallows() -> None:
            filling.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise asyncpg.InterfaceError("the connection is in state 11") from None

        database = Database(Settings(shared_postgres.url), shipped())
        database._fill = swallows
        async with asyncio.timeout(60):
            await database.start()
            await filling.wait()
            await database.stop()
            await asyncio.wait({database._refilling})

    run(main())


def test_an_exhausted_pool_is_told_in_time(shared_postgres, caplog):
    async def main() -> None:
        async with application(shared_postgres.url, DB_POOL_MAX="2") as client:
            await until_status(client, 200)
            database = client.server.app[DATABASE]
            async with database.connection(10), database.connection(10):
                status, body = await health(client)
                assert status == 503
                assert "all 2 connections of this worker stayed busy" in body["database"]["error"]
            await until_status(client, 200)
        assert said(caplog, "database unavailable") == 0

    run(main())


@pytest.fixture
def _as_long_as_it_takes(monkeypatch):
    for name in ("CHECK_TIMEOUT", "CHECK_ANSWER"):
        monkeypatch.setattr(db, name, PATIENCE)


@pytest.mark.usefixtures("_as_long_as_it_takes")
def test_many_questions_at_once_take_one_connection(shared_postgres):
    async def main() -> None:
        async with application(shared_postgres.url, DB_POOL_MIN="1", DB_POOL_MAX="5") as client:
            answers = await asyncio.gather(*(health(client) for _ in range(50)))
            assert {status for status, _ in answers} == {200}
            assert client.server.app[DATABASE]._pool.get_size() <= 2  # one more while the refilling makes the first

    run(main())


def test_ended_idle_connections_are_logged_and_replaced(shared_postgres, caplog):
    async def main() -> None:
        async with application(shared_postgres.url, DB_POOL_MIN="3") as client:
            pool = client.server.app[DATABASE]._pool
            await until(lambda: pool.get_idle_size() >= 3)
            admin = await asyncpg.connect(shared_postgres.url.replace("user=impetus", "user=postgres"))
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'impetus' AND pid <> pg_backend_pid()"
            )
            await admin.close()
            await until(lambda: said(caplog, "idle database connection(s) ended") and pool.get_idle_size() >= 3)
            await until_status(client, 200)  # one that is just ending may be met

    run(main())


def test_a_clean_stop_closes_every_connection(shared_postgres):
    async def main() -> None:
        async with application(shared_postgres.url) as client:
            await until_status(client, 200)
        connection = await asyncpg.connect(shared_postgres.url)
        none = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'impetus'"
        await until(lambda: connection.fetchval(none))
        await connection.close()

    run(main())


def test_a_migration_that_fails_is_told_until_it_succeeds_and_ends_no_worker(postgres, monkeypatch):
    async def main() -> None:
        broken = Migration(len(shipped()) + 1, "broken", "CREATE TABLE one (n int); SELECT 1 / 0")
        migrations = [*shipped(), broken]
        monkeypatch.setattr("impetus_service.app.shipped", lambda: migrations)
        async with application(postgres.url) as client:
            body = await until_status(client, 503)
            reason = f"{broken} failed: division by zero"
            assert (body["status"], body["database"]["ok"], body["database"]["migrated"]) == (
                "unavailable",
                True,
                False,
            )
            assert body["database"]["error"] == reason
            assert await readiness(client) == (503, reason)
            async with client.get("/api/communications", headers={"Authorization": "Bearer x"}) as response:
                assert (response.status, reason in await response.text()) == (503, True)
            migrations.pop()
            await until_status(client, 200)
            assert await readiness(client) == (200, None)

    postgres.start()
    run(main())


def test_what_the_role_may_not_do_is_told(shared_postgres):
    async def main() -> None:
        root = shared_postgres.url.replace("user=impetus", "user=postgres")
        await asyncpg_answer(root, "CREATE DATABASE closed")
        async with application(shared_postgres.url.replace("/impetus?", "/closed?")) as client:
            body = await until_status(client, 503)
            assert "CREATE SCHEMA" in body["database"]["error"]
            assert (await readiness(client))[0] == 503

    run(main())


def test_wrong_settings_are_refused_before_anything_is_opened(monkeypatch):
    monkeypatch.setenv("DB_POOL_MAX", "none")
    with pytest.raises(SettingsError, match=r"DATABASE_URL is not set.*; DB_POOL_MAX='none'"):
        create_app()


def test_memory_is_what_the_kernel_says():
    from impetus_service.kit.health import memory

    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert abs(memory().rss_mb - pages * os.sysconf("SC_PAGE_SIZE") / 1e6) < 20


async def readiness(client: TestClient) -> tuple[int, str | None]:
    async with client.get("/health/ready") as response:
        return response.status, (await response.json())["reason"]


async def is_not_ready(client: TestClient, reason: str) -> bool:
    status, told = await readiness(client)
    return status == 503 and (told or "").startswith(reason)


def test_who_may_not_log_in_to_the_database_finds_the_reason(shared_postgres):
    async def main() -> None:
        async with application(shared_postgres.url.replace("user=impetus", "user=stranger")) as client:
            await until(lambda: is_not_ready(client, "the database cannot be used: Invalid"), "the reason")

    run(main())


def test_ready_means_migrated_and_not_draining(postgres):
    async def main() -> None:
        async with application(postgres.url) as client:
            await until(lambda: is_not_ready(client, "the database cannot be used: cannot connect: "), "the reason")
            async with client.get("/health/live") as response:
                assert response.status == 200
            await asyncio.to_thread(postgres.start)
            await until_status(client, 200)
            await until(lambda: client.server.app[DATABASE].migrated)
            assert await readiness(client) == (200, None)
            await asyncio.to_thread(postgres.stop)
            assert await readiness(client) == (200, None)  # no other worker is better off
            client.server.app[DRAINING].set()
            status, reason = await readiness(client)
            assert status == 503
            assert reason.startswith("draining")

    run(main())


@pytest.mark.usefixtures("_as_long_as_it_takes")
def test_a_room_that_hangs_or_fails_says_nothing_and_holds_up_nobody(shared_postgres):
    async def fails() -> None:
        raise ValueError("no")

    async def main() -> None:
        async with application(shared_postgres.url) as client:
            await until_status(client, 200)
            parts = client.server.app[PARTS]
            parts |= {"hangs": asyncio.Event().wait, "fails": fails, "jobs": lambda: asyncio.sleep(0, {"waiting": 3})}
            status, body = await health(client)
            assert status == 200
            assert body["parts"] == body["rooms"] == {"hangs": None, "fails": None, "jobs": {"waiting": 3}}

    run(main())
