"""Work beside the requests, with a million audit rows: a job that exports them all, and maintenance that deletes half."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from bench_base import percentile, show

if TYPE_CHECKING:
    from bench_service import Service

PER_SECOND = 200
CLIENTS = 20
KEPT_DAYS = 40  # of the 81 that the rows span


def _rss(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024 / 1e6


def _ask(service: Service, method: str, path: str, body: object = None) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.port}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {service.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return response.read()


async def job_export(service: Service) -> None:
    """A million rows to a CSV file: the memory of the job worker, and then of the web worker that sends the file."""
    pid = service.instance.status_pids()["jobs"]
    small = json.loads(_ask(service, "POST", "/api/jobs/exports", {"format": "csv", "user": 7}))
    while json.loads(_ask(service, "GET", f"/api/jobs/{small['id']}"))["state"] != "succeeded":
        await asyncio.sleep(0.05)
    before, sizes, began = _rss(pid), [0.0], time.monotonic()
    job = json.loads(_ask(service, "POST", "/api/jobs/exports", {"format": "csv"}))
    while job["state"] in {"queued", "running"}:
        await asyncio.sleep(0.1)
        sizes.append(_rss(pid))
        job = json.loads(_ask(service, "GET", f"/api/jobs/{job['id']}"))
    seconds = time.monotonic() - began
    if job["state"] != "succeeded":
        raise SystemExit(f"the job {job['state']}: {job['error']}")
    web, size = service.worker_rss(), job["result"]["bytes"] / 1e6
    sent = await asyncio.to_thread(_ask, service, "GET", f"/api/jobs/{job['id']}/file")
    if len(sent) != job["result"]["bytes"] or sent.count(b"\n") != job["result"]["rows"] + 1:
        raise SystemExit("the file is not what the job says")
    grown, served = max(sizes) - before, service.worker_rss() - web
    show(
        f"a job exports {job['result']['rows']:,} rows to a file of {size:.0f} MB",
        f"{seconds:.1f} s; the job worker grew by {grown:.1f} MB from {before:.0f} MB, the web worker that sent it by {served:.1f}",
        "a job of 20,000 rows before it",
        "each grows by less than 10 MB",
        max(grown, served) < 10,
    )


async def maintenance(service: Service) -> None:
    """Half of the rows deleted and the tables vacuumed under a steady load, beside that load alone."""
    over, found, failed = asyncio.Event(), [], []

    async def one(number: int) -> None:
        client = service.client("/api/communications?limit=100")
        interval = CLIENTS / PER_SECOND
        due = time.monotonic() + interval * number / CLIENTS
        while not over.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            asked, due = due, due + interval
            status, _ = await client.ask()
            found.append(time.monotonic() - asked)  # from when it was due: what waits for others counts
            if status != 200:
                failed.append(status)
        client.close()

    load = [asyncio.create_task(one(number)) for number in range(CLIENTS)]
    await asyncio.sleep(10)
    alone, began = found.copy(), time.monotonic()
    found.clear()
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("impetusd-service"), "maintenance",
        env={**service.instance.env, "DATABASE_URL": service.url, "AUDIT_LOG_RETENTION_DAYS": str(KEPT_DAYS)},
        stdout=subprocess.PIPE,
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    seconds = time.monotonic() - began
    over.set()
    await asyncio.gather(*load)
    deleted = int(re.findall(r"^audit_logs older than .* days +(\d+)", said, re.MULTILINE)[0])
    if process.returncode or failed:
        raise SystemExit(f"maintenance exited {process.returncode}, {len(failed)} requests failed\n{said}")
    show(
        f"maintenance deletes {deleted:,} rows in {seconds:.1f} s, {len(found) / seconds:.0f} requests/s meanwhile",
        f"the slowest {max(found) * 1000:.0f} ms, p99 {percentile(found, 0.99) * 1000:.1f} ms",
        f"the same load alone: the slowest {max(alone) * 1000:.0f} ms, p99 {percentile(alone, 0.99) * 1000:.1f} ms",
        "none over 1 s",
        max(found) < 1,
    )
