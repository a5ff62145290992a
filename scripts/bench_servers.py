"""Servers of one application side by side: impetusd's pool, gunicorn, uvicorn, granian and PM2's cluster.

All answer with the pid of the answering process. impetusd and gunicorn run the same aiohttp application; uvicorn and
granian an ASGI callable, PM2 a Node program: they are compared where the application does not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import bench_reload
import uvloop
from bench_base import IMPETUSD, PYTHON, free_port
from bench_install import Peers
from bench_managers import PATIENCE, Failed, below_us, end_new, until

COMMANDS = bench_reload.PEERS
APP = textwrap.dedent(bench_reload.APP.format(import_s=0))
BARE = """
import asyncio, sys, uvloop
from aiohttp import web
from app import create_app
async def main(port):
    runner = web.AppRunner(create_app(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096, reuse_port=True).start()
    await asyncio.Event().wait()
uvloop.run(main(int(sys.argv[1])))
"""
NODE = """
require("http").createServer((_, answer) => {
    const body = `${process.pid}`;
    answer.writeHead(200, {"content-length": body.length});
    answer.end(body);
}).listen(PORT, "127.0.0.1");
"""
SECTIONS = {
    "aiohttp": "[pool:web]\napp = app:create_app",
    "asgi": "[pool:web]\napp = app:asgi",
    "node": "[program:web]\ncommand = node server.js",
}
NAMES = ("impetusd", *COMMANDS, "pm2 cluster")


def ask(port: int, patience: float = 2.0) -> int:
    """The pid of who answers, on a connection of its own. Raises OSError or ValueError; nothing is tried again."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
        data = b""
        while chunk := sock.recv(65536):
            data += chunk
    return int(data.rpartition(b"\r\n\r\n")[2])


@dataclass
class Server:
    """One that serves."""

    name: str
    peers: Peers
    folder: Path
    workers: int
    port: int
    keys: str = ""
    app: str = "aiohttp"  # the app that impetusd serves: the same, asgi or node

    def env(self) -> dict[str, str]:
        here = {"HOME": str(self.folder), "PYTHONPATH": str(self.folder), "PM2_HOME": f"{self.folder}/pm2"}
        return {**self.peers.env, **here, "IMPETUSD_CONF": f"{self.folder}/impetusd.ini", "PM2_DISCRETE_MODE": "true"}

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command, env=self.env(), cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        if done.returncode:
            raise Failed(f"{Path(command[0]).name} exited {done.returncode}: {(done.stderr or done.stdout)[-200:]}")

    def write(self) -> None:
        (self.folder / "app.py").write_text(APP)
        (self.folder / "bare.py").write_text(BARE)
        listen = f"instances = {self.workers}\nlisten = 127.0.0.1:{self.port}\nmax_restarts = 100000\n{self.keys}\n"
        (self.folder / "impetusd.ini").write_text(f"{SECTIONS[self.app]}\n{listen}")
        (self.folder / "server.js").write_text(NODE.replace("PORT", str(self.port)))
        app = {"name": "web", "script": "server.js", "instances": self.workers, "exec_mode": "cluster"}
        (self.folder / "apps.json").write_text(json.dumps({"apps": [app]}))

    def start(self) -> None:
        """Also again, after its manager was killed."""
        if self.name == "impetusd":
            self.run(IMPETUSD, "start")
        elif self.name == "pm2 cluster":
            self.run(self.peers.need("pm2"), "start", "apps.json")
        elif self.name == "bare":
            for _ in range(self.workers):
                self.background(PYTHON, "bare.py", str(self.port))
        else:
            command, *arguments = COMMANDS[self.name].format(n=self.workers, port=self.port).split()
            self.master = self.background(self.peers.need(command), *arguments)

    def background(self, *command: str) -> int:
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=self.env(), stdout=log, stderr=log, stdin=-3).pid

    def manager(self) -> int:
        """The pid of the process that looks after the workers."""
        if self.name == "impetusd":
            command = [IMPETUSD, "status", "--json"]
            told = subprocess.run(command, env=self.env(), capture_output=True, check=False).stdout
            return int(json.loads(told)["shim"]["pid"])
        if self.name == "pm2 cluster":
            return int((self.folder / "pm2/pm2.pid").read_text())
        return self.master

    def reload(self) -> object:
        if self.name == "impetusd":
            return subprocess.Popen([IMPETUSD, "reload", "web"], env=self.env(), stdout=subprocess.PIPE)
        if self.name == "pm2 cluster":
            return subprocess.Popen([self.peers.need("pm2"), "reload", "web"], env=self.env(), stdout=subprocess.PIPE)
        os.kill(self.master, signal.SIGHUP)
        return None

    def pids(self) -> set[int]:
        """The workers, once all have answered. Raises Failed."""
        seen: set[int] = set()

        def all_seen() -> bool:
            with contextlib.suppress(OSError, ValueError):
                seen.add(ask(self.port))
            seen.intersection_update(below_us())
            return len(seen) >= self.workers

        until(all_seen, f"{self.workers} workers of {self.name} that answer", 20)
        return seen


