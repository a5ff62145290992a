"""A page of a list is bounded in bytes as in rows: texts of 100,000 characters cost a worker little memory, and none is lost."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from aiohttp import ClientSession, UnixConnector
from served import Person, served
from server import run

from impetus_service.kit.statements import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
WORKER_MAX = 120 * 1024  # kB of resident memory
WORKER = """
import asyncio, os, sys
from aiohttp import web
import uvloop
from impetus_service.app import create_app

async def main():
    runner = web.AppRunner(create_app(), access_log=None)
    await runner.setup()
    await web.UnixSite(runner, sys.argv[1]).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

uvloop.run(main())
"""


async def write(database: str, who: Person, rows: int, text: str, length: int) -> None:
    company = (await who("GET", "/api/company"))[1]["id"]
    connection = await asyncpg.connect(database)
    await connection.execute(
        "INSERT INTO communications (company_id, kind, subject, body, created_at)"
        " SELECT $1, 'message', n::text, repeat($3, $4), now() - n * interval '1 second' FROM generate_series(1, $2) n",
        company, rows, text, length,
    )  # fmt: skip
    await connection.close()


def test_a_page_of_long_texts_ends_earlier_and_all_are_found(database):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            await write(database, admin, 60, "\N{PILE OF POO}", 25_000)
            path, seen, pages = "/api/communications?limit=500", [], 0
            following = ""
            while following is not None:
                _, answer = await admin("GET", f"{path}&cursor={following}")
                seen += [each["subject"] for each in answer["items"]]
                pages += 1
                following = answer["pagination"]["next"]
                if following:
                    assert answer["pagination"]["limit"] == len(answer["items"])
                    assert PAGE_BYTES <= sum(len(each["body"].encode()) for each in answer["items"]) < PAGE_BYTES * 1.2
            assert (pages, seen) == (6, [str(number) for number in range(1, 61)])
            offset, seen = 0, []
            while offset < answer["pagination"]["total"]:
                _, answer = await admin("GET", f"{path}&offset={offset}")
                seen += [each["subject"] for each in answer["items"]]
                offset += answer["pagination"]["limit"]
            assert seen == [str(number) for number in range(1, 61)]
            _, answer = await admin("GET", "/api/communications?limit=3")
            assert (len(answer["items"]), answer["pagination"]["limit"], bool(answer["pagination"]["next"])) == (
                3,
                3,
                True,
            )

    run(main())


@contextmanager
def worker(database: str, socket: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, socket],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/service", "DATABASE_URL": database, "LOG_LEVEL": "ERROR"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_lists_of_500_long_texts_leave_a_worker_small(database, tmp_path):
    async def main() -> None:
        async with served(database) as service:
            admin = await service.administrator()
            await write(database, admin, 500, "\N{LATIN SMALL LETTER E WITH ACUTE}", 100_000)
        with worker(database, tmp_path / "s") as process:
            headers = {"Authorization": f"Bearer {admin.token}"}
            numbers = count()
            async with ClientSession(connector=UnixConnector(str(tmp_path / "s")), headers=headers) as client:

                async def read() -> None:
                    while next(numbers) < 40:
                        async with client.get("http://worker/api/communications?limit=500") as response:
                            assert response.status == 200
                            await response.read()

                await asyncio.gather(*(read() for _ in range(8)))
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) < WORKER_MAX

    run(main())
