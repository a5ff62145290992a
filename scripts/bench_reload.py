"""A good reload under load, beside gunicorn's, uvicorn's and granian's SIGHUP: how long, the slowest answer, what failed.

Over means: every worker is a new process and has answered, and every old process is gone. All serve the same answer from
the same module, which takes its time to import; gunicorn runs aiohttp's own worker, the other two an ASGI callable of it.
The peers go into an environment of their own that is thrown away; they are no dependencies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

from bench_base import IMPETUSD, PYTHON, Instance, Load, free_port, show

WORKERS = 4
PER_SECOND = 400
PATIENCE = 60.0  # seconds until a reload counts as one that never ends
APP = """
    import os, time
    from aiohttp import web
    time.sleep({import_s})
    async def hello(_): return web.Response(text=str(os.getpid()))
    def create_app():
        app = web.Application()
        app.router.add_get("/", hello)
        return app
    async def make():  # as gunicorn's worker wants it
        return create_app()
    async def asgi(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({{"type": message["type"] + ".complete"}})
                if message["type"] == "lifespan.shutdown":
                    return
        body = str(os.getpid()).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({{"type": "http.response.start", "status": 200, "headers": headers}})
        await send({{"type": "http.response.body", "body": body}})
"""
PEERS = {
    "gunicorn": "gunicorn -k aiohttp.GunicornUVLoopWebWorker -w {n} -b 127.0.0.1:{port} app:make",
    "uvicorn": "uvicorn --workers {n} --host 127.0.0.1 --port {port} --no-access-log --timeout-worker-healthcheck 60 app:asgi",
    "granian": "granian --interface asgi --workers {n} --host 127.0.0.1 --port {port} --no-ws --respawn-failed-workers app:asgi",
}


async def one(
    port: int, ask: Callable[[], object], old: set[int], per_second: int = PER_SECOND
) -> tuple[float, Load, set[int]]:
    """Ask for a reload under load; seconds until it is over, the load, and the pids of the new workers."""
    load, stop = Load(port, per_second), asyncio.Event()
    running = asyncio.ensure_future(load.run(stop))
    await asyncio.sleep(0.5)
    load.seen.clear()
    load.slowest = 0.0
    began = time.monotonic()
    asked = await asyncio.to_thread(ask)
    new: set[int] = set()
    while time.monotonic() - began < PATIENCE:
        new = {int(body) for body in load.seen} - old
        if len(new) >= WORKERS and not any(map(alive, old)):
            break
        await asyncio.sleep(0.005)
    took = time.monotonic() - began
    await asyncio.sleep(0.5)
    stop.set()
    await running
    if isinstance(asked, subprocess.Popen):
        asked.communicate()
    return took, load, {pid for pid in new if alive(pid)}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


async def workers(port: int) -> set[int]:
    """The pids that answer, once all do."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        load, stop = Load(port, PER_SECOND), asyncio.Event()
        running = asyncio.ensure_future(load.run(stop))
        await asyncio.sleep(1.0)
        stop.set()
        await running
        pids = {int(body) for body in load.seen}
        if len(pids) == WORKERS and not load.failed:
            return pids
    raise SystemExit(f"{WORKERS} workers on port {port} did not answer within {PATIENCE:g} s")


async def several(
    port: int, ask: Callable[[], object], rounds: int, per_second: int = PER_SECOND
) -> tuple[list[float], list[float], int, int]:
    """Seconds of each reload, its slowest answer, requests that failed, and requests in all."""
    took, slowest, failed, done = [], [], 0, 0
    pids = await workers(port)
    for _ in range(rounds):
        seconds, load, pids = await one(port, ask, pids, per_second)
        took.append(seconds)
        slowest.append(load.slowest)
        failed += len(load.failed)
        done += load.done
        if seconds >= PATIENCE:
            break
        if len(pids) != WORKERS:
            pids = await workers(port)
    return took, slowest, failed, done


def line(name: str, took: list[float], slowest: list[float], failed: int, done: int) -> str:
    over = f"{statistics.median(took):.2f} s" if max(took) < PATIENCE else f"not over after {PATIENCE:g} s"
    return (
        f"{name}: {over} (max {max(took):.2f}), slowest answer {max(slowest) * 1e3:.0f} ms, {failed} of {done} failed"
    )


def ours(import_s: float, rounds: int, keys: str) -> tuple[list[float], list[float], int, int]:
    port = free_port()
    ini = f"[pool:web]\napp = app:create_app\ninstances = {WORKERS}\nlisten = 127.0.0.1:{port}\n{keys}"
    with Instance(ini, {"app.py": APP.format(import_s=import_s)}) as instance:

        def ask() -> subprocess.Popen[bytes]:
            return subprocess.Popen([IMPETUSD, "reload", "web"], env=instance.env, stdout=subprocess.PIPE)

        return asyncio.run(several(port, ask, rounds))


def peer(command: str, bin_dir: Path, import_s: float, rounds: int) -> tuple[list[float], list[float], int, int]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "app.py").write_text(
            "".join(each[4:] + "\n" for each in APP.format(import_s=import_s).split("\n"))
        )
        argv = command.format(n=WORKERS, port=port).split()
        env = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "PYTHONPATH": folder}
        with open(f"{folder}/log", "wb") as log:
            master = subprocess.Popen(
                [str(bin_dir / argv[0]), *argv[1:]], cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            while True:
                try:
                    with_answer = asyncio.run(_ping(port))
                except OSError:
                    with_answer = False
                if with_answer:
                    break
                if master.poll() is not None:
                    raise SystemExit(f"{command} ended:\n{Path(folder, 'log').read_text()}")
                time.sleep(0.05)
            return asyncio.run(several(port, lambda: os.kill(master.pid, signal.SIGHUP), rounds))
        finally:
            os.killpg(master.pid, signal.SIGKILL)
            master.wait()


async def _ping(port: int) -> bool:
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()
    return True


def imported(import_s: float, rounds: int) -> float:
    """Seconds that a python takes to import the app, and nothing else: what no reload can be faster than."""
    took = []
    with Instance("", {"app.py": APP.format(import_s=import_s)}, start=False) as instance:
        for _ in range(rounds):
            began = time.monotonic()
            subprocess.run([PYTHON, "-c", "import app"], cwd=instance.dir, env=instance.env, check=True)
            took.append(time.monotonic() - began)
    return statistics.median(took)


def reloads(rounds: int) -> None:
    """With an app that is imported at once, and with one that takes 2 s."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        bin_dir = Path(folder) / "bin"
        install = [bin_dir / "python", "-m", "pip", "install", "-q", *PEERS, "aiohttp", "uvloop"]
        subprocess.run(list(map(str, install)), check=True)
        for import_s in (0.0, 2.0):
            least = [("impetusd", ours(import_s, rounds, "reload_watch = 0\n"))]
            default = ours(import_s, rounds, "")
            least += [(name, peer(command, bin_dir, import_s, rounds)) for name, command in PEERS.items()]
            took, _, failed, _ = least[0][1]
            bare = imported(import_s, rounds)
            show(
                f"reload of {WORKERS} workers under {PER_SECOND} requests a second ({rounds} ×, import {import_s:g} s)",
                line("reload_watch = 0", *least[0][1]) + "\n    " + line("as shipped (watches for 1 s)", *default),
                "\n            ".join(
                    [
                        f"python -c 'import app': {bare:.2f} s",
                        *(line(name, *figures) for name, figures in least[1:]),
                    ]
                ),
                "0 failed; median ≤ that import + 0.3 s, without a watch",
                failed + default[2] == 0 and statistics.median(took) <= bare + 0.3,
            )
