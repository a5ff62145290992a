"""The page on the service, done as it says, and maintenance by hand as by timer: a running pool on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from instance import Instance
from lending import Lend

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGE = (ROOT / "impetusd" / "help" / "service.md").read_text(encoding="utf-8")
INI = """
[pool:web]
app = impetus_service.app:create_app
instances = 2
listen = 127.0.0.1:{port}
depends_on = db
[program:db]
command = impetusd-postgres --data {root}/data --socket-dir {root}/s
wait_ready = yes
kill_signal = SIGINT
[program:jobs]
command = impetusd-service jobs
depends_on = db
[timer:maintenance]
command = impetusd-service maintenance
every = 7d
[health:web]
http = /health
interval = 1s
timeout = 1s
action = alert
[env:jobs]
DATABASE_URL = {url}
JOB_FILES_DIR = {root}/files
[env:web]
DATABASE_URL = {url}
JOB_FILES_DIR = {root}/files
DB_POOL_MIN = 2
DB_POOL_MAX = 20
AUDIT_SPOOL_DIR = {root}/spool
[env:maintenance]
DATABASE_URL = {url}
JOB_FILES_DIR = {root}/files
AUDIT_LOG_RETENTION_DAYS = {days}
"""


@pytest.fixture(scope="module")
def service(lend: Lend) -> Iterator[tuple[Instance, int, str]]:
    """The instance, its port, and the URL of its database."""
    with lend(None) as instance:
        port, url = instance.port(), f"postgresql:///impetus?host={instance.root}/s&user=impetus"
        instance.environ["PATH"] = f"{BIN}:{instance.environ['PATH']}"
        instance.start(INI.format(port=port, root=instance.root, url=url, days=90))
        yield instance, port, url


def commands() -> list[tuple[str, str]]:
    """Each command of the row by row part, with what it prints: "..." is anything."""
    part = PAGE[PAGE.index("## The requirements, one by one") :]
    found: list[tuple[str, str]] = []
    for line in part.splitlines():
        if line.startswith("    $ "):
            found.append((line.removeprefix("    $ "), ""))
        elif line.startswith("    "):
            found[-1] = (found[-1][0], found[-1][1] + line.removeprefix("    ") + "\n")
    return found


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_each_command_of_the_page_does_what_it_says(service: tuple[Instance, int, str]) -> None:
    instance, port, _ = service
    typed = [command for command, _ in commands()]
    assert typed.count("impetusd health -q") == 1
    # The checks ask each worker at their times: wait until they have.
    typed = [f"until {each} >asked; do sleep 0.1; done" if each == "impetusd health -q" else each for each in typed]
    run = "".join(f"{command}\nprintf '\\001%s\\001' $?\n" for command in typed)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", run.replace("127.0.0.1:8080", f"127.0.0.1:{port}")],
        env=instance.environ, cwd=instance.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False, timeout=100,
    )  # fmt: skip
    parts = done.stdout.split("\001")
    for (command, wanted), out, code in zip(commands(), parts[::2], parts[1::2], strict=False):
        pattern = ".*".join(map(re.escape, wanted.strip().replace("8080", str(port)).split("...")))
        assert code == "0", f"{command}: {out}"
        assert re.fullmatch(pattern, out.replace("\r", "").strip(), re.DOTALL), f"{command}: {out}"
    assert len(parts) // 2 == len(commands())


def test_every_row_has_a_command_or_says_that_it_is_not_built() -> None:
    part = PAGE[PAGE.index("## The requirements, one by one") :]
    rows = re.findall(r"^### ([\d.]+) .*?\n(.*?)(?=^### |\Z)", part, re.DOTALL | re.MULTILINE)
    numbers = ["1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.4", "2.1", "2.2", "2.3", "2.4", "2.5", "3.1", "3.2"]
    assert [number for number, _ in rows] == [*numbers, "4", "5", "6", "7", "8"]
    for number, text in rows:
        assert "    $ " in text or "Not built" in text, number


OLD = """
    WITH company AS (INSERT INTO companies (name) VALUES (gen_random_uuid()::text) RETURNING id)
    INSERT INTO audit_logs (company_id, action, entity, severity, description, created_at)
    SELECT id, 'seeded', 'test', 'info', days || ' days', now() - days * interval '1 day'
    FROM company, unnest(ARRAY[1, 80, 100, 364, 366, 400]) days
"""


def test_maintenance_by_hand_deletes_what_it_deletes_by_timer(service: tuple[Instance, int, str]) -> None:
    """A retention of 365 days in the INI file is no 90 by hand, with impetusd or without."""
    instance, port, url = service
    instance.run("disable", "jobs")
    instance.write(INI.format(port=port, root=instance.root, url=url, days=365))
    instance.run("apply")
    for folder in ("scripts", ".venv"):
        (instance.root / folder).mkdir()
    (instance.root / ".venv" / "bin").symlink_to(BIN)
    script = instance.root / "scripts" / "maintenance"
    shutil.copy(ROOT / "scripts" / "maintenance", script)

    def seed() -> None:
        asyncio.run(execute(url, "DELETE FROM audit_logs WHERE action = 'seeded'", OLD))

    def left() -> list[str]:
        rows = asyncio.run(execute(url, "SELECT description FROM audit_logs WHERE action = 'seeded' ORDER BY id"))
        return [row[0] for row in rows]

    def by_hand(*arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [script, *arguments], env={**instance.environ, **environment}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done
        assert "this shell's environment" not in done.stderr
        return done.stdout

    seed()
    assert re.search(r"audit_logs older than 365 days +2 ", by_hand("--dry-run"))
    assert len(left()) == 6
    by_timer = instance.run("trigger", "maintenance").out
    kept = left()
    assert kept == [f"{days} days" for days in (1, 80, 100, 364)]
    seed()
    # The caller's own settings count for nothing.
    out = by_hand(AUDIT_LOG_RETENTION_DAYS="30", DATABASE_URL="postgresql:///nothing")
    assert left() == kept
    numbers = re.compile(r"\d+\.\d\d s")
    assert numbers.sub("", out) == numbers.sub("", by_timer)
    recorded = r"impetusd exec maintenance -- impetusd-service maintenance, by \S+: done"
    assert re.search(recorded, instance.run("events").out)


async def execute(url: str, *statements: str) -> list[asyncpg.Record]:
    """The rows of the last one."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "impetus"})
    rows: list[asyncpg.Record] = []
    for statement in statements:
        rows = await connection.fetch(statement)
    await connection.close()
    return rows
