"""`watch`: what 20 clients cost the supervisor while processes of 500 units are killed and restarted, and whether one misses a number."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from bench_base import Instance, cpu, show

from impetusd.core import protocol
from impetusd.core.stream import Mirror

UNITS, CLIENTS, SECONDS = 500, 20, 15
FEW, MANY = 3, 10  # processes that are killed a second: some five changes each
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


async def _watched(instance: Instance, clients: int, kills: int) -> tuple[float, list[Client], float]:
    """What `kills` a second cost the supervisor, in shares of a core; and the numbered changes a second."""
    supervisor, pids = instance.status()["supervisor"]["pid"], list(instance.settle().values())
    made = [Client() for _ in range(clients)]
    tasks = [asyncio.create_task(each.run(f"{instance.dir}/var/run/control.sock")) for each in made]
    while not all(each.mirror.rows for each in made):
        await asyncio.sleep(0.05)
    begin, before, first = time.monotonic(), cpu(supervisor), made[0].mirror.n if made else 0
    for number in range(kills * SECONDS):
        os.kill(pids[number], signal.SIGKILL)
        await asyncio.sleep(max(0.0, begin + (number + 1) / kills - time.monotonic()))
    await asyncio.sleep(max(0.0, begin + SECONDS - time.monotonic()))
    share = (cpu(supervisor) - before) / (time.monotonic() - begin)
    for _ in range(100):  # the last change has to reach everybody
        if len({each.mirror.n for each in made}) <= 1:
            break
        await asyncio.sleep(0.1)
    newest = max((each.mirror.n for each in made), default=0)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    for each in made:
        each.missed = each.missed or ("it lags behind" if each.mirror.n != newest else "")
    return share, made, (newest - first) / SECONDS


def watchers() -> None:
    """With and without clients: the cost of the restarts alone is shown beside it."""
    ini = "".join(INI.format(number=number) for number in range(UNITS))
    with Instance(ini, {}) as instance:
        still, *_ = asyncio.run(_watched(instance, CLIENTS, 0))
        few, made, changes = asyncio.run(_watched(instance, CLIENTS, FEW))
        alone, *_ = asyncio.run(_watched(instance, 0, MANY))
        many, more, most = asyncio.run(_watched(instance, CLIENTS, MANY))
    missed = [each.missed for each in made + more if each.missed]
    show(
        f"{UNITS} units, {CLIENTS} clients of watch, {changes:.0f} changes a second ({FEW} kills) for {SECONDS} s",
        f"the supervisor takes {few * 100:.2f} % of a core; {made[0].bytes // SECONDS >> 10} kB/s a client;"
        f" {len(missed)} clients missed something" + (f": {missed[0]}" if missed else ""),
        f"no kills {still * 100:.2f} %; {MANY} kills a second ({most:.0f} changes) {many * 100:.2f} %,"
        f" and with nobody watching {alone * 100:.2f} %",
        "10 changes or more a second: < 5 %, none misses a number",
        few < 0.05 and changes >= 10 and not missed,
    )
