"""The rows about process managers: see bench_peers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench_flood
import bench_servers
import uvloop
from bench_base import PYTHON, Load, compile_c, cpu, free_port, percentile
from bench_install import Missing, Peers
from bench_managers import (
    MANAGERS,
    Failed,
    Impetusd,
    Manager,
    Pm2,
    all_ended,
    below_us,
    descendants,
    ran,
    running,
    started,
    until,
)
from bench_many import BARE
from bench_row import US, Row
from bench_servers import NAMES, anonymous, pss, serving

COUNT = 500
WINDOW = 15.0  # seconds of which the idle CPU is taken


def program_killed(peers: Peers, rounds: int = 15) -> list[Row]:
    """All managers at once, each with a program; by turns, and a bare fork + exec in each round."""
    p50 = Row(f"plain program killed → first instruction of the next, ms, p50 of {rounds}", "-")
    bare, took = [], {kind.name: [] for kind in MANAGERS}  # type: ignore[var-annotated]
    with contextlib.ExitStack() as stack:
        there: list[Manager] = []
        for kind in MANAGERS:

            def start(kind: type[Manager] = kind) -> float:
                manager = stack.enter_context(running(kind, peers))
                started(manager.program, 1)
                there.append(manager)
                return 0.0

            p50.add(kind.name, start)
        for _ in range(rounds):
            time.sleep(1.15)  # all of them count a program that ran for a second as one that had started
            for manager in list(there):
                before = ran(manager.program)
                began = time.monotonic()
                os.kill(before[-1][0], signal.SIGKILL)
                try:
                    took[manager.name].append((started(manager.program, len(before) + 1) - began) * 1e3)
                except Failed as error:
                    there.remove(manager)
                    p50.found[manager.name] = str(error)
            bare.append(_fork_and_exec(peers))
    limit = statistics.median(bare)
    p50.limit = f"fork + exec from Python: p50 {limit:.1f}, p99 {percentile(bare, 0.99):.1f}"
    for manager in there:
        each = took[manager.name]
        p50.found[manager.name] = statistics.median(each)
        p50.notes[manager.name] = (
            f"p99 {percentile(each, 0.99):.1f}, {statistics.median(each) / limit:.2f} × fork + exec"
        )
    return [p50]


def _fork_and_exec(peers: Peers) -> float:
    """Milliseconds from before the fork to the first instruction: the least that anything in Python can take."""
    program = Path(peers.programs["IDLE"])
    count = len(ran(program)) + 1
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.execv(program, [str(program)])
    try:
        return (started(program, count) - began) * 1e3
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def status_ms(manager: Manager, rounds: int = 7) -> float:
    """In multiples of `python -c pass`, by turns."""
    ours, bare = [], []
    for _ in range(rounds):
        for command, times in ((manager.status(), ours), ([PYTHON, "-c", "pass"], bare)):
            began = time.monotonic()
            manager.run(*command, check=False)
            times.append(time.monotonic() - began)
    return statistics.median(ours) / statistics.median(bare)


def at_one(peers: Peers) -> list[Row]:
    """One program: what it takes to ask, and the memory of the manager."""
    asked = Row("status at 1 program, × python -c pass", "1")
    memory = Row("memory of the manager at 1 program, PSS in MB", "-")
    for kind in MANAGERS:

        def measure(kind: type[Manager] = kind) -> float:
            with running(kind, peers) as manager:
                started(manager.program, 1)
                time.sleep(1)
                memory.add(kind.name, lambda: pss(manager.own()))
                memory.notes[kind.name] = f"anonymous {anonymous(manager.own()):.1f}"
                return status_ms(manager)

        asked.add(kind.name, measure)
    return [asked, memory]


def at_many(peers: Peers, count: int = COUNT) -> list[Row]:
    """Started, asked, left alone and stopped, one manager after the other."""
    text = subprocess.run([PYTHON, "-ISc", BARE, str(count)], check=True, capture_output=True, text=True).stdout
    up, down = map(float, text.split())
    start = Row(f"{count} programs started, s (with the manager's own start)", f"{count} × fork + exec: {up:.2f}")
    stop = Row(f"{count} programs stopped, s (until all have ended, the manager too)", f"{down:.2f}")
    asked = Row(f"status at {count}, × python -c pass", "1")
    idle = Row(f"{count} idle programs: CPU of the manager, ms a minute (of {WINDOW:g} s)", "0")
    memory = Row(f"memory of the manager at {count} programs, PSS in MB", "-")

    def one(kind: type[Manager]) -> float:
        began = time.monotonic()
        with running(kind, peers, count=count) as manager:
            took = started(manager.program, count) - began
            asked.add(kind.name, lambda: status_ms(manager, 3))
            time.sleep(8)  # the first looks are closer together
            own = manager.own()
            before = cpu(*own)
            time.sleep(WINDOW)
            idle.add(kind.name, lambda: (cpu(*own) - before) * 60e3 / WINDOW)
            memory.add(kind.name, lambda: pss(own))
            memory.notes[kind.name] = f"anonymous {anonymous(own):.1f}"

            def stopped() -> float:
                pids = descendants(manager.root())
                began = time.monotonic()
                manager.stop()
                return all_ended(pids) - began

            stop.add(kind.name, stopped)
            return took

    for kind in MANAGERS:
        start.add(kind.name, lambda kind=kind: one(kind))
    return [start, stop, asked, idle, memory]


def stopping(peers: Peers, count: int = 20) -> Iterator[Row]:
    """As the manager stops everything, with its own means to kill at a deadline."""
    for program, stop_s, what, limit in (
        ("SLOW", 10, "take 3 s to end", "3.0"),
        ("DEAF", 2, "ignore SIGTERM, killed after 2 s", "2.0"),
        ("PARENT", 2, "left a daemon of their own: how many of those live on", "0"),
    ):
        row = Row(f"{count} programs stopped, that {what}" + ("" if program == "PARENT" else ", s"), limit)
        for kind in MANAGERS:

            def one(kind: type[Manager] = kind, program: str = program, stop_s: int = stop_s) -> float:
                with running(kind, peers, program, count=count, stop_s=stop_s) as manager:
                    runs = count * (2 if program == "PARENT" else 1)
                    started(manager.program, runs)
                    time.sleep(1.2)
                    theirs = {pid for pid, _ in ran(manager.program)}
                    pids = descendants(manager.root())
                    began = time.monotonic()
                    manager.stop()
                    if program != "PARENT":
                        return all_ended(pids) - began
                    all_ended([pid for pid in pids if pid not in theirs])
                    with contextlib.suppress(Failed):
                        until(lambda: not _daemons(manager), "the daemons ended", 3)
                    return float(_daemons(manager))

            row.add(kind.name, one)
        yield row


def _daemons(manager: Manager) -> int:
    """Those that run the program still."""
    program = os.stat(manager.program)

    def runs(pid: int) -> bool:
        with contextlib.suppress(OSError):
            there = os.stat(f"/proc/{pid}/exe")
            return (there.st_dev, there.st_ino) == (program.st_dev, program.st_ino)
        return False

    return sum(map(runs, below_us()))


def leak(peers: Peers, ceiling: int = 200, rounds: int = 2) -> list[Row]:
    """One leaks 20 MB/s; how large it was last seen before it was ended, every 5 ms."""
    row = Row(f"a leak of 20 MB/s under a ceiling of {ceiling} MB: MB over it, the worst of {rounds}", "-")
    keys = {Impetusd: f"max_memory_restart = {ceiling}M", Pm2: f'{{"max_memory_restart": "{ceiling}M"}}'}
    for kind in MANAGERS:

        def one(kind: type[Manager] = kind) -> float:
            if kind not in keys:
                raise Missing("has no ceiling of its own")
            over = 0.0
            with running(kind, peers, "LEAK", keys=keys[kind]) as manager:
                for number in range(rounds):
                    started(manager.program, number + 1)
                    over = max(over, _grown(ran(manager.program)[number][0]) - ceiling)
            return over

        row.add(kind.name, one)
    return [row]


def _grown(pid: int) -> float:
    """MB of a process when it was last seen. Raises Failed after 90 s."""
    size = 0
    end = time.monotonic() + 90
    with contextlib.suppress(OSError, IndexError):
        while pages := int(Path(f"/proc/{pid}/statm").read_text().split()[1]):
            size = pages * 4096
            if time.monotonic() > end:
                raise Failed("not ended within 90 s")
            time.sleep(0.005)
    return size / (1 << 20)


SERVES = """#!{python}
import os, socket, time
with open(os.path.realpath(__file__) + ".ran", "a") as file:
    file.write(f"{{os.getpid():010d}} {{time.monotonic():020.9f}}\\n")
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
sock.bind(("127.0.0.1", {port}))
sock.listen(4096)
body = b"%d" % os.getpid()
while True:
    peer, _ = sock.accept()
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
    peer.close()
