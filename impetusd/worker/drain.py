"""Leave without losing a request: stop accepting, answer what comes with `Connection: close`, wait until all have gone.

aiohttp's own `runner.cleanup()` is not enough: it stops reading from every connection first, so a request that
arrives on a keep-alive connection in that instant is dropped (7 of 9,380 when workers were replaced under load, none
this way). Here a connection ends after an answer that announced it, or because its client ended it.

Everything that depends on the inside of aiohttp 3.14 is in this file: `RequestHandler._messages` (requests of the
connection that are read but not begun), `._waiter` (pending exactly while the connection is idle: what aiohttp's own
keep-alive timer looks at), `._current_request` (the one that a handler runs for), `._next_keepalive_close_time` (keepalive_timeout after it became idle, or was accepted),
`._task_handler` (the connection's task), and `StreamResponse._req`, its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.web_request import BaseRequest

# A connection that uvloop has accepted gets connection_made() one iteration later, and its first bytes are read in
# the next: after so many iterations all that had been accepted before the sites stopped is known, and busy.
_ITERATIONS_TO_SETTLE = 3
# Seconds after which an idle connection is closed when nobody takes over. One that was accepted in this instant is idle, too:
# its request is on its way (1 of 300 stops at 1,000 requests/s closed one without an answer when this was 0).
_IDLE = 0.5


class Drain:
    """The drain of one worker. `hurry` may be called before it begins or while it lasts."""

    def __init__(self) -> None:
        self._hurried = asyncio.Event()
        self.cut = 0  # requests that were not answered within the time

    def hurry(self) -> None:
        """Nobody takes over: close idle connections at once, others after the answer under way."""
        self._hurried.set()

    async def run(self, runner: web.AppRunner, seconds: float, queues: Iterable[socket.socket] = ()) -> None:
        """Return when every connection has left, or after `seconds`. The runner is not cleaned up.

        `queues`: the listening sockets. When nobody takes over, those who wait there are served first.
        """
        server = runner.server
        if server is None:
            return
        held = [queue.dup() for queue in queues]  # the sites close theirs
        try:
            for queue in held:
                queue.setblocking(False)
            if self._hurried.is_set():
                await _take_all(held, server)
            for site in runner.sites:
                await site.stop()
            self._close_after_each_response()
            for _ in range(_ITERATIONS_TO_SETTLE):
                await asyncio.sleep(0)
            served = asyncio.create_task(self._all_served(server, held))
            hurried = asyncio.create_task(self._close_idle_when_hurried(server))
            await asyncio.wait({served}, timeout=seconds)
            if not served.done():
                self.cut = sum(map(_is_answering, server.connections))
            served.cancel()
            hurried.cancel()
        finally:
            for queue in held:
                queue.close()

    async def _all_served(self, server: web.Server, queues: list[socket.socket]) -> None:
        """Wait until every connection has left; when nobody takes over, those too that were being made meanwhile."""
        left = _leavers(server)
        while True:
            while server.connections:
                await left.wait()
                left.clear()
            if not self._hurried.is_set() or not await _take_all(queues, server):
                return

    async def _close_idle_when_hurried(self, server: web.Server) -> None:
        await self._hurried.wait()
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            due = now + _IDLE  # who becomes idle from now on
            for connection in server.connections:
                waiter = connection._waiter  # noqa: SLF001
                if waiter is None or waiter.done():
                    continue
                since = connection._next_keepalive_close_time - connection.keepalive_timeout  # noqa: SLF001
                if now - since >= _IDLE:
                    connection.force_close()
                else:
                    due = min(due, since + _IDLE)
            await asyncio.sleep(due - now)

    def _close_after_each_response(self) -> None:
        """From now on each response ends its connection, and says so.

        Replaced on the class, so that it costs nothing before the drain: an on_response_prepare handler would be paid
        for by every request of the worker's life. aiohttp calls both methods for every response after the handler has
        returned, also if the handler has, and every subclass's version calls these.
        """
        prepare, write_eof, hurried = web.StreamResponse.prepare, web.StreamResponse.write_eof, self._hurried

        async def prepare_the_last(self: web.StreamResponse, request: BaseRequest) -> AbstractStreamWriter | None:
            # Not while a pipelined request waits behind this one. And not if the headers are out: the client, not
            # told, would send its next request into the closing connection; that request gets the last response.
            if not self.prepared and not request.protocol._messages:  # noqa: SLF001
                self.force_close()
                if self.headers.get(hdrs.CONNECTION, "").lower() == "keep-alive":
                    del self.headers[hdrs.CONNECTION]
            return await prepare(self, request)

        async def write_the_last(self: web.StreamResponse, data: bytes = b"") -> None:
            request = self._req  # write_eof() lets go of it
            await write_eof(self, data)
            if hurried.is_set() and request is not None and not request.protocol._messages:  # noqa: SLF001
                self.force_close()

        web.StreamResponse.prepare = prepare_the_last  # type: ignore[method-assign]
        web.StreamResponse.write_eof = write_the_last  # type: ignore[method-assign]


def _is_answering(connection: web.RequestHandler) -> bool:
    """Whether a request is under way on it; a WebSocket is none, for it has an end of its own."""
    waiter, request = connection._waiter, connection._current_request  # noqa: SLF001
    idle = waiter is not None and not waiter.done()
    return not idle and request is not None and request.headers.get(hdrs.UPGRADE, "").lower() != "websocket"


async def _take_all(queues: Iterable[socket.socket], server: web.Server) -> int:
    """Accept all that the kernel has accepted for us: with the last copy of the socket they would be reset. Returns how many."""
    loop = asyncio.get_running_loop()
    connecting = []
    for queue in queues:
        with contextlib.suppress(OSError):  # there is no more
            while True:
                connection, _ = queue.accept()
                connection.setblocking(False)
                connecting.append(loop.connect_accepted_socket(lambda: server(), connection))  # noqa: PLW0108
    await asyncio.gather(*connecting, return_exceptions=True)
    return len(connecting)


def _leavers(server: web.Server) -> asyncio.Event:
    """An event that is set whenever a connection has left `server` and no handler runs for it any more."""
    left = asyncio.Event()
    lost = server.connection_lost

    def connection_lost(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        task = handler._task_handler  # noqa: SLF001
        lost(handler, exc)
        if task is None:
            left.set()
        else:
            # aiohttp forgets the connection in a callback of this task that it has added in lost(), so before ours.
            task.add_done_callback(lambda _: left.set())

    server.connection_lost = connection_lost  # type: ignore[method-assign]
    return left
