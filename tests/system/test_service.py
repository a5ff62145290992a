"""The Impetus service in a pool of impetusd, asked all the time while its PostgreSQL is killed, stopped, locked and full."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from instance import Instance
from waiting import until

HANGS = 60.0  # seconds after which an answer counts as never given; the figure itself is scripts/bench_service.py's
CLIENTS = 6
# Seconds between two requests of one client: without a pause they took a whole core for as long as this lasts.
PACE = 0.05
PASSWORD = "correct horse battery"
BIN = Path(sys.executable).parent

INI = """
[pool:web]
app = {app}
instances = 2
listen = 127.0.0.1:{port}
depends_on = db
cwd = {root}
[program:db]
command = {bin}/impetusd-postgres --data {root}/data --socket-dir {root}/s
wait_ready = yes
kill_signal = SIGINT
[health:web-ready]
target = web
http = /health/ready
start_period = 10s
action = alert
[env:web]
DATABASE_URL = {url}
DB_POOL_MAX = 4
DB_TIMEOUT_MS = {timeout}
"""


class Service:
    """The pool and its database, from outside."""

    def __init__(self, instance: Instance, session: aiohttp.ClientSession, port: int, url: str) -> None:
        self.instance, self.session, self.url = instance, session, url
        self.base = f"http://127.0.0.1:{port}"
        self.statuses: set[int] = set()  # of what the clients got

    async def get(self, path: str) -> int:
        async with asyncio.timeout(HANGS), self.session.get(self.base + path) as response:
            await response.read()
            return response.status

    async def until_well(self) -> None:
        """Until every worker has its database again: many answers in a row, of both kinds, are good."""

        async def well() -> bool:
            return {await self.get(path) for _ in range(8) for path in ("/health", "/api/communications")} == {200}

        await until(well, "answers without an error")

    async def until_ill(self) -> None:
        async def ill() -> bool:
            return await self.get("/health") == 503

        await until(ill, "a 503 of /health")

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Clients that ask all the time; whatever happens, each request is answered."""
        over = asyncio.Event()

        async def client() -> None:
            while not over.is_set():
                self.statuses.add(await self.get("/api/communications?limit=5"))
                await asyncio.sleep(PACE)

        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(client())
            try:
                yield
            finally:
                over.set()

    def database_processes(self) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (entry / "cwd").samefile(self.instance.root / "data"):
                    found.append(int(entry.name))
        return found


@asynccontextmanager
async def running(
    impetusd: Instance, app: str = "impetus_service.app:create_app", statement_ms: int = 1000
) -> AsyncIterator[Service]:
    """`statement_ms`: milliseconds that a statement may take, on a loaded host, too."""
    port = impetusd.port()
    url = f"postgresql:///impetus?host={impetusd.root}/s&user=impetus"
    ini = INI.format(app=app, port=port, bin=BIN, root=impetusd.root, url=url, timeout=statement_ms)
    await asyncio.to_thread(impetusd.start, ini)
    adding = await asyncio.create_subprocess_exec(
        BIN / "impetusd-service", "create-admin", "--company", "Shop", "--email", "ada@example.com", "--name", "Ada",
        "--password-stdin", env={**impetusd.environ, "DATABASE_URL": url}, stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, errors = await adding.communicate(f"{PASSWORD}\n".encode())
    assert said == b"ada@example.com is an administrator of the new company Shop\n", errors
    async with aiohttp.ClientSession() as session:
        credentials = {"email": "ada@example.com", "password": PASSWORD}
        async with session.post(f"http://127.0.0.1:{port}/api/auth/login", json=credentials) as response:
            assert response.status == 201
            session.headers["Authorization"] = f"Bearer {(await response.json())['token']}"
        yield Service(impetusd, session, port, url)


async def killed(service: Service) -> None:
    before = service.instance.status()["db"]
    os.kill(before.pid, signal.SIGKILL)
    await until(lambda: asyncio.to_thread(lambda: service.instance.status()["db"].restarts > before.restarts))


async def stopped(service: Service) -> None:
    processes = service.database_processes()
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        await service.until_ill()
        assert {await service.get("/health") for _ in range(4)} == {503}
    finally:
        for pid in processes:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


async def locked(service: Service) -> None:
    """Every statement of the load hangs until its time is over, in every connection."""
    connection = await asyncpg.connect(service.url)
    async with connection.transaction():
        await connection.execute("LOCK TABLE communications IN ACCESS EXCLUSIVE MODE")
        service.statuses.clear()

        await until(lambda: 503 in service.statuses, "a 503 of a statement that hangs")
        assert await service.get("/health") in {200, 503}
    await connection.close()


async def full(service: Service) -> None:
    """All that the server has are taken by others, and the workers' own are ended."""
    taken: list[Any] = []
    admin = await asyncpg.connect(service.url.replace("user=impetus", "user=postgres"))
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'impetus'"
    try:
        with pytest.raises(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await asyncpg.connect(service.url))

        async def ill() -> bool:
            await admin.execute(end)
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    taken.append(await asyncpg.connect(service.url))
            return await service.get("/health") == 503

        await until(ill)
    finally:
        for connection in (*taken, admin):
            connection.terminate()


def test_whatever_the_database_does_no_worker_ends_and_every_request_is_answered(impetusd):
    async def main() -> None:
        async with running(impetusd) as service:
            await service.until_well()
            before = impetusd.status()
            async with service.load():
                for happens in (killed, stopped, locked, full):
                    await happens(service)
                    await service.until_well()
            after = impetusd.status()
            for slot in ("web:0", "web:1"):
                assert (after[slot].pid, after[slot].restarts) == (before[slot].pid, 0)
            assert service.statuses <= {200, 503}

    asyncio.run(main())


# The service with the migration that stands beside it, as the next version of it would have.
NEXT = """
from pathlib import Path
from impetus_service import app
from impetus_service.app import create_app
from impetus_service.schema import shipped
from impetus_service.kit.migrate import Migration
sql = Path(__file__).with_name("next.sql")
if sql.exists():
    one = Migration(len(shipped()) + 1, "next", sql.read_text())
    app.shipped = lambda: [*shipped(), one]
"""


def test_a_reload_onto_a_failing_migration_is_refused_and_the_old_version_serves(impetusd):
    async def main() -> None:
        impetusd.write(NEXT, "next_version.py")
        async with running(impetusd, "next_version:create_app", 30_000) as service:
            await service.until_well()
            before = impetusd.status()
            impetusd.write("CREATE TABLE one (n int); SELECT 1 / 0", "next.sql")
            async with service.load():
                refused = await asyncio.to_thread(impetusd.run, "reload", "web", code=None)
            assert refused.code == 1, refused
            assert "/health/ready" in refused.err + refused.out
            assert " next failed: division by zero" in refused.err + refused.out, refused
            after = impetusd.status()
            for slot in ("web:0", "web:1"):
                assert (after[slot].pid, after[slot].state) == (before[slot].pid, "RUNNING")
            impetusd.write("CREATE TABLE one (n int)", "next.sql")
            async with service.load():
                reloaded = await asyncio.to_thread(impetusd.run, "reload", "web", code=None)
            assert reloaded.code == 0, reloaded
            assert impetusd.status()["web:0"].pid != before["web:0"].pid
            assert service.statuses == {200}

    asyncio.run(main())