"""


def manager_killed(peers: Peers) -> list[Row]:
    """SIGKILL to all of the manager's own processes under load, and its start again a second later."""
    failed_row = Row("manager killed under 300 requests/s, then started again: requests that failed", "0")
    copies_row = Row("… copies of the program (or sets of workers) that run in the end", "1")

    def judge(name: str, load: Load, same: bool) -> float:
        failed_row.notes[name] = f"of {load.done:,}; {'same pid' if same else 'another pid'}"
        return float(len(load.failed))

    def one(kind: type[Manager]) -> float:
        port = free_port()
        with running(kind, peers, SERVES.format(python=PYTHON, port=port)) as manager:
            started(manager.program, 1)
            until(lambda: _answers(port), "its program answers")
            time.sleep(1.2)
            first = ran(manager.program)[0][0]

            def kill_and_start() -> None:
                for pid in manager.own():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(1)
                _again(manager)
                with contextlib.suppress(Failed):  # one that starts it twice may take its time
                    until(lambda: len(ran(manager.program)) > 1, "a second copy", 6)

            load = uvloop.run(_under_load(port, kill_and_start))
            alive = {pid for pid, _ in ran(manager.program)} & set(below_us())
            copies_row.found[kind.name] = float(len(alive))
            return judge(kind.name, load, first in alive)

    def server_one(name: str) -> float:
        with serving(name, peers, 2) as server:
            before = server.pids()

            def kill_and_start() -> None:
                os.kill(server.manager(), signal.SIGKILL)
                time.sleep(1)
                server.start()
                time.sleep(2)

            load = uvloop.run(_under_load(server.port, kill_and_start))
            return judge(name, load, server.pids() == before)

    for kind in MANAGERS:
        failed_row.add(kind.name, lambda kind=kind: one(kind))
    for name in NAMES[1:]:
        failed_row.add(name, lambda name=name: server_one(name))
    return [failed_row, copies_row]


