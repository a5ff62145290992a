"""Leave without losing a request: stop accepting, answer what comes with `Connection: close`, wait until all have gone.

aiohttp's own `runner.cleanup()` is not enough: it stops reading from every connection first, so a request that
arrives on a keep-alive connection in that instant is dropped (7 of 9,380 when workers were replaced under load, none
this way). Here a connection ends after an answer that announced it, or because its client ended it.

Everything that depends on the inside of aiohttp 3.14 is in this file: `RequestHandler._messages` (requests of the
connection that are read but not begun), `._waiter` (pending exactly while the connection is idle: what aiohttp's own
keep-alive timer looks at), `._task_handler` (the connection's task), and `StreamResponse._req`, its request.
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


class Drain:
    """The drain of one worker. `hurry` may be called before it begins or while it lasts."""

    def __init__(self) -> None:
        self._hurried = asyncio.Event()

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
        if self._hurried.is_set():
            await _take_all(queues, server)
        for site in runner.sites:
            await site.stop()
        self._close_after_each_response()
        for _ in range(_ITERATIONS_TO_SETTLE):
            await asyncio.sleep(0)
        gone = asyncio.create_task(_all_gone(server))
        hurried = asyncio.create_task(self._close_idle_when_hurried(server))
        await asyncio.wait({gone}, timeout=seconds)
        gone.cancel()
        hurried.cancel()

    async def _close_idle_when_hurried(self, server: web.Server) -> None:
        await self._hurried.wait()
        for connection in server.connections:
            waiter = connection._waiter  # noqa: SLF001
            if waiter is not None and not waiter.done():
                connection.force_close()

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


async def _take_all(queues: Iterable[socket.socket], server: web.Server) -> None:
    """Accept all that the kernel has accepted for us: with the last copy of the socket they would be reset."""
    loop = asyncio.get_running_loop()
    connecting = []
    for queue in queues:
        with contextlib.suppress(OSError):  # there is no more
            while True:
                connection, _ = queue.accept()
                connection.setblocking(False)
                connecting.append(loop.connect_accepted_socket(lambda: server(), connection))  # noqa: PLW0108
    await asyncio.gather(*connecting, return_exceptions=True)


async def _all_gone(server: web.Server) -> None:
    """Wait, without polling, until `server` has no connection left and no handler runs for one that has gone."""
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
    while server.connections:
        await left.wait()
        left.clear()
