"""The life of one pool worker: start the application, wait for the order to serve, serve, drain, clean up, exit.

    started up ──serve──► accepting ──SIGTERM──► draining ──► cleaned up, exit 0
        └──────────────── SIGTERM ─────────────────────────────►┘

Started up means: the factory called, the lifespan or every cleanup_ctx entered. A worker without the order to serve is
parked. An exception in a task or callback is logged by the loop's exception handler, and the worker goes on. One that
escapes a thread or the main coroutine, or a SystemExit from anywhere, is logged and ends the worker by the same path
with exit code 1.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

from impetusd.worker import appload
from impetusd.worker.abort import on_sigabrt
from impetusd.worker.channel import Channel
from impetusd.worker.ending import Ending, leave, places
from impetusd.worker.environment import Passed, Settings, WorkerError, set_title
from impetusd.worker.heartbeat import Heartbeat
from impetusd.worker.notify import Notifier
from impetusd.worker.server import Server, prepare
from impetusd.worker.tally import Tally

try:
    from uvloop import new_event_loop
except ImportError:  # the application's own Python, which we have no uvloop for
    from asyncio import new_event_loop  # type: ignore[assignment]

log = logging.getLogger("impetusd.worker")

_CLEANUP_SHARE = 0.2  # of the time until the forced exit, kept for on_shutdown, cancelled handlers and cleanup_ctx
# Seconds, at most, that handlers get which still run after the drain, and then those of probes; by aiohttp each twice.
_GRACE_AFTER_DRAIN = 0.5
_PLACES_AT_SIGABRT = 50  # of waiting tasks, named


def run(settings: Settings, target: object) -> int:
    """Live a worker's life with `target`, an application or its factory; returns the process's exit code."""
    passed = Passed.take(os.environ)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        loop = runner.get_loop()
        worker = Worker(settings, target, passed, loop)
        worker.take_signals()
        life = loop.create_task(worker.live(), name="impetusd.worker")
        while True:
            try:
                code = loop.run_until_complete(life)
                if worker.lingers:
                    atexit._run_exitfuncs()  # noqa: SLF001 # what a normal end would do, which a thread could hold up or abort
                    leave(code)
                return code
            except BaseException as error:
                log.critical("unhandled exception; this worker exits", exc_info=error)
                worker.stop(1)
                if life.done():
                    return 1


class Worker:
    """One worker. Its methods run in the event loop's thread; `stop` is what signals and other threads schedule."""

    def __init__(
        self,
        settings: Settings,
        target: object,
        passed: Passed,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._target = target
        self._sockets = passed.sockets
        self._commands = passed.channel
        self._loop = loop
        self._name = os.environ.get("IMPETUSD_NAME", settings.pool)
        self._notify = Notifier(os.environ.pop("NOTIFY_SOCKET", ""))
        os.environ.pop("WATCHDOG_USEC", None)  # of the same protocol, and as little the app's children's
        self._state: tuple[str, ...] = ()  # the last message sent
        self._heartbeat = Heartbeat(settings.watchdog, self._notify)
        self._ending = Ending(settings.kill_timeout, self._under_way)
        self._grace = min(_GRACE_AFTER_DRAIN, self._ending.patience * _CLEANUP_SHARE / 8)
        self._tally = Tally(settings.max_requests, self._notify)
        self._page = passed.page
        self._serve = asyncio.Event()
        self._stop = asyncio.Event()
        self._ready = False
        self._code = 0
        self._phase = "starting up"
        self._server: Server | None = None  # from READY=1 on
        self._starting: Server | None = None
        self._hurried = False

    def take_signals(self) -> None:
        """From here on SIGTERM and SIGINT stop this worker gracefully, one that is pending included.

        Plain handlers, not the loop's: they run between two bytecodes also while a callback blocks the loop, so the
        watchdog is armed and will show where it is stuck. (A call into C that never returns is left to SIGKILL.)
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        on_sigabrt(self._when_aborted)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def stop(self, code: int = 0) -> None:
        """Begin to shut down; the worst requested `code` counts."""
        self._page.leave()
        self._code = max(self._code, code)
        self._ending.begin()
        if not self._stop.is_set():
            self._ending.force_from(self._loop)
            self._stop.set()

    @property
    def lingers(self) -> bool:
        return self._starting is not None and self._starting.lingers

    async def live(self) -> int:
        threading.excepthook = self._on_thread_died
        channel = Channel(self._commands, self._on_command)
        try:
            if await self._start_up():
                channel.receive()  # it may have been ordered to serve meanwhile: then it never reports being parked
                await self._work()
        except Exception as error:
            log.critical("unhandled exception; this worker exits", exc_info=error)
            self.stop(1)
        channel.receive()  # the presence of a successor was reported before the signal
        await self._leave()
        return self._code

    async def _start_up(self) -> bool:
        """Build the application and enter its contexts; False if that failed or a signal came first."""
        start = self._loop.create_task(self._build(), name="impetusd.worker.start")
        stop = self._loop.create_task(self._stop.wait())
        await asyncio.wait({start, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not start.done():
            start.cancel()
            await asyncio.wait({start})
        stop.cancel()
        if start.cancelled():
            return False
        error = start.exception()
        if error is None:
            return True
        if not isinstance(error, WorkerError):
            print(f"{self._name}: the application failed to start:\n{appload.report(error)}", file=sys.stderr)
            self.stop(1)
        else:
            print(f"{self._name}: {error}", file=sys.stderr)
            self.stop(error.code)
        return False

    async def _build(self) -> None:
        try:
            app, protocol = await appload.build(self._target, self._settings.app, self._settings.protocol)
            if not logging.getLogger().handlers:
                logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
            self._starting = prepare(protocol)(self._settings, self._tally, self._grace, self._page)
            await self._starting.start_up(app)
        except SystemExit as error:  # as such it would stop the loop, and with it the cleanup
            raise RuntimeError(f"it called sys.exit({error.code!r})") from error

    async def _work(self) -> None:
        assert self._starting is not None  # _start_up() succeeded
        self._server = server = self._starting
        self._tally.measures.connections = lambda: server.connections
        self._heartbeat.watch(self._server)
        if not self._serve.is_set() and not self._stop.is_set():
            self._phase = "parked"
            self._report("READY=1", "STATUS=parked")
            self._heartbeat.start()
            await _first(self._serve, self._stop)
        if self._stop.is_set():
            return
        await self._server.serve(self._sockets)
        self._ready = True
        self._phase = "serving"
        self._report_serving()
        await self._stop.wait()

    async def _leave(self) -> None:
        """Drain and clean up, within the time that the forced exit leaves."""
        self._report("STOPPING=1")
        server = self._starting
        if server is None:
            return
        server.announce_drain()
        if self._hurried:
            server.hurry()
        try:
            self._phase = "draining"
            remaining = self._ending.remaining
            cut = await server.drain(
                max(min(self._settings.drain_timeout, remaining - self._ending.patience * _CLEANUP_SHARE), 0.0),
                self._sockets if self._ready else (),
            )
            if cut:
                self._notify(f"X_IMPETUSD_CUT={cut}")
            self._phase = "cleaning up"
            await server.close()
        except Exception as error:
            log.critical("the application failed to clean up", exc_info=error)
            self._code = max(self._code, 1)
        self._phase = "exiting"

    def _on_command(self, command: dict[str, Any], fds: list[int]) -> None:
        if command.get("page") and fds:
            self._share(fds[0])
        match command:
            case {"do": "serve", "name": str(name)}:
                self._name = os.environ["IMPETUSD_NAME"] = name
                self._serve.set()
                if self._ready and not self._stop.is_set():
                    self._report_serving()
            case {"do": "tell"}:
                if self._state:
                    self._notify(*self._state)
            case {"do": "probe"}:
                if fds and self._server is not None and not self._stop.is_set():
                    self._server.probe(fds.pop(0))
            case {"do": "count"}:
                self._notify(*self._tally.lines())
            case {"do": "quit"}:
                self._hurried = True
                if self._starting is not None:
                    self._starting.hurry()
            case _:
                log.error("the supervisor sent a command that this worker does not know: %s", command)

    def _share(self, fd: int) -> None:
        """Measure in the supervisor's page from now on."""
        try:
            self._tally.measures.share(fd)
        except (OSError, ValueError) as error:
            log.warning("this worker's metrics cannot be shared with the supervisor: %s", error)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._page.leave()
        if self._ending.begin():  # a second signal changes nothing: the supervisor escalates by SIGKILL
            self._loop.call_soon_threadsafe(self.stop)

    def _on_thread_died(self, died: threading.ExceptHookArgs) -> None:
        if died.exc_type is SystemExit:
            return  # as in threading's own hook: the thread's way to end
        name = died.thread.name if died.thread else "?"
        log.critical(
            "unhandled exception in thread %s; this worker exits",
            name,
            exc_info=(died.exc_type, died.exc_value or died.exc_type(), died.exc_traceback),
        )
        try:
            self._loop.call_soon_threadsafe(self.stop, 1)
        except RuntimeError:
            pass  # the loop is closed: the end is under way

    def _report_serving(self) -> None:
        set_title(self._name)
        self._page.take(self._name, self._server.connections if self._server is not None else 0)
        self._report("READY=1", "STATUS=serving")
        self._heartbeat.start()

    def _report(self, *state: str) -> None:
        self._state = state
        self._notify(*state)

    def _when_aborted(self) -> list[str]:
        stuck = self._heartbeat.stuck()
        if stuck:
            why = (
                f"{self._heartbeat.pulse} has been stuck for {stuck:.1f} s (watchdog = {self._heartbeat.watchdog:g} s)"
            )
        else:
            why = f"killed by SIGABRT while it was {self._phase}"
        return [f"{self._name}: {why}; the stacks of its threads are above", *places(self._loop, _PLACES_AT_SIGABRT)]

    def _under_way(self) -> tuple[str, str]:
        connections = self._starting.connections if self._starting is not None else 0
        return self._name, f"it was {self._phase}, {connections} connection{'s' * (connections != 1)} open"


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of `events` is set."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
