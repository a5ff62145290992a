"""The Impetus service in a pool of one worker, with a million audit rows: pages, exports, throughput, and a lost database."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg
import bench_jobs
import uvloop
from bench_base import Instance, free_port, percentile, show

ROWS = 1_000_000
CLIENTS = 16
PASSWORD = "correct horse battery"
PAGE_SQL = """
SELECT id, user_id, action, entity, entity_id, severity, description, host(address) AS address, request_id, created_at
FROM audit_logs WHERE company_id = $1 ORDER BY created_at DESC, id DESC LIMIT 101
"""
COUNT_SQL = "SELECT count(*) FROM (SELECT FROM audit_logs WHERE company_id = $1 LIMIT 10001) AS counted"
FILL = """
INSERT INTO audit_logs (company_id, user_id, action, entity, severity, description, request_id, created_at)
SELECT 1, n % 50, 'thing.' || n % 7, 'thing', CASE WHEN n % 100 = 0 THEN 'warning' ELSE 'info' END,
       'row number ' || n || ' of the bench', md5(n::text), now() - n * interval '7 seconds'
FROM generate_series(1, $1) AS n
"""
LONG = """
INSERT INTO communications (company_id, author_id, kind, subject, body)
SELECT 1, $1, 'message', 'long', repeat(md5(n::text), 3125) FROM generate_series(1, 500) AS n
"""
LISTS = ("/api/communications?limit=500", "/api/admin/logs/audit?limit=500")


class Client:
    """One keep-alive connection that asks one thing again and again, and tries nothing twice."""

    def __init__(self, port: int, path: str, token: str) -> None:
        self.port = port
        self.request = f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> tuple[int, bytes]:
        self.streams = self.streams or await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        reader, writer = self.streams
        writer.write(self.request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        if b"transfer-encoding: chunked" not in head:
            return status, await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        body = b""
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
        return status, body

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()


class Service:
    """The pool, its database, and a session of the administrator of company 1, which has all the rows."""

    def __init__(self, instance: Instance, port: int, url: str) -> None:
        self.instance, self.port, self.url = instance, port, url
        self.token = ""

    def prepare(self) -> None:
        service = Path(sys.executable).with_name("impetusd-service")
        options = ["--company", "Bench", "--email", "bench@example.com", "--name", "Bench", "--password-stdin"]
        environment = {**self.instance.env, "DATABASE_URL": self.url}
        subprocess.run([service, "create-admin", *options], input=PASSWORD, env=environment, text=True, check=True)
        body = json.dumps({"email": "bench@example.com", "password": PASSWORD})
        url = f"http://127.0.0.1:{self.port}/api/auth/login"
        curl = ["curl", "-sf", "-H", "Content-Type: application/json", "-d", body, url]
        self.token = json.loads(subprocess.check_output(curl))["token"]

    def client(self, path: str) -> Client:
        return Client(self.port, path, self.token)

    async def fill(self) -> float:
        """Seconds that ROWS took."""
        began = time.monotonic()
        connection = await asyncpg.connect(self.url)
        await connection.execute(FILL, ROWS)
        await connection.execute("VACUUM (ANALYZE) audit_logs")
        await connection.close()
        return time.monotonic() - began

    def worker_rss(self) -> float:
        """MB of the one worker, shared pages included."""
        pid = self.instance.status_pids()["web:0"]
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6

    def forget_peak(self) -> Callable[[], float]:
        """Returns a function that gives the one worker's peak memory from now on, in MB, also between two looks
        (proc(5), clear_refs)."""
        process = Path(f"/proc/{self.instance.status_pids()['web:0']}")
        (process / "clear_refs").write_text("5")

        def peak() -> float:
            return int((process / "status").read_text().partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

        return peak


class Pool(Instance):
    """An instance that answers pids without waiting."""

    def status_pids(self) -> dict[str, int]:
        return {row["name"]: row["pid"] for row in self.status()["units"]}


async def latencies(ask: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Milliseconds of `count` in a row."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        await ask()
        found.append((time.perf_counter() - began) * 1000)
    return found


async def throughput(asks: list[Callable[[], Awaitable[object]]], seconds: float) -> tuple[float, float]:
    """Answers per second of all `asks` at once, without pause, and the p99 in ms."""
    over = time.monotonic() + seconds
    found: list[float] = []

    async def one(ask: Callable[[], Awaitable[object]]) -> None:
        while time.monotonic() < over:
            found.extend(await latencies(ask, 1))

    await asyncio.gather(*map(one, asks))
    return len(found) / seconds, percentile(found, 0.99)


async def pages(service: Service) -> None:
    """Each kind of page of a million rows."""
    first = service.client("/api/admin/logs/audit?limit=100")
    deep = json.loads((await first.ask())[1])["pagination"]["next"]
    oldest = quote("2026-01-01T00:00:00Z")
    kinds = {
        "first": "limit=100",
        "by cursor": f"limit=100&cursor={deep}",
        "user": "limit=100&user=7",
        "warnings": "limit=100&severity=warning",
        "period": f"limit=100&from={oldest}",
        "text": "limit=100&text=777777",
        "500 rows": "limit=500",
        "offset 90,000": "limit=100&offset=90000",
    }
    worst, lines = 0.0, []
    for kind, query in kinds.items():
        client = service.client(f"/api/admin/logs/audit?{query}")
        status, _ = await client.ask()
        found = await latencies(client.ask, 30)
        client.close()
        if status != 200:
            raise SystemExit(f"{query}: {status}")
        worst = max(worst, percentile(found, 0.5))
        lines.append(f"{kind} {percentile(found, 0.5):.1f} ({percentile(found, 0.99):.1f})")
    connection = await asyncpg.connect(service.url)
    bare = await latencies(lambda: connection.fetch(PAGE_SQL, 1), 30)
    counting = await latencies(lambda: connection.fetchval(COUNT_SQL, 1), 30)
    await connection.close()
    show(
        f"a page of {ROWS:,} audit rows, ms p50 (p99)",
        "   ".join(lines),
        f"bare asyncpg: the first page {percentile(bare, 0.5):.1f}, counting to 10,000 {percentile(counting, 0.5):.1f}",
        "each p50 ≤ 50 ms",
        worst <= 50,
    )


async def exports(service: Service) -> None:
    """5,000 rows as CSV, again and again: the worker's memory."""
    client = service.client("/api/admin/logs/export?format=csv")
    await client.ask()
    before, sizes, began = service.worker_rss(), [], time.monotonic()
    for _ in range(10):
        status, body = await client.ask()
        lines = body.count(b"\n")
        if status != 200 or lines != 5001:
            raise SystemExit(f"an export of {lines} lines, status {status}")
        sizes.append(service.worker_rss())
    seconds = (time.monotonic() - began) / 10
    client.close()
    grown = max(sizes) - before
    show(
        "10 streamed exports of 5,000 rows",
        f"{seconds * 1000:.0f} ms each, {len(body) / 1e6:.1f} MB; the worker grew by {grown:.1f} MB from {before:.0f} MB",
        "the answers themselves: 10 times their size",
        "grows by less than one answer's size",
        grown < max(1.0, len(body) / 1e6),
    )