def _again(manager: Manager) -> None:
    """Its start as the operator's tools would give it, over what is there."""
    with contextlib.suppress(FileExistsError):
        manager.start()


def _answers(port: int) -> bool:
    try:
        return bench_servers.ask(port) > 0
    except (OSError, ValueError):
        return False


async def _under_load(port: int, act: Callable[[], None]) -> Load:
    load, stop = Load(port, 300), asyncio.Event()
    going = asyncio.create_task(load.run(stop))
    await asyncio.sleep(0.5)
    try:
        await asyncio.to_thread(act)
    finally:
        stop.set()
        await going
    return load


def _rounded(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def flood(peers: Peers) -> list[Row]:
    rate = Row("output of a flooding child, 64 KiB writes, MB/s, median of 3", "-", max)
    spent = Row("… CPU of the manager, s a GiB", "-")
    ways = {
        US: bench_flood.through_impetusd,
        "supervisord": bench_flood.through_supervisord,
        "cat": bench_flood.through_cat,
    }
    with tempfile.TemporaryDirectory(dir=peers.scratch) as tools:
        program = compile_c(tools, "flood", bench_flood.FLOOD)
        for name, way in ways.items():

            def one(way: Callable[..., tuple[float, float]] = way, name: str = name) -> float:
                found = []
                for _ in range(3):
                    with bench_flood.scratch() as folder:
                        found.append(way(program, folder))
                spent.found[name] = statistics.median(each[1] for each in found)
                return statistics.median(each[0] for each in found)

            rate.add(name, one)
    rate.limit = f"cat > file: {_rounded(rate.found.pop('cat'))}"
    spent.limit = f"cat: {_rounded(spent.found.pop('cat', '-'))}"
    return [rate, spent]