@contextlib.contextmanager
def serving(name: str, peers: Peers, workers: int, keys: str = "", app: str = "aiohttp") -> Iterator[Server]:
    """It, started, and all its workers answer; afterwards nothing of it is left."""
    folder = peers.scratch / f"{name.replace(' ', '-')}-{time.monotonic_ns()}"
    folder.mkdir()
    before = set(below_us())
    server = Server(name, peers, folder, workers, free_port(), keys, app)
    try:
        server.write()
        server.start()
        server.pids()
        yield server
    finally:
        if name == "impetusd":
            with contextlib.suppress(Failed, OSError, subprocess.TimeoutExpired):
                server.run(IMPETUSD, "stop")
        end_new(before)
        shutil.rmtree(folder, ignore_errors=True)


def first_answers(server: Server, rounds: int) -> tuple[list[float], list[float], int]:
    """Milliseconds from the kill of all workers to the first answer; those of plain requests; connections refused meanwhile."""
    took, plain, refused = [], [], 0
    for _ in range(rounds):
        pids = server.pids()
        time.sleep(1.1)  # the kill is the first in a row: no start is delayed
        began = time.monotonic()
        ask(server.port)
        plain.append((time.monotonic() - began) * 1e3)
        began = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        while True:
            try:
                ask(server.port)
                break
            except (OSError, ValueError):
                refused += 1
                if time.monotonic() - began > PATIENCE:
                    raise Failed(f"no answer within {PATIENCE:g} s") from None
                time.sleep(0.001)
        took.append((time.monotonic() - began) * 1e3)
    return took, plain, refused


def reloaded(server: Server, rounds: int, per_second: int) -> tuple[list[float], int, int]:
    """Seconds of each reload under load, requests that failed, and requests in all."""
    took, _, failed, done = asyncio.run(bench_reload.several(server.port, server.reload, rounds, per_second))
    return took, failed, done


async def _requests(port: int, seconds: float, clients: int) -> tuple[float, list[float]]:
    took: list[float] = []
    end = time.monotonic() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (began := time.monotonic()) < end:
            writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            took.append((time.monotonic() - began) * 1e3)
        writer.close()

    async with asyncio.timeout(seconds + PATIENCE):
        await asyncio.gather(*(client() for _ in range(clients)))
    return len(took) / seconds, took


def requests(port: int, seconds: float = 1.5, clients: int = 16) -> tuple[float, list[float]]:
    """Requests a second over keep-alive connections, as fast as they are answered, and the milliseconds of each."""
    return uvloop.run(_requests(port, seconds, clients))


async def _spread(port: int, connections: int) -> list[int]:
    async def one() -> tuple[int, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        return int(await reader.readexactly(length)), writer

    async with asyncio.timeout(PATIENCE):
        held = await asyncio.gather(*(one() for _ in range(connections)))
    for _, writer in held:
        writer.close()
    return list(Counter(pid for pid, _ in held).values())


def spread(server: Server, connections: int, rounds: int = 5) -> float:
    """Keep-alive connections opened at once: those of the worker with most ÷ the mean, the median of some rounds."""
    found = sorted(
        max(uvloop.run(_spread(server.port, connections))) * server.workers / connections for _ in range(rounds)
    )
    return found[len(found) // 2]


def pss(pids: list[int] | set[int]) -> float:
    """MB, shared pages counted by share."""
    return sum(_rollup(pid, "Pss:") for pid in pids)


def anonymous(pids: list[int]) -> float:
    return sum(_rollup(pid, "Anonymous:") for pid in pids)


def _rollup(pid: int, field: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0