async def long_lists(service: Service) -> None:
    """Lists of 500, of the longest texts that there may be and of log entries, from many clients at once."""
    connection = await asyncpg.connect(service.url)
    author = await connection.fetchval("SELECT id FROM users WHERE company_id = 1 LIMIT 1")
    await connection.execute(LONG, author)
    asked = [service.client(path) for path in LISTS for _ in range(CLIENTS // 2)]
    before, after_peak = service.worker_rss(), service.forget_peak()
    most = 0
    for _ in range(10):
        for status, body in await asyncio.gather(*(each.ask() for each in asked)):
            if status != 200:
                raise SystemExit(f"a list of 500: {status}")
            most = max(most, len(body))
    peak = after_peak()
    for each in asked:
        each.close()
    await connection.execute("DELETE FROM communications WHERE subject = 'long'")
    await connection.close()
    show(
        f"lists of 500 (texts of 100 kB; log entries), {CLIENTS} clients",
        f"the worker at most {peak:.0f} MB, {before:.0f} MB before; an answer up to {most / 1e6:.2f} MB",
        "500 texts of 100 kB are 50 MB",
        "≤ 120 MB",
        peak <= 120,
    )


async def rates(service: Service, seconds: float = 3.0) -> None:
    """Answers per second beside the bare query, as many at once."""
    clients = {
        path: [service.client(path) for _ in range(CLIENTS)] for path in ("/health", "/api/communications?limit=100")
    }
    figures = {path: await throughput([each.ask for each in group], seconds) for path, group in clients.items()}
    for each in (client for group in clients.values() for client in group):
        each.close()
    connections = [await asyncpg.connect(service.url) for _ in range(CLIENTS)]
    sql = "SELECT id, author_id, kind, subject, body, created_at FROM communications WHERE company_id = 1 LIMIT 101"
    bare = await throughput([lambda each=each: each.fetch(sql) for each in connections], seconds)
    for each in connections:
        await each.close()
    show(
        f"one worker, {CLIENTS} clients",
        "   ".join(f"{path} {rate:,.0f} /s, p99 {p99:.1f} ms" for path, (rate, p99) in figures.items()),
        f"the page's query on bare asyncpg: {bare[0]:,.0f} /s, p99 {bare[1]:.1f} ms (a page is three: session, count, rows)",
        "no request failed",
        True,
    )


async def lost_database(service: Service) -> None:
    """Killed, and stopped for a while: /health answers meanwhile, and how soon the worker has it back."""
    slowest, over = 0.0, asyncio.Event()
    client = service.client("/health")

    async def watch() -> None:
        nonlocal slowest
        while not over.is_set():
            slowest = max(slowest, *(await latencies(client.ask, 1)))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    asking = service.client("/api/communications")
    workers = service.instance.status_pids()["web:0"]

    async def well_again(event: float) -> float:
        while (await asking.ask())[0] != 200:
            await asyncio.sleep(0.01)
        return time.monotonic() - event

    dying = service.instance.status_pids()["db"]
    os.kill(dying, signal.SIGKILL)
    while service.instance.status_pids()["db"] in {dying, None} or not await _accepts(service.url):
        await asyncio.sleep(0.01)
    killed = await well_again(time.monotonic())
    processes = [int(each.parent.name) for each in Path("/proc").glob("[0-9]*/cwd") if _is_at(each, service)]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    await asyncio.sleep(15)
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    stopped = await well_again(time.monotonic())
    over.set()
    await watching
    same = service.instance.status_pids()["web:0"] == workers
    show(
        "the database killed, and stopped for 15 s",
        f"/health at most {slowest:.0f} ms; a page again {killed * 1000:.0f} ms and {stopped * 1000:.0f} ms after it was back",
        f"the worker is {'the same' if same else 'ANOTHER'} process",
        "/health < 1 s, back ≤ 5 s, no worker restarted",
        slowest < 1000 and max(killed, stopped) <= 5 and same,
    )


async def _accepts(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except (OSError, asyncpg.PostgresError):
        return False
    return True


def _is_at(cwd: Path, service: Service) -> bool:
    try:
        return cwd.resolve() == Path(service.instance.dir) / "data"
    except OSError:
        return False


def service_figures() -> None:
    """All of them, on one filled database."""
    port = free_port()
    here = Path(sys.executable).parent
    pool = Pool("", {})
    root = pool.dir
    url = f"postgresql:///impetus?host={root}/s&user=impetus"
    (root / "impetusd.ini").write_text(f"""
[pool:web]
app = impetus_service.app:create_app
instances = 1
listen = 127.0.0.1:{port}
depends_on = db
[program:db]
command = {here}/impetusd-postgres --data {root}/data --socket-dir {root}/s
wait_ready = yes
kill_signal = SIGINT
[program:jobs]
command = {here}/impetusd-service jobs
depends_on = db
[env:web]
DATABASE_URL = {url}
JOB_FILES_DIR = {root}/files
[env:jobs]
DATABASE_URL = {url}
JOB_FILES_DIR = {root}/files
""")
    with pool:
        service = Service(pool, port, url)
        service.prepare()

        async def main() -> None:
            print(f"{ROWS:,} audit rows in {await service.fill():.0f} s\n", flush=True)
            for measure in (
                pages,
                exports,
                long_lists,
                bench_jobs.job_export,
                rates,
                bench_jobs.maintenance,
                lost_database,
            ):
                await measure(service)

        uvloop.run(main())
