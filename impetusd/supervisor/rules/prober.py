"""Runs the probes of health checks without blocking the event loop: each request in a thread, each command as a job.

A thread lives only as long as its probe: between two probes there is none, and one that hangs in a name lookup delays
no other check. It is a daemon thread, so it does not hold up the end of the supervisor either.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

from impetusd import probe
from impetusd.core.config.model import Health, Unit
from impetusd.core.rules import health
from impetusd.core.rules.health import Result
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.slots.entry import Entry

LOOK_UP = 1.0  # seconds beyond the timeout after which the thread itself should have answered


async def in_thread(ask: Callable[[], Result], limit: float) -> Result:
    """The answer to `ask`, which blocks for `limit` seconds at most, unless it hangs in the look-up of a name."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result) -> None:
        if not future.done():
            future.set_result(result)

    def run() -> None:
        try:
            result = ask()
        except Exception as error:
            result = Result(False, f"cannot send the check: {error!r}", blame=False)
        try:
            loop.call_soon_threadsafe(settle, result)
        except RuntimeError:
            pass  # the loop is closed: nobody wants to know any more

    try:
        threading.Thread(target=run, name="probe", daemon=True).start()
    except RuntimeError as error:
        return Result(False, f"cannot send the check: {error}", blame=False)
    try:
        async with asyncio.timeout(limit + LOOK_UP):
            return await future
    except TimeoutError:
        return Result(False, f"DNS lookup took longer than {limit:g} s", limit, blame=False)


class Prober:
    """The interface that `Checks` probes through."""

    def __init__(
        self,
        *,
        connect: Callable[[Entry], socket.socket | None],
        run_job: Callable[[Unit], Awaitable[tuple[Exit, Sequence[str]]]],
    ) -> None:
        """`connect(worker)`: our end of a connection that the worker accepts as one of its own, None if there is no way
        to it. `run_job(unit)` runs the one-shot process to its end: how it ended, and its last lines; if cancelled it
        ends the process, and returns or raises once nothing of it is left.
        """
        self._connect = connect
        self._run_job = run_job
        self._ending: dict[
            str, asyncio.Future[tuple[Exit, Sequence[str]]]
        ] = {}  # of a check: its run that came to its timeout

    async def ask(self, check: Health, worker: Entry | None) -> Result:
        """Probe once; `worker` is the target if each is probed by itself."""
        if check.unit is not None:
            return await self._run(check, check.unit)
        if check.tcp:
            return await in_thread(lambda: probe.connect(check.tcp, check.timeout), check.timeout)
        connection = None
        if worker is not None and health.asks_each_worker(check):
            connection = self._connect(worker)
            if connection is None:
                return Result(False, "cannot send the check: no channel to the worker", blame=False)
        what = probe.Get(
            check.http,
            status=check.status,
            body=check.body,
            headers=check.headers,
            socket=check.socket,
            ca_file=check.ca_file,
            verify=check.verify,
        )
        return await in_thread(lambda: probe.get(what, check.timeout, connection), check.timeout)

    async def _run(self, check: Health, unit: Unit) -> Result:
        if check.name in self._ending:
            return Result(False, "not checked: the previous run of its command has not ended", blame=False)
        began = time.monotonic()
        job = asyncio.ensure_future(self._run_job(unit))
        try:
            await asyncio.wait({job}, timeout=check.timeout)
        finally:
            if not job.done():
                job.cancel()
                self._ending[check.name] = job
                job.add_done_callback(lambda ended: self._ended(check.name, ended))
        took = time.monotonic() - began
        if check.name in self._ending:
            return Result(False, f"timed out after {check.timeout:g} s", took)
        try:
            end, tail = job.result()
        except Exception as error:
            return Result(False, f"cannot run its command: {error}", took, blame=False)
        said = probe.one_line(next((line for line in reversed(tail) if line.strip()), ""))
        text = f"{end.reason}: {said}" if said and end.code != 0 else str(end.reason)
        return Result(end.code == 0, text, took, blame=not end.failed)

    def _ended(self, name: str, job: asyncio.Future[tuple[Exit, Sequence[str]]]) -> None:
        del self._ending[name]
        if not job.cancelled():
            job.exception()  # looked at, so that asyncio does not complain of it
