"""What impetusd takes, beside what the machine takes for the same, in one run. Start it as scripts/bench.

Every figure stands beside a limit measured in the same minute (a bare fork + exec, a bare aiohttp, an empty python), for
the machine is noisy: the ratio is what can be compared between runs. The client never tries a request again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

import uvloop
from bench_base import IMPETUSD, PYTHON, Instance, Load, compile_c, free_port, get, percentile, show
from bench_ceiling import memory_ceiling
from bench_flood import flooding_child
from bench_gateway import gateway
from bench_many import many_idle, many_started_and_stopped
from bench_reload import reloads
from bench_service import service_figures
from bench_watch import watchers

APP = """
    import time
    from aiohttp import web
    time.sleep({import_s})
    async def hello(_): return web.Response(text="hello")
    def create_app():
        app = web.Application()
        app.router.add_get("/", hello)
        return app
"""
SAYS_WHEN = (  # a program that writes the time of its first instruction, without an interpreter's start-up
    "char *argv0; int main(void){struct timespec t; clock_gettime(CLOCK_MONOTONIC,&t);"
    'dprintf(1,"%ld.%09ld\\n",t.tv_sec,t.tv_nsec); pause();}'
)


def workers_killed(rounds: int, import_s: float) -> None:
    """kill -9 both workers of a pool; how long until the first answer."""
    port = free_port()
    ini = f"[pool:web]\napp = bench_app:create_app\ninstances = 2\nlisten = 127.0.0.1:{port}\nmax_restarts = 100000\n"
    took, plain = [], []
    with Instance(ini, {"bench_app.py": APP.format(import_s=import_s)}) as instance:
        for _ in range(rounds):
            pids = instance.settle()
            for _ in range(3):
                began = time.monotonic()
                get(port)
                plain.append((time.monotonic() - began) * 1e3)
            began = time.monotonic()
            for name in ("web:0", "web:1"):
                os.kill(pids[name], signal.SIGKILL)
            get(port)
            took.append((time.monotonic() - began) * 1e3)
    show(
        f"both workers killed → first answer ({rounds} ×, the app takes {import_s:g} s to import)",
        f"p50 {statistics.median(took):.1f} ms   p99 {percentile(took, 0.99):.1f}   max {max(took):.1f}",
        f"a request with all workers there: p50 {statistics.median(plain):.1f} ms   p99 {percentile(plain, 0.99):.1f}",
        "p99 ≤ 10 ms",
        percentile(took, 0.99) <= 10,
    )


def program_killed(rounds: int) -> None:
    """kill -9 a plain program; how long until the first byte of the next, and of a bare fork + exec, by turns."""
    with tempfile.TemporaryDirectory() as folder:
        source = f"#include <stdio.h>\n#include <time.h>\n#include <unistd.h>\n{SAYS_WHEN}"
        program = compile_c(folder, "says_when", source)
        bare = []
        ini = f"[program:p]\ncommand = {program}\nmax_restarts = 100000\nmin_uptime = 10ms\n"
        took = []
        with Instance(ini, {}) as instance:
            log = instance.dir / "var/log/p-out.log"
            lines = 1
            for _ in range(rounds):
                pid = instance.settle(0.05)["p"]
                began = time.monotonic()
                os.kill(pid, signal.SIGKILL)
                lines += 1
                while len(told := log.read_text().splitlines()) < lines:
                    time.sleep(0.001)
                took.append((float(told[-1]) - began) * 1e3)
                bare.append(fork_and_exec(program))
    p50, limit = statistics.median(took), statistics.median(bare)
    show(
        f"plain program killed → first instruction of the next ({rounds} ×)",
        f"p50 {p50:.2f} ms   p99 {percentile(took, 0.99):.2f}   max {max(took):.2f}",
        f"bare fork + exec by turns: p50 {limit:.2f} ms ({p50 / limit:.2f} ×)",
        "p50 ≤ 1.5 × fork + exec",
        p50 <= 1.5 * limit,
    )


def fork_and_exec(program: str) -> float:
    """Milliseconds from before the fork to the first instruction: the least that anything in Python can take."""
    reader, writer = os.pipe()
    with open(reader, encoding="ascii") as said:
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.dup2(writer, 1)
            os.execv(program, [program])
        os.close(writer)
        took = (float(said.readline()) - began) * 1e3
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return took


def supervisor_killed(rounds: int, per_second: int = 1000) -> None:
    """kill -9 the supervisor under load; failed requests, and how long until it answers again."""
    port = free_port()
    ini = f"[pool:web]\napp = bench_app:create_app\ninstances = 2\nlisten = 127.0.0.1:{port}\n"
    took = []
    with Instance(ini, {"bench_app.py": APP.format(import_s=0)}) as instance:
        pids = instance.settle()

        def kill_all() -> None:
            for _ in range(rounds):
                began = time.monotonic()
                os.kill(instance.status()["supervisor"]["pid"], signal.SIGKILL)
                began = time.monotonic()
                instance.status()
                took.append((time.monotonic() - began) * 1e3)
                time.sleep(0.3)

        async def main() -> Load:
            load, stop = Load(port, per_second), asyncio.Event()
            running = asyncio.create_task(load.run(stop))
            await asyncio.to_thread(kill_all)
            stop.set()
            await running
            return load

        load = uvloop.run(main())
        same = instance.settle() == pids
    show(
        f"supervisor killed {rounds} × under {per_second} requests/s",
        f"{len(load.failed)} of {load.done} requests failed, slowest {load.slowest * 1e3:.0f} ms; "
        f"in charge again p50 {statistics.median(took):.0f} ms, max {max(took):.0f}; pids {'unchanged' if same else 'CHANGED'}"
        + (f"; first failure {load.failed[0]}" if load.failed else ""),
        "in charge again includes the start of the `impetusd status` that asks",
        "0 failed, ≤ 500 ms",
        not load.failed and max(took) <= 500 and same,
    )


def timed(command: list[str], rounds: int, env: dict[str, str] | None = None) -> list[float]:
    took = []
    for _ in range(rounds):
        began = time.monotonic()
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
        took.append((time.monotonic() - began) * 1e3)
    return took


def status_latency(rounds: int) -> None:
    """The whole `impetusd status`, from fork to exit."""
    with Instance("[program:p]\ncommand = sleep 1000\n", {}) as instance:
        took = timed([IMPETUSD, "status"], rounds, instance.env)
        bare = timed([PYTHON, "-c", "pass"], rounds, instance.env)
    p50 = statistics.median(took)
    show(
        f"impetusd status ({rounds} ×)",
        f"p50 {p50:.1f} ms   p99 {percentile(took, 0.99):.1f}",
        f"python -c pass: p50 {statistics.median(bare):.1f} ms ({p50 / statistics.median(bare):.1f} ×)",
        "≤ 50 ms",
        p50 <= 50,
    )


BARE = """
    import asyncio, socket, uvloop
    from aiohttp import web
    from bench_app import create_app
    async def main(port):
        runner = web.AppRunner(create_app(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        print("ready", flush=True)
        await asyncio.Event().wait()
    import sys
    uvloop.run(main(int(sys.argv[1])))
"""


async def throughput(port: int, seconds: float, clients: int = 16) -> float:
    """Requests a second over keep-alive connections, as fast as they are answered."""
    count = 0
    end = time.monotonic() + seconds

    async def client() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
        while time.monotonic() < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
            count += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return count / seconds


def requests_per_second(rounds: int, seconds: float = 1.5) -> None:
    """One worker of a pool against the same app on bare aiohttp + uvloop, by turns."""
    port, bare_port = free_port(), free_port()
    ini = f"[pool:web]\napp = bench_app:create_app\ninstances = 1\nlisten = 127.0.0.1:{port}\n"
    ratios, ours, bares = [], [], []
    with Instance(ini, {"bench_app.py": APP.format(import_s=0), "bare.py": BARE}) as instance:
        bare = subprocess.Popen(
            [PYTHON, "bare.py", str(bare_port)], cwd=instance.dir, stdout=subprocess.PIPE, env=instance.env
        )
        try:
            bare.stdout.readline()
            for number in range(rounds):
                pair = [(port, ours), (bare_port, bares)]
                for which, results in pair if number % 2 else reversed(pair):
                    results.append(uvloop.run(throughput(which, seconds)))
                ratios.append(ours[-1] / bares[-1])
        finally:
            bare.kill()
            bare.wait()
            bare.stdout.close()
    ratio = statistics.median(ratios)
    show(
        f"requests a second, one worker ({rounds} × {seconds:g} s each, by turns)",
        f"{statistics.median(ours):,.0f} /s   ratio p50 {ratio:.3f}   from {min(ratios):.3f} to {max(ratios):.3f}",
        f"bare aiohttp + uvloop: {statistics.median(bares):,.0f} /s",
        "≥ 1.0 × within noise (the range of the ratios)",
        max(ratios) >= 1.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    benches: dict[str, Callable[[int], None]] = {
        "workers": lambda n: workers_killed(n, 0),
        "heavy": lambda n: workers_killed(max(3, n // 2), 1),
        "program": lambda n: program_killed(n * 2),
        "supervisor": lambda n: supervisor_killed(max(3, n // 3)),
        "status": status_latency,
        "throughput": lambda n: requests_per_second(max(3, n // 5)),
        "many": lambda n: many_started_and_stopped(max(3, n // 10)),
        "idle": lambda _: many_idle(),
        "flood": lambda n: flooding_child(max(3, n // 10), n * 4),
        "ceiling": lambda n: memory_ceiling(max(3, n // 10)),
        "service": lambda _: service_figures(),
        "watch": lambda _: watchers(),
        "gateway": lambda n: gateway(max(3, n // 3)),
        "reload": lambda n: reloads(max(3, n // 6)),
    }
    parser.add_argument("only", nargs="*", metavar="WHICH", help=f"of {', '.join(benches)}; all of them unless named")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="how often each is done (30)")
    options = parser.parse_args()
    for name in options.only or benches:
        if name not in benches:
            parser.error(f"there is no {name}; there are {', '.join(benches)}")
        benches[name](options.rounds)


if __name__ == "__main__":
    main()
