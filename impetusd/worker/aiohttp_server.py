"""An aiohttp Application, served by aiohttp.

Everything that depends on the inside of aiohttp 3.14 is in this file: `RequestHandler._messages` (requests of the
connection that are read but not begun), `._waiter` (pending exactly while the connection is idle: what aiohttp's own
keep-alive timer looks at), `._current_request` (the one that a handler runs for), `._next_keepalive_close_time`
(keepalive_timeout after it became idle, or was accepted), `._task_handler` (the connection's task), `StreamResponse._req`,
its request, `._status`, `._body`, `BaseRequest._payload`, its body, `._message`, its head, `BaseProtocol._buffer_paused`, and
`RequestHandler._handle_request` (its second argument is when the request began, and comes to `finish_response`).

Methods are replaced on aiohttp's classes where it has no hook, or where a hook would be paid for by every request.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.streams import EMPTY_PAYLOAD

from impetusd.worker.accept import Acceptor
from impetusd.worker.accesslog import AccessLog
from impetusd.worker.cells import Page
from impetusd.worker.drain import Drain
from impetusd.worker.draining import DRAINING
from impetusd.worker.environment import Settings, WorkerError
from impetusd.worker.probe import Probes
from impetusd.worker.server import Server
from impetusd.worker.slow import Body, SlowClients
from impetusd.worker.tally import Tally
from impetusd.worker.tls import TLS
from impetusd.worker.websockets import WebSockets

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.streams import StreamReader
    from aiohttp.web_request import BaseRequest


class AiohttpServer(Server):
    def __init__(self, settings: Settings, tally: Tally, grace: float, page: Page) -> None:
        super().__init__(settings, tally, grace, page)
        self._drain = Drain()
        self._draining = asyncio.Event()
        self._websockets = WebSockets()
        self._runner: web.AppRunner | None = None
        self._acceptor: Acceptor | None = None
        self._connections: Connections | None = None
        self._of_probes: web.Server | None = None
        self._probes: Probes | None = None

    async def start_up(self, app: object) -> None:
        assert isinstance(app, web.Application)
        if self.settings.root_path:
            raise WorkerError("root_path is for ASGI and WSGI; mount an aiohttp Application with add_subapp()")
        self._draining = app.setdefault(DRAINING, self._draining)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=self.grace)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        _see_answers(self.tally, self.access_log)
        self._websockets.begin()
        _watch_for_slow_clients(SlowClients(self.settings.header_timeout, self.settings.body_timeout, _Handlers()))
        # A server object of their own: no drain waits for them.
        self._of_probes = web.Server(
            server.request_handler, request_factory=server.request_factory, handler_cancellation=True, access_log=None
        )
        self._probes = Probes(self._of_probes)

    def probe(self, fd: int) -> None:
        assert self._probes is not None
        self._probes.take(fd)

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        assert self._runner is not None
        server = self._runner.server
        assert server is not None
        self._acceptor = Acceptor(self.page, server, lambda: len(server.connections), self._runner.app.get(TLS))
        self._connections = Connections(server, self._acceptor)
        self._acceptor.begin(sockets)

    def announce_drain(self) -> None:
        self._draining.set()
        if self._probes is not None and self._of_probes is not None:
            self._probes.close()
            for connection in self._of_probes.connections:
                connection.force_close()

    def hurry(self) -> None:
        self._drain.hurry()

    async def drain(self, seconds: float, queues: Sequence[socket.socket]) -> int:
        if self._connections is not None:
            await self._drain.run(self._connections, seconds, queues)
        return self._drain.cut

    async def close(self) -> None:
        await self._websockets.close(self.grace)
        if self._of_probes is not None:
            await self._of_probes.shutdown(self.grace)
        if self._runner is not None:
            await self._runner.cleanup()
        if self.access_log is not None:
            self.access_log.flush()

    @property
    def connections(self) -> int:
        return self._acceptor.connections if self._acceptor is not None else 0


SERVER = AiohttpServer


class Connections:
    """The connections of aiohttp's server, for its drain; made before the first of them, so that none leaves unseen."""

    def __init__(self, server: web.Server, acceptor: Acceptor) -> None:
        self._server = server
        self._acceptor = acceptor
        self._left = asyncio.Event()
        _when_left(server, self._has_left)

    def _has_left(self) -> None:
        self._left.set()
        self._acceptor.left()

    def open(self) -> Collection[web.RequestHandler]:
        return self._server.connections

    def busy(self) -> bool:
        return bool(self._server.connections)

    async def change(self) -> None:
        await self._left.wait()
        self._left.clear()

    def make(self) -> asyncio.BaseProtocol:
        return self._server()

    def stop_accepting(self) -> None:
        self._acceptor.stop()

    def close_after_each_answer(self, hurried: asyncio.Event) -> None:
        # Not by an on_response_prepare handler, which every request of the worker's life would pay for. aiohttp calls
        # both methods for every response after the handler has returned, also if the handler has, and every
        # subclass's version calls these.
        prepare, write_eof = web.StreamResponse.prepare, web.StreamResponse.write_eof

        async def prepare_the_last(self: web.StreamResponse, request: BaseRequest) -> AbstractStreamWriter | None:
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

    def idle_since(self, connection: web.RequestHandler) -> float | None:
        waiter = connection._waiter  # noqa: SLF001
        if waiter is None or waiter.done():
            return None
        return connection._next_keepalive_close_time - connection.keepalive_timeout  # noqa: SLF001

    def is_answering(self, connection: web.RequestHandler) -> bool:
        waiter, request = connection._waiter, connection._current_request  # noqa: SLF001
        idle = waiter is not None and not waiter.done()
        return not idle and request is not None and request.headers.get(hdrs.UPGRADE, "").lower() != "websocket"

    def cut(self, connection: web.RequestHandler) -> None:
        connection.force_close()


