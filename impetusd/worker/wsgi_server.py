"""A WSGI application, served by uvicorn's protocol classes and a pool of threads.

A request occupies a thread from when its body, or the first HELD bytes of it, have come, until the application's iterable
is closed. What the thread writes is sent at once; it waits while more than HELD bytes are in transit to the client. If
that one goes away, reading and writing raise ConnectionError in the thread, so an endless stream ends.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import CancelledError
from queue import SimpleQueue
from types import TracebackType
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from impetusd.worker.asgi_server import App, AsgiServer, Message
from impetusd.worker.cells import Page
from impetusd.worker.environment import Settings
from impetusd.worker.tally import Tally

HELD = 256 << 10  # bytes
_END: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}

Headers = list[tuple[str, str]]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

log = logging.getLogger("impetusd.worker")


class WsgiServer(AsgiServer):
    has_websockets = False

    def __init__(self, settings: Settings, tally: Tally, grace: float, page: Page) -> None:
        super().__init__(settings, tally, grace, page)
        self._threads = Threads(settings.threads)
        self.pulse = f"each of the {settings.threads} threads"

    def alive(self) -> bool:
        return self._threads.alive()

    @property
    def lingers(self) -> bool:
        return self._threads.busy

    @property
    def _root_path(self) -> str:
        return ""  # it is WSGI's SCRIPT_NAME, which is not part of the path

    def _served(self, app: object) -> App:
        wsgi, threads, root_path = cast("Callable[..., Iterable[bytes]]", app), self._threads, self.settings.root_path

        async def serve(scope: Message, receive: Any, send: Any) -> None:
            await Exchange(wsgi, threads, receive, send).run(scope, root_path)

        return serve


SERVER = WsgiServer


class Threads:
    """At most so many threads, started as they are needed. They are daemons: no exit waits for one that hangs."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = 0
        self._busy = 0  # or about to be
        self._on_clients = 0  # threads that wait for one
        self._answered = 0  # works done, and waits for clients that have ended
        self._seen = 0

    def submit(self, work: Callable[[], None]) -> None:
        """From the event loop."""
        with self._lock:
            self._busy += 1
            start = self._busy > self._started and self._started < self._most
            self._started += start
        self._work.put(work)
        if start:
            threading.Thread(target=self._live, name=f"wsgi-{self._started}", daemon=True).start()

    @property
    def busy(self) -> bool:
        """Whether one is busy."""
        return self._busy > 0

    def alive(self) -> bool:
        """Whether one is free, waits for a client, or has made progress since the last call."""
        with self._lock:
            seen, self._seen = self._seen, self._answered
            return self._busy < self._most or self._on_clients > 0 or self._answered != seen

    def wait_for_client(self, wait: Callable[[], Any]) -> Any:
        """Call `wait`, from a thread."""
        with self._lock:
            self._on_clients += 1
        try:
            return wait()
        finally:
            with self._lock:
                self._on_clients -= 1
                self._answered += 1

    def _live(self) -> None:
        while True:
            work = self._work.get()
            work()
            with self._lock:
                self._busy -= 1
                self._answered += 1


