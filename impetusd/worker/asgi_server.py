"""An ASGI application, served by uvicorn's protocol classes and its lifespan; the life around them is ours.

What depends on the inside of uvicorn (0.30 to 0.54 were tried) is in this file: the classes of `protocols.http.auto` and
`protocols.websockets.auto` and how they are made, their `cycle` (the newest request of a connection) with `keep_alive`,
`response_started`, `response_complete`, `more_body` and `body`, `pipeline` (httptools: requests that wait) and
`conn.trailing_data` (h11: the same, unparsed), `flow.read_paused`, `timeout_keep_alive_task`, and `lifespan.on`.

Methods are replaced on uvicorn's classes where it has no hook, or where a hook would be paid for by every request. Counting
and timing cost 2 µs of a request's 28; uvicorn's own access log, which it has by default, costs 28.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config
from uvicorn.lifespan.on import LifespanOn
from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.server import ServerState

from impetusd.worker.accept import Acceptor
from impetusd.worker.accesslog import Answer
from impetusd.worker.cells import Page
from impetusd.worker.drain import Drain
from impetusd.worker.environment import Settings
from impetusd.worker.probe import Probes
from impetusd.worker.server import KEEP_ALIVE, Server
from impetusd.worker.slow import Body, SlowClients
from impetusd.worker.tally import Tally

try:
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol
except ImportError:  # a websockets that this uvicorn does not go with
    AutoWebSocketsProtocol = None

Message = dict[str, Any]
App = Callable[[Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]]

DRAINING = "impetusd_draining"  # in scope["state"]: an asyncio.Event, set as the drain begins
GOING_AWAY = 1001
_HTTP: Any = AutoHTTPProtocol
_CYCLE: Any = sys.modules[AutoHTTPProtocol.__module__].RequestResponseCycle

log = logging.getLogger("impetusd.worker")
_uvicorn = logging.getLogger("uvicorn.error")


class AsgiServer(Server):
    has_websockets = True

    def __init__(self, settings: Settings, tally: Tally, grace: float, page: Page) -> None:
        super().__init__(settings, tally, grace, page)
        self._loop = asyncio.get_running_loop()
        self._drain = Drain()
        self._draining = asyncio.Event()
        self._hurried: asyncio.Event | None = None  # from when each answer ends its connection
        self._state = State()
        self._websockets = WebSockets(self._answered_socket)
        self._app_state: dict[str, Any] = {DRAINING: self._draining}
        self._acceptor = Acceptor(page, self.make, lambda: len(self._state.connections))
        self._probed: set[State] = set()
        self._probes = Probes(self._make_probe)
        self._config: Config
        self._lifespan: LifespanOn | None = None

    async def start_up(self, app: object) -> None:
        if _uvicorn.level == logging.NOTSET:
            _uvicorn.setLevel(logging.WARNING)  # it logs each WebSocket, and looks up its own level at each request
        _uvicorn.addFilter(_is_no_cancellation)
        self._config = Config(
            lambda: self._served(app),  # as a factory: else uvicorn calls the application to see whether it is one
            factory=True,
            interface="asgi3",
            ws="none",
            log_config=None,
            access_log=False,
            root_path=self._root_path,
            timeout_keep_alive=KEEP_ALIVE,
        )
        self._config.load()
        if self.has_websockets and AutoWebSocketsProtocol is not None:
            self._config.ws_protocol_class = self._websockets.make  # type: ignore[assignment]
        self._state.default = self._config.encoded_headers
        await self._begin_lifespan()
        self._see_answers()
        _watch_for_slow_clients(SlowClients(self.settings.header_timeout, self.settings.body_timeout, _Cycles()))

    @property
    def _root_path(self) -> str:
        return self.settings.root_path

    def _served(self, app: object) -> object:
        """The functions that uvicorn calls."""
        return app

    async def _begin_lifespan(self) -> None:
        lifespan = LifespanOn(self._config)
        lifespan.state.update(self._app_state)
        self._app_state = lifespan.state
        await lifespan.startup()
        if lifespan.should_exit:
            raise RuntimeError("its lifespan startup failed, see above")
        self._lifespan = lifespan

    def _make(self, state: State) -> asyncio.Protocol:
        made: asyncio.Protocol = _HTTP(
            config=self._config, server_state=state, app_state=self._app_state, _loop=self._loop
        )
        return made

    def _make_probe(self) -> asyncio.Protocol:
        """One whose requests are cancelled with its connection, and that no drain waits for."""
        state = State()
        state.default = self._config.encoded_headers
        self._probed.add(state)

        def left() -> None:
            for task in state.tasks:
                task.cancel()
            self._probed.discard(state)

        state.connections.when_left = left
        return self._make(state)

    def probe(self, fd: int) -> None:
        self._probes.take(fd)

    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        self._state.connections.when_left = self._connection_left
        self._acceptor.begin(sockets)

    def _answered_socket(self, scope: Message) -> None:
        """A WebSocket was accepted."""
        self.tally.answered(101)
        if self.access_log is not None:
            self.access_log.add(_answer(scope, 101, ()))

    def _connection_left(self) -> None:
        self._state.connections.left.set()
        self._acceptor.left()

    def announce_drain(self) -> None:
        self._draining.set()
        self._probes.close()
        for state in list(self._probed):
            for connection in list(state.connections):
                connection.transport.close()

    def hurry(self) -> None:
        self._drain.hurry()

    async def drain(self, seconds: float, queues: Sequence[socket.socket]) -> int:
        await self._drain.run(self, seconds, queues)
        return self._drain.cut

    async def close(self) -> None:
        await self._websockets.close(self._state.connections, self.grace)
        for connection in list(self._state.connections):
            connection.transport.close()
        # A client that reads nothing would hold what is still to be written to it, and the connection with it.
        tasks = {*self._state.tasks, *(task for state in self._probed for task in state.tasks)}
        if tasks:
            await asyncio.wait(tasks, timeout=self.grace)
        if self.access_log is not None:
            self.access_log.flush()
        for connection in list(self._state.connections):
            connection.transport.abort()
        left = [task for task in tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=self.grace)
        if self._lifespan is not None:
            await self._lifespan.shutdown()
            if self._lifespan.should_exit:
                raise RuntimeError("its lifespan shutdown failed, see above")

    @property
    def connections(self) -> int:
        return self._acceptor.connections

    # State for its drain.

    def open(self) -> Collection[Any]:
        return self._state.connections

    def busy(self) -> bool:
        return bool(self._state.connections or self._state.tasks)

    async def change(self) -> None:
        if self._state.connections:
            left = self._state.connections.left
            await left.wait()
            left.clear()
        else:
            await asyncio.wait(self._state.tasks, return_when=asyncio.FIRST_COMPLETED)

    def make(self) -> asyncio.Protocol:
        return self._make(self._state)

    def stop_accepting(self) -> None:
        self._acceptor.stop()

    def close_after_each_answer(self, hurried: asyncio.Event) -> None:
        self._hurried = hurried

    def _see_answers(self) -> None:
        """Count each answer and, once the drain has begun, have it end its connection."""
        send, send_400_response, answered = _CYCLE.send, _HTTP.send_400_response, self.tally.answered
        run, made, stir = _CYCLE.run_asgi, _HTTP.connection_made, self.tally.measures.stir
        add = self.access_log.add if self.access_log is not None else None

        def timed(cycle: Any, app: Any) -> Awaitable[None]:
            cycle.impetusd_began = time.monotonic()
            result: Awaitable[None] = run(cycle, app)
            return result

        def connection_made(connection: Any, transport: Any) -> None:
            made(connection, transport)
            stir()

        _CYCLE.run_asgi, _HTTP.connection_made = timed, connection_made

        def seen(cycle: Any, message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start" and not cycle.response_started:
                answered(message["status"], time.monotonic() - cycle.impetusd_began)
                if add is not None:
                    add(_answer(cycle.scope, message["status"], message.get("headers", ())))
                if self._hurried is not None and not _has_more(cycle.transport.get_protocol()):
                    headers = [each for each in message.get("headers", ()) if each[0].lower() != b"connection"]
                    message = {**message, "headers": [*headers, (b"connection", b"close")]}
            elif self._hurried is not None and self._hurried.is_set() and not message.get("more_body", False):
                cycle.keep_alive = cycle.keep_alive and _has_more(cycle.transport.get_protocol())
            result: Awaitable[None] = send(cycle, message)
            return result

        def seen_400(connection: Any, *given: Any) -> None:
            answered(400)
            if add is not None:
                add((connection.client[0] if connection.client else None, "- - HTTP/1.1", 400, None))
            send_400_response(connection, *given)

        _CYCLE.send = seen
        _HTTP.send_400_response = seen_400

    def idle_since(self, connection: Any) -> float | None:
        if not isinstance(connection, _HTTP) or not _is_idle(connection):
            return None
        timer = connection.timeout_keep_alive_task
        if timer is not None:
            return float(timer.when() - KEEP_ALIVE)
        # Since it was accepted, or since a part of its next request was seen.
        return self._state.connections.since.setdefault((connection, connection.cycle), self._loop.time())

    def is_answering(self, connection: Any) -> bool:
        return isinstance(connection, _HTTP) and not _is_idle(connection)

    def cut(self, connection: Any) -> None:
        connection.transport.close()


SERVER = AsgiServer


class State(ServerState):
    """The state that uvicorn's protocols share; ours gets the time without a task that polls the clock."""

    def __init__(self) -> None:
        self.default: list[tuple[bytes, bytes]] = []
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()
        self.connections: Connections = Connections()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._headers = [(b"date", formatdate(now, usegmt=True).encode()), *self.default]
        return self._headers

    @default_headers.setter
    def default_headers(self, _: list[tuple[bytes, bytes]]) -> None:
        pass  # uvicorn's own constructor


