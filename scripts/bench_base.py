"""What the benches share: an impetusd of their own, a load without retries, and the format of figures."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Self

PYTHON = sys.executable
ANSWER_WITHIN = 10.0  # seconds after which a request has failed
IMPETUSD = str(Path(sys.executable).with_name("impetusd"))


class Instance:
    """An impetusd of its own in a temporary folder."""

    def __init__(self, ini: str, files: dict[str, str], *, start: bool = True) -> None:
        self.start = start
        self.dir = Path(tempfile.mkdtemp(prefix="ib-"))
        (self.dir / "impetusd.ini").write_text(textwrap.dedent(ini))
        for name, text in files.items():
            (self.dir / name).write_text(textwrap.dedent(text))
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "IMPETUSD_CONF": str(self.dir / "impetusd.ini")}

    def __enter__(self) -> Self:
        if self.start:
            try:
                self.run("start")
            except SystemExit:  # not everything is up; the daemon is
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.start:
            self.run("stop")
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self.dir)

    def run(self, *args: str) -> str:
        done = subprocess.run([IMPETUSD, *args], env=self.env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"impetusd {' '.join(args)} exited {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def status(self) -> dict:
        """Ignores the exit status: `status` exits 1 while something is not up."""
        done = subprocess.run([IMPETUSD, "status", "--json"], env=self.env, capture_output=True, check=False)
        return json.loads(done.stdout)

    def settle(self, uptime: float = 1.1) -> dict[str, int]:
        """Wait until all have been RUNNING long enough for a kill to be the first in a row. Returns pids by name."""
        while True:
            rows = self.status()["units"]
            if all(row["state"] == "RUNNING" and row["uptime_s"] >= uptime for row in rows):
                return {row["name"]: row["pid"] for row in rows}
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def show(what: str, figure: str, beside: str, target: str, ok: bool) -> None:
    verdict = "PASS" if ok else "SHORT OF IT"
    busy = f"load average {os.getloadavg()[0]:.2f}"
    print(f"{what}\n    {figure}\n    beside: {beside}\n    target: {target}: {verdict} ({busy})\n", flush=True)


def get(port: int, path: str = "/") -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode())
        data = b""
        while chunk := sock.recv(65536):
            data += chunk
    if b" 200 " not in data[:16]:
        raise SystemExit(f"an answer without 200: {data[:80]!r}")
    return data


class Load:
    """A steady load on keep-alive connections and on one connection a request, half each. Nothing is tried again."""

    def __init__(self, port: int, per_second: int, clients: int = 20) -> None:
        self.port = port
        self.interval = clients / per_second
        self.clients = clients
        self.done = 0
        self.failed: list[str] = []
        self.slowest = 0.0
        self.seen: dict[bytes, float] = {}  # a body → when it came first

    async def run(self, stop: asyncio.Event) -> None:
        await asyncio.gather(*(self._client(number, stop) for number in range(self.clients)))

    async def _client(self, number: int, stop: asyncio.Event) -> None:
        keep = number % 2 == 0
        streams = None
        due = time.monotonic() + self.interval * number / self.clients
        while not stop.is_set():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due + self.interval, time.monotonic())
            began = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_WITHIN):
                    streams = streams or await asyncio.open_connection("127.0.0.1", self.port)
                    reader, writer = streams
                    connection = b"keep-alive" if keep else b"close"
                    writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: " + connection + b"\r\n\r\n")
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length:")[2].split()[0])
                    body = await reader.readexactly(length)
                if b" 200 " in head[:16]:
                    self.seen.setdefault(body, time.monotonic())
                    self.slowest = max(self.slowest, time.monotonic() - began)
                else:
                    self.failed.append(head[:40].decode())
                if not keep or b"connection: close" in head.lower():
                    writer.close()
                    streams = None
            except (OSError, asyncio.IncompleteReadError, ValueError, IndexError) as error:
                self.failed.append(repr(error))
                streams = None
            self.done += 1
        if streams:
            streams[1].close()


def cpu(*pids: int) -> float:
    """Seconds of CPU that these processes have taken, all their threads together, to the nanosecond."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) / 1e9
        for pid in pids
        for task in Path(f"/proc/{pid}/task").iterdir()
    )


def compile_c(folder: str, name: str, source: str) -> str:
    """The path of a program made of C source: it starts without an interpreter's start-up."""
    program = f"{folder}/{name}"
    subprocess.run(["cc", "-O1", "-x", "c", "-", "-o", program], input=source.encode(), check=True)
    return program
