"""`watch`: what 20 clients cost the supervisor while 10 of 500 units change each second, and whether one misses a number."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from bench_base import Instance, cpu, show

from impetusd.core import protocol
from impetusd.core.stream import Mirror

UNITS, CLIENTS, CHANGES, SECONDS = 500, 20, 10, 20
INI = "[program:p{number}]\ncommand = sleep 100000\nmax_restarts = 100000\nmin_uptime = 10ms\n"


class Client:
    """One that watches; `missed` says what it did not get."""

    def __init__(self) -> None:
        self.mirror = Mirror()
        self.missed = ""
        self.bytes = 0

    async def run(self, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path, limit=protocol.MAX_ANSWER)
        writer.write(protocol.request_line(1, "watch", {}))
        try:
            self.mirror.begin(protocol.parse_answer(await reader.readline()).result or {})
            while line := await reader.readline():
                self.bytes += len(line)
                notice = protocol.parse_answer(line).notice
                if notice is not None:
                    self.mirror.take(*notice)
            self.missed = "it was disconnected"
        except Exception as error:
            self.missed = repr(error)
        finally:
            writer.close()


async def _watched(instance: Instance, supervisor: int, clients: int, kills: int) -> tuple[float, list[Client], int]:
    """Share of a core that the supervisor takes while processes are killed, one every 1 / CHANGES s."""
    pids = list(instance.settle().values())
    made = [Client() for _ in range(clients)]
    tasks = [asyncio.create_task(each.run(f"{instance.dir}/var/run/control.sock")) for each in made]
    while not all(each.mirror.rows for each in made):
        await asyncio.sleep(0.05)
    begin, before = time.monotonic(), cpu(supervisor)
    for number in range(kills):
        os.kill(pids[number], signal.SIGKILL)
        await asyncio.sleep(max(0.0, begin + (number + 1) / CHANGES - time.monotonic()))
    await asyncio.sleep(max(0.0, begin + SECONDS - time.monotonic()))
    share = (cpu(supervisor) - before) / (time.monotonic() - begin)
    for _ in range(100):
        if len({each.mirror.n for each in made}) <= 1:
            break
        await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return share, made, max((each.mirror.n for each in made), default=0)


def watchers() -> None:
    """With and without clients: what the restarts cost anyway is told beside it."""
    ini = "".join(INI.format(number=number) for number in range(UNITS))
    with Instance(ini, {}) as instance:
        supervisor = instance.status()["supervisor"]["pid"]
        alone, _, _ = asyncio.run(_watched(instance, supervisor, 0, SECONDS * CHANGES))
        still, _, _ = asyncio.run(_watched(instance, supervisor, CLIENTS, 0))
        share, made, newest = asyncio.run(_watched(instance, supervisor, CLIENTS, SECONDS * CHANGES))
    missed = [each.missed or "it lags behind" for each in made if each.missed or each.mirror.n != newest]
    show(
        f"{UNITS} units, {CLIENTS} clients of watch, {CHANGES} kills and restarts a second for {SECONDS} s",
        f"the supervisor takes {share * 100:.2f} % of a core; {made[0].bytes // SECONDS >> 10} kB/s a client;"
        f" {len(missed)} clients missed something" + (f": {missed[0]}" if missed else ""),
        f"the same restarts with nobody watching {alone * 100:.2f} %; {CLIENTS} clients and no restarts {still * 100:.2f} %",
        "< 5 %, none misses a number",
        share < 0.05 and not missed,
    )