def _when_left(server: web.Server, left: Callable[[], None]) -> None:
    """Call `left` whenever a connection has left `server` and no handler runs for it any more."""
    lost = server.connection_lost

    def connection_lost(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        task = handler._task_handler  # noqa: SLF001
        lost(handler, exc)
        if task is None:
            left()
        else:
            # aiohttp drops the connection in a callback that it added to this task in lost(), so before ours.
            task.add_done_callback(lambda _: left())

    server.connection_lost = connection_lost  # type: ignore[method-assign]


def _see_answers(tally: Tally, access_log: AccessLog | None) -> None:
    """Every answer of aiohttp goes through this one method, also those to what it cannot parse.

    A middleware would see neither those nor what handlers raise, and cost a coroutine each.
    """
    finish, answered = web.RequestHandler.finish_response, tally.answered
    made, stir = web.RequestHandler.connection_made, tally.measures.stir
    handle = web.RequestHandler._handle_request  # noqa: SLF001
    add = access_log.add if access_log is not None else None

    def connection_made(handler: web.RequestHandler, transport: asyncio.BaseTransport) -> None:
        made(handler, transport)
        stir()

    def timed(
        handler: web.RequestHandler, request: BaseRequest, _: float | None, request_handler: Any
    ) -> Awaitable[tuple[web.StreamResponse, bool]]:
        # In the place of the loop's own time, which uvloop takes once for all that it does before it waits again.
        return handle(handler, request, monotonic(), request_handler)

    web.RequestHandler.connection_made = connection_made  # type: ignore[method-assign,assignment]
    web.RequestHandler._handle_request = timed  # type: ignore[method-assign,assignment]  # noqa: SLF001

    def counted(
        handler: web.RequestHandler, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Awaitable[tuple[web.StreamResponse, bool]]:
        try:
            status = resp._status  # noqa: SLF001 # as `status`, which costs a call; isinstance() would cost two more
        except AttributeError:
            status = 500  # what anything else becomes
        answered(status, monotonic() - start_time if start_time is not None else None)
        if add is not None:
            message, body = request._message, getattr(resp, "_body", None)  # noqa: SLF001
            number = "1.1" if message.version is HttpVersion11 else f"{message.version.major}.{message.version.minor}"
            line = f"{message.method} {message.path} HTTP/{number}"
            add((request.remote, line, status, len(body) if type(body) is bytes else None))
        return finish(handler, request, resp, start_time)

    web.RequestHandler.finish_response = counted  # type: ignore[method-assign,assignment]


class _Handlers:
    """aiohttp's connections, for `slow`."""

    def incoming(self, connection: web.RequestHandler) -> Body | None:
        payload = _payload(connection)
        if payload is None or payload.is_eof():
            return None
        return Body(payload.total_bytes, connection._buffer_paused)  # noqa: SLF001

    def is_open(self, connection: web.RequestHandler) -> bool:
        return connection.transport is not None

    def cut(self, connection: web.RequestHandler) -> None:
        connection.force_close()


def _payload(handler: web.RequestHandler) -> StreamReader | None:
    request = handler._current_request  # noqa: SLF001
    if request is not None:
        return request._payload  # noqa: SLF001
    return handler._messages[-1][1] if handler._messages else None  # noqa: SLF001


def _watch_for_slow_clients(slow: SlowClients) -> None:
    if not slow.watched:
        return
    connection_made, data_received = web.RequestHandler.connection_made, web.RequestHandler.data_received
    heads = slow.heads

    def made(handler: web.RequestHandler, transport: asyncio.BaseTransport) -> None:
        connection_made(handler, transport)
        slow.head_is_due(handler)

    def received(handler: web.RequestHandler, data: bytes) -> None:
        data_received(handler, data)
        messages = handler._messages  # noqa: SLF001
        if messages and messages[-1][1] is EMPTY_PAYLOAD:
            if heads:  # as head_came() does without a body, which is nearly every request
                heads.pop(handler, None)
            return
        waiter = handler._waiter  # noqa: SLF001
        if waiter is not None and not waiter.done():
            slow.head_is_due(handler)
        else:
            slow.head_came(handler)

    web.RequestHandler.connection_made = made  # type: ignore[method-assign,assignment]
    web.RequestHandler.data_received = received  # type: ignore[method-assign,assignment]
