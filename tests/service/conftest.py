"""PostgreSQL for the service's tests: real servers, started by our own entry point, each in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest
from server import Postgres, run
from waiting import PATIENCE

from impetus_service.kit import audit, db, logs
from impetus_service.kit.migrate import migrate
from impetus_service.schema import shipped
from impetusd.postgres.main import SUPERUSER

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    # Not tmp_path: a unix socket's path has at most 107 bytes. In memory, where there is enough, since nothing has to last.
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2e9
    path = Path(tempfile.mkdtemp(prefix="impg", dir=memory if roomy else "/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _server() -> Iterator[Postgres]:
    with _directory() as path:
        server = Postgres(path)
        try:
            yield server
        finally:
            server.destroy()


@pytest.fixture(autouse=True)
def _spool(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("AUDIT_SPOOL_DIR", str(tmp_path / "spool"))


@pytest.fixture(autouse=True)
def _patient(monkeypatch) -> None:
    """A server, or a thread, that stands still for a while is not what a test is about, unless it says so."""
    monkeypatch.setenv("DB_TIMEOUT_MS", str(int(PATIENCE * 1000)))
    for where, name in (
        (db, "ACQUIRE_TIMEOUT"),
        (db, "CONNECT_TIMEOUT"),
        (audit, "LAST_ATTEMPT"),
        (logs, "_LAST_WORDS"),
    ):
        monkeypatch.setattr(where, name, PATIENCE)


@pytest.fixture
def new_postgres() -> Iterator[Postgres]:
    """A server of the test's own, not started, whose first start makes its data."""
    with _server() as server:
        yield server


@pytest.fixture
def postgres(new_postgres, first_start) -> Postgres:
    """A server of the test's own, not started, whose data are as the first start leaves them."""
    subprocess.run(["cp", "-a", first_start, new_postgres.data], check=True)  # 0.1 s of CPU; to make them, 0.7 s
    return new_postgres


@pytest.fixture(scope="session")
def first_start() -> Iterator[Path]:
    """A data directory that was started once."""
    with _server() as server:
        server.start()
        server.stop()
        yield server.data


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[Postgres]:
    """A running server for tests that leave it running."""
    with _server() as server:
        server.start()
        yield server


@pytest.fixture(scope="session")
def _template(shared_postgres) -> str:
    """The URL of the shared server's superuser; a database `template` there has the schema of this release."""
    root = shared_postgres.url.replace("user=impetus", f"user={SUPERUSER}").replace("/impetus?", "/postgres?")

    async def make() -> None:
        connection = await asyncpg.connect(root)
        for name in ("fsync", "synchronous_commit", "full_page_writes"):  # what is written here need not last
            await connection.execute(f"ALTER SYSTEM SET {name} = off")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.execute("CREATE DATABASE template OWNER impetus")
        await connection.close()
        connection = await asyncpg.connect(root.replace("/postgres?", "/template?"))
        await connection.execute("CREATE EXTENSION pg_stat_statements")
        await connection.close()
        connection = await asyncpg.connect(shared_postgres.url.replace("/impetus?", "/template?"))
        await migrate(connection, shipped(), "impetus")
        await connection.close()

    run(make())
    return root


@pytest.fixture
def database(shared_postgres, _template) -> str:
    """The URL of a database of the test's own, with the schema of this release, on the shared server.

    It goes with the server: to drop it would cost a checkpoint.
    """
    name = f"test_{secrets.token_hex(6)}"

    async def make() -> None:
        connection = await asyncpg.connect(_template)
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE template OWNER impetus")
        await connection.close()

    run(make())
    return shared_postgres.url.replace("/impetus?", f"/{name}?")