class Exchange:
    """One request and its answer: `run` in the event loop, all the rest in a thread but for what says otherwise."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        threads: Threads,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._app = app
        self._threads = threads
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._room = threading.Condition()
        self._pending: deque[Message] = deque()  # to be sent
        self._held = 0  # bytes of them
        self._gone = False  # the client
        self._done = False
        self._error: BaseException | None = None
        self._head: tuple[str, Headers] | None = None
        self._head_sent = False
        self._read = False  # the body has come to its end

    async def run(self, scope: Message, root_path: str) -> None:
        """In the event loop."""
        if scope["type"] != "http":
            raise RuntimeError(f"a WSGI application does not support {scope['type']}")
        body = await self._body(scope)
        if body is None:
            return
        environ = _environ(scope, root_path, body)
        self._threads.submit(lambda: self._work(environ))
        listening: asyncio.Task[None] | None = None
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                done = self._done  # before what was written is looked at, or the last of it could be missed
                while self._pending:
                    await self._send_next()
                if done:
                    break
                if listening is None and self._head_sent and self._read:
                    listening = self._loop.create_task(self._listen())
        finally:
            if listening is not None:
                listening.cancel()
            self._leave()
        if self._error is not None:
            raise self._error

    async def _send_next(self) -> None:
        """In the event loop."""
        message = self._pending.popleft()
        size = len(message.get("body", b""))
        if size and self._pending and self._pending[0] is _END:
            message = {**message, "more_body": False}
            self._pending.popleft()
        await self._send(message)
        if size:
            with self._room:
                self._held -= size
                self._room.notify_all()

    async def _body(self, scope: Message) -> io.BufferedIOBase | None:
        """All of it, or what has come and a reader of the rest; None if the client disconnected. In the event loop."""
        if not any(name in {b"content-length", b"transfer-encoding"} for name, _ in scope["headers"]):
            self._read = True
            return io.BytesIO()
        begun = bytearray()
        while len(begun) < HELD:
            message = await self._receive()
            if message["type"] != "http.request":
                return None
            begun += message.get("body", b"")
            if not message.get("more_body", False):
                self._read = True
                return io.BytesIO(begun)
        return io.BufferedReader(_Rest(bytes(begun), self._next), HELD)

    def _next(self) -> bytes | None:
        """The next part of the body; None at its end."""
        if self._read:
            return None
        try:
            receiving = asyncio.run_coroutine_threadsafe(self._received(), self._loop)
            message = self._threads.wait_for_client(receiving.result)
        except (CancelledError, RuntimeError):  # the loop ends
            message = {"type": "http.disconnect"}
        if message["type"] != "http.request":
            self._gone = True
            raise ConnectionAbortedError("the client disconnected before its request was complete")
        self._read = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def _received(self) -> Message:
        return await self._receive()

    async def _listen(self) -> None:
        """Learn that the client disconnected, while there may be nothing to send. In the event loop."""
        message = await self._receive()
        while message["type"] == "http.request":
            message = await self._receive()
        self._leave()

    def _leave(self) -> None:
        """Nothing is sent any more: let go of the thread. In the event loop."""
        with self._room:
            self._gone = True
            self._room.notify_all()

    def _work(self, environ: dict[str, Any]) -> None:
        try:
            found = self._app(environ, self._start_response)
            try:
                for chunk in found:
                    if chunk:
                        self._write(chunk)
                if not self._head_sent:
                    self._begin()
                self._post(_END)
            finally:
                close = getattr(found, "close", None)
                if close is not None:
                    close()
        except ConnectionError as error:
            if not self._gone:
                self._error = error
        except BaseException as error:  # raised where uvicorn sees it, as of an ASGI application
            self._error = error
        self._done = True
        self._wake_loop()

    def _start_response(
        self, status: str, headers: Headers, exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        if exc_info is not None and self._head_sent:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # of a circle through the frame
        if self._head is not None and exc_info is None:
            raise AssertionError("start_response() was called twice")
        self._head = status, headers
        return self._write

    def _begin(self) -> None:
        if self._head is None:
            raise AssertionError("the application has not called start_response()")
        status, headers = self._head
        self._head_sent = True
        self._pending.append(
            {
                "type": "http.response.start",
                "status": int(status[:3]),
                "headers": [(name.encode("latin-1").lower(), value.encode("latin-1")) for name, value in headers],
            }
        )

    def _write(self, chunk: bytes) -> None:
        if not self._head_sent:
            self._begin()
        self._post({"type": "http.response.body", "body": chunk, "more_body": True})

    def _post(self, message: Message) -> None:
        with self._room:
            if self._held > HELD and not self._gone:
                self._threads.wait_for_client(lambda: self._room.wait_for(lambda: self._held <= HELD or self._gone))
            if self._gone:
                raise BrokenPipeError("the client disconnected")
            self._held += len(message["body"])
        self._pending.append(message)
        self._wake_loop()

    def _wake_loop(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:
            self._gone = True  # the loop is closed


class _Rest(io.RawIOBase):
    """The body of which the first part has come, as a stream that waits for the others."""

    def __init__(self, begun: bytes, following: Callable[[], bytes | None]) -> None:
        self._part: memoryview | None = memoryview(begun)
        self._following = following

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._part is not None and not self._part:
            part = self._following()
            self._part = None if part is None else memoryview(part)
        if self._part is None:
            return 0
        count = min(len(buffer), len(self._part))
        buffer[:count] = self._part[:count]
        self._part = self._part[count:]
        return count


def _environ(scope: Message, root_path: str, body: io.BufferedIOBase) -> dict[str, Any]:
    """PEP 3333's. Headers with _ in their name are dropped, because they could pass for others."""
    raw_path = scope.get("raw_path")
    path = scope["path"].encode() if raw_path is None else unquote_to_bytes(raw_path)
    host, port = scope.get("server") or ("", None)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": root_path,
        "PATH_INFO": path.decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host if port else "localhost",  # a path, of a unix socket
        "SERVER_PORT": str(port or 80),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        if b"_" in name:
            continue
        key = name.decode("latin-1").upper().replace("-", "_")
        if key not in {"CONTENT_TYPE", "CONTENT_LENGTH"}:
            key = f"HTTP_{key}"
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text
    return environ