class Connections(set[Any]):
    """uvicorn's set of open connections, which reports when one has left."""

    __slots__ = ("left", "since", "when_left")

    def __init__(self) -> None:
        super().__init__()
        self.left = asyncio.Event()
        self.since: dict[tuple[Any, Any], float] = {}  # of those without a timer, by connection and request
        self.when_left: Callable[[], None] = self.left.set

    def add(self, connection: Any) -> None:
        super().add(connection)
        self.since[connection, None] = asyncio.get_running_loop().time()

    def discard(self, connection: Any) -> None:
        super().discard(connection)
        self.since.pop((connection, None), None)
        self.when_left()

    remove = discard


class WebSockets:
    """Those that are open. An application is not asked: the last message is sent past it, as if it were its own."""

    def __init__(self, accepted: Callable[[Message], None]) -> None:
        """`accepted` is called with the scope of each that the application accepts."""
        self._accepted = accepted
        self._open: dict[object, Callable[[Message], Awaitable[None]]] = {}

    def make(self, **given: Any) -> asyncio.Protocol:
        """In the place of uvicorn's class."""
        assert AutoWebSocketsProtocol is not None
        protocol: Any = AutoWebSocketsProtocol(**given)
        app = protocol.app

        async def known(scope: Message, receive: Any, send: Callable[[Message], Awaitable[None]]) -> None:
            async def send_known(message: Message) -> None:
                await send(message)
                if message["type"] == "websocket.accept":
                    self._accepted(scope)
                    self._open[protocol] = send
                elif message["type"] == "websocket.close":
                    self._open.pop(protocol, None)

            try:
                await app(scope, receive, send_known)
            finally:
                self._open.pop(protocol, None)

        protocol.app = known
        return protocol  # type: ignore[no-any-return]

    async def close(self, connections: Connections, seconds: float) -> None:
        """Say 1001 to every client at once, and wait until they have gone, at most so long."""
        left = list(self._open)
        await asyncio.gather(*map(_say_goodbye, self._open.values()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(each in connections for each in left):
                    connections.left.clear()
                    await connections.left.wait()


async def _say_goodbye(send: Callable[[Message], Awaitable[None]]) -> None:
    try:
        async with asyncio.timeout(0):  # a client that reads nothing is not waited for
            await send({"type": "websocket.close", "code": GOING_AWAY, "reason": "the server is being replaced"})
    except Exception as error:
        log.debug("closing a WebSocket: %r", error)


def _is_idle(connection: Any) -> bool:
    cycle = connection.cycle
    return cycle is None or (cycle.response_complete and not _has_more(connection))


def _has_more(connection: Any) -> bool:
    """Whether a request waits behind the one being answered."""
    if hasattr(connection, "pipeline"):
        return bool(connection.pipeline)
    conn = getattr(connection, "conn", None)
    return bool(conn is not None and getattr(conn, "trailing_data", (b"",))[0])


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """uvicorn logs the traceback of each cancelled request; log their number in one line instead."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _answer(scope: Message, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Answer:
    """For the access log."""
    client, query = scope["client"], scope["query_string"]
    path = scope.get("raw_path") or scope["path"].encode()
    target = (path + b"?" + query if query else path).decode("latin-1")
    size = None
    for name, value in headers:
        if name.lower() == b"content-length":
            size = value.decode("latin-1")
            break
    request = f"{scope.get('method', 'GET')} {target} HTTP/{scope['http_version']}"
    return client[0] if client else None, request, status, size


class _Cycles:
    """uvicorn's connections, for `slow`; their bodies are counted in an attribute of ours."""

    def incoming(self, connection: Any) -> Body | None:
        cycle = connection.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body:
            return None
        return Body(getattr(cycle, "impetusd_received", 0), connection.flow.read_paused)

    def is_open(self, connection: Any) -> bool:
        return connection in connection.connections  # not one that has become a WebSocket

    def cut(self, connection: Any) -> None:
        connection.transport.abort()


def _watch_for_slow_clients(slow: SlowClients) -> None:
    if not slow.watched:
        return
    connection_made, data_received, heads = _HTTP.connection_made, _HTTP.data_received, slow.heads

    def made(connection: Any, transport: asyncio.Transport) -> None:
        connection_made(connection, transport)
        slow.head_is_due(connection)

    def received(connection: Any, data: bytes) -> None:
        data_received(connection, data)
        cycle = connection.cycle
        if cycle is None or cycle.response_complete:
            slow.head_is_due(connection)
        elif cycle.more_body:
            cycle.impetusd_received = getattr(cycle, "impetusd_received", 0) + len(data)
            slow.head_came(connection)
        elif heads:  # as `head_came` without a body, which is nearly every request
            heads.pop(connection, None)

    _HTTP.connection_made = made
    _HTTP.data_received = received
