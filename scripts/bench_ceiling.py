"""The memory ceiling: how far over it a leaking worker is at the decision, and whether any request notices."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import uvloop
from bench_base import Instance, Load, free_port, get, show

CEILING = 200  # MB
LEAK_APP = Path(__file__).parent.parent / "tests/programs/leak_app.py"  # /grow takes 20 MB more each second


def memory_ceiling(rounds: int, per_second: int = 500) -> None:
    """A worker of two leaks under load until it has been replaced; each time in a fresh pool."""
    over, done, failed, slowest = [], 0, [], 0.0
    for _ in range(rounds):
        port = free_port()
        keys = f"instances = 2\nlisten = 127.0.0.1:{port}\nmax_memory_restart = {CEILING}M"
        with Instance(f"[pool:web]\napp = leak_app:make\n{keys}\n", {"leak_app.py": LEAK_APP.read_text()}) as instance:
            instance.settle()

            def leak(instance: Instance = instance, port: int = port) -> None:
                leaking = int(get(port, "/grow").rsplit(b"\n", 1)[1])
                name = next(row["name"] for row in instance.status()["units"] if row["pid"] == leaking)
                while True:
                    rows = {row["name"]: row for row in instance.status()["units"]}
                    gone = not any(name.endswith(":leaving") for name in rows)
                    if gone and rows[name]["pid"] != leaking and rows[name]["state"] == "RUNNING":
                        return
                    time.sleep(0.2)

            async def main(port: int = port) -> Load:
                load, stop = Load(port, per_second), asyncio.Event()
                running = asyncio.create_task(load.run(stop))
                try:
                    await asyncio.wait_for(asyncio.to_thread(leak), 60)
                finally:
                    stop.set()
                    await running
                return load

            load = uvloop.run(main())
            log = (instance.dir / "var/log/impetusd.log").read_text()
        over += [int(size) - CEILING for size in re.findall(r"uses (\d+) MB.*, over max_memory_restart", log)[:1]]
        done, slowest = done + load.done, max(slowest, load.slowest)
        failed += load.failed
    show(
        f"a worker leaks 20 MB/s under a ceiling of {CEILING} MB, at {per_second} requests/s ({rounds} ×)",
        f"{' '.join(map(str, over))} MB over it at the decision, as its reason says;"
        f" {len(failed)} of {done} requests failed, slowest {slowest * 1e3:.0f} ms"
        + (f"; first failure {failed[0]}" if failed else ""),
        "another sample would come a few ms before it; peers: 20 to 694 MB over",
        "≤ 10 MB over, 0 failed",
        len(over) == rounds and max(over) <= 10 and not failed,
    )
