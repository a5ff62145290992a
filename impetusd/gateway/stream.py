"""GET /api/v1/stream: everything as it is, then what changes, as server-sent events.

One reader of the backend serves all: each change is made into bytes once, and kept in a ring of bounded size, in which each
client goes on at its own pace. One that has fallen out of it, or takes nothing for STALLED seconds, is disconnected. The id of
an event is the supervisor's life and the number of the change, so a client goes on where it was, by Last-Event-ID.

Whether the caller is still logged in, and its role suffices, is looked at for each event; a change of password, token or role
ends the stream at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

from aiohttp import hdrs, web

from impetusd.core import stream
from impetusd.core.protocol import ADMIN, ROLES, VIEWER
from impetusd.core.stream import Change
from impetusd.gateway import guard
from impetusd.gateway.backend import Backend
from impetusd.gateway.caller import Caller
from impetusd.gateway.routes import BEGUN, EVENTS, JSON, PREFIX, TEXT, Param, Route, caller_of, read_query
from impetusd.worker.draining import DRAINING

KEPT = 4 << 20  # bytes of events
ALIVE = 5.0  # seconds of silence
STALLED = 30.0  # seconds in which a client must take something
HELD = 1 << 16  # bytes written at once
AT_ONCE = 256  # events
KINDS = (stream.UNIT, stream.TIMER, stream.CHECK, stream.RELOAD, stream.DAEMON, stream.USAGE)  # of a snapshot
ROLE_OF = {**dict.fromkeys(KINDS, VIEWER), stream.LEDGER: VIEWER}  # what a kind takes; one that is not here takes ADMIN
_ID = re.compile(r"([0-9a-f]{1,64}):([0-9]{1,16})", re.ASCII)


class Event(NamedTuple):
    """`n`: of the change in `life`; `anew`: everything is to be sent again in its place."""

    life: str
    n: int
    role: str
    data: bytes
    anew: bool = False


class Hub:
    """The ring. Positions in it are numbers that only grow."""

    def __init__(self, source: Backend) -> None:
        self._source = source
        self._events: deque[Event] = deque()
        self._size = 0
        self.end = 0  # position behind the last event
        self._news = asyncio.Event()
        self._snapshot: tuple[tuple[object, ...], bytes] = ((), b"")

    @property
    def begin(self) -> int:
        """Position of the oldest event."""
        return self.end - len(self._events)

    async def run(self) -> None:
        """Read the backend, for ever."""
        while True:
            async for change in self._source.subscribe():
                if (change.kind, change.value) != ("lost", "slow"):
                    self.take(change)
            await asyncio.sleep(0.05)  # too slow: everything is sent anew
            self._add(Event(self._source.mirror.life, self._source.mirror.n, VIEWER, b"", anew=True))

    def take(self, change: Change) -> None:
        """One more change."""
        life = self._source.mirror.life
        if change.kind == "snapshot":
            self._add(Event(life, change.n, VIEWER, b"", anew=True))
        elif change.kind == "lost":
            data = {"at": change.at or time.time(), "why": change.value}
            self._add(Event(life, change.n, VIEWER, event("lost", data)))
        elif change.kind == "resumed":
            self._add(Event(life, change.n, VIEWER, resumed(change.n)))
        else:
            data = {"n": change.n, "at": change.at, "kind": change.kind, "key": change.key, "value": change.value}
            role = ROLE_OF.get(change.kind, ADMIN)
            self._add(Event(life, change.n, role, event("change", data, f"{life}:{change.n}")))

    def _add(self, one: Event) -> None:
        self._events.append(one)
        self._size += len(one.data)
        self.end += 1
        while self._size > KEPT and len(self._events) > 1:
            self._size -= len(self._events.popleft().data)
        self._news.set()
        self._news.clear()

    def after(self, position: int) -> list[Event]:
        """The next events from a position on, which is not before `begin`."""
        first = position - self.begin
        return list(itertools.islice(self._events, first, first + AT_ONCE))

    async def news(self, within: float) -> bool:
        """Wait for the next event; False if none came within so many seconds."""
        try:
            async with asyncio.timeout(within):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def place(self, last: str) -> int | None:
        """Where a client goes on whose last event had this id; None if it needs everything, as while the supervisor is lost."""
        found = _ID.fullmatch(last)
        mirror = self._source.mirror
        if found is None or found[1] != mirror.life or not self._source.live:
            return None
        n = int(found[2])
        if n == mirror.n:
            return self.end
        for at in range(self.end - 1, self.begin - 1, -1):
            one = self._events[at - self.end]
            if one.anew or one.life != mirror.life:
                return None
            if one.n == n and one.data.startswith(b"id:"):
                return at + 1
        return None

    def now(self) -> tuple[int, str]:
        """Number and life of the last change."""
        return self._source.mirror.n, self._source.mirror.life

    def snapshot(self, caller: Caller) -> bytes:
        """Everything that the caller may see, as JSON."""
        mirror = self._source.mirror
        key = (mirror.life, mirror.n, self._source.live, caller.role, int(time.monotonic() / 0.5))
        if self._snapshot[0] != key:
            self._snapshot = key, json.dumps(snapshot(self._source, caller.role), separators=(",", ":")).encode()
        return self._snapshot[1]


HUB = web.AppKey("impetusd.hub", Hub)


def snapshot(source: Backend, role: str) -> dict[str, Any]:
    """{"life", "n", "at", "live", "rows"}: rows by kind and key, of the kinds that this role may see."""
    mirror = source.mirror
    rows: dict[str, Mapping[str, Any]] = {
        kind: mirror.rows.get(kind, {}) for kind in KINDS if may_see(role, kind) and kind != stream.USAGE
    }
    units = rows.get(stream.UNIT, {})
    usage = {name: [row.get("memory_bytes"), row.get("cpu_percent")] for name, row in units.items()}
    rows[stream.USAGE] = {"": usage}  # as the changes of this kind
    return {"life": mirror.life, "n": mirror.n, "at": time.time(), "live": source.live, "rows": rows}


def may_see(role: str, kind: str) -> bool:
    """Whether a role suffices for rows and changes of a kind."""
    return ROLES.index(role) >= ROLES.index(ROLE_OF.get(kind, ADMIN))


def event(name: str, data: object, id: str = "") -> bytes:  # noqa: A002  # the standard's own word
    """One event. JSON has no line break, and ids and names are ours."""
    return event_of(name, json.dumps(data, separators=(",", ":")).encode(), id)


def event_of(name: str, data: bytes, id: str = "") -> bytes:  # noqa: A002
    """The same of JSON that is made already."""
    return (b"id: %b\n" % id.encode() if id else b"") + b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def resumed(n: int) -> bytes:
    """The event that says that the supervisor is there; `n`: of its last change."""
    return event("resumed", {"n": n, "at": time.time()})


class Writer:
    """One client's answer: events go out while the caller is logged in and takes them."""

    def __init__(self, request: web.Request, caller: Caller) -> None:
        self._request = request
        self.caller = caller
        self._access = request.app[guard.ACCESS]
        self._response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: EVENTS, "X-Accel-Buffering": "no"})
        self.over = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[web.StreamResponse]:
        """While it lasts; TooMany before it begins. A client that goes ends it without an error."""
        with self._access.stream(self.caller, self.end), contextlib.suppress(ConnectionError, TimeoutError):
            self._request[BEGUN] = True
            await self._response.prepare(self._request)
            yield self._response

    def end(self) -> None:
        """End it at once, whatever was not taken yet."""
        self.over.set()
        if self._request.transport is not None:
            self._request.transport.abort()

    async def send(self, data: bytes) -> None:
        """Write, unless the caller is no longer logged in; the connection is given up if it takes nothing for STALLED seconds."""
        if self.over.is_set() or not self._access.is_valid(self.caller):
            self.end()
            raise ConnectionResetError("no longer logged in")
        try:
            async with asyncio.timeout(STALLED):
                await self._response.write(data)
        except TimeoutError:
            self.end()
            raise


async def changes(request: web.Request) -> web.StreamResponse:
    """The stream."""
    query = read_query(request, STREAM)
    hub = request.app[HUB]
    writer = Writer(request, caller_of(request))
    async with writer.open() as response:
        place = hub.place(request.headers.get("Last-Event-ID", query["last"]))
        if place is None:
            place = await _send_everything(hub, writer)
        else:
            await writer.send(resumed(hub.now()[0]))
        while True:
            if place < hub.begin:
                writer.end()
                break
            chunk: list[bytes] = []
            size = 0
            anew = False
            n, life = hub.now()
            for one in hub.after(place):
                if size >= HELD:
                    break
                place += 1
                if one.anew:
                    anew = True
                elif ROLES.index(writer.caller.role) >= ROLES.index(one.role):
                    chunk.append(one.data)
                    size += len(one.data)
            if anew:
                place = await _send_everything(hub, writer)
            elif chunk:
                await writer.send(b"".join(chunk))
            elif place == hub.end and not await hub.news(ALIVE):
                await writer.send(event("alive", {"n": n, "at": time.time()}, f"{life}:{n}" if life else ""))
    return response


async def _send_everything(hub: Hub, writer: Writer) -> int:
    """A snapshot; returns the position behind what is in it. What it already has may come once more: rows are whole."""
    position, (n, life) = hub.end, hub.now()
    await writer.send(event_of("snapshot", hub.snapshot(writer.caller), f"{life}:{n}" if life else ""))
    return position


async def everything(request: web.Request) -> web.Response:
    """The snapshot alone."""
    read_query(request, SNAPSHOT)
    return web.Response(body=request.app[HUB].snapshot(caller_of(request)), content_type=JSON)


def install(app: web.Application, backend: Backend) -> None:
    """Have the app read the backend while it serves, and end all streams when its worker leaves."""
    app[HUB] = Hub(backend)
    app.setdefault(DRAINING, asyncio.Event())
    app.cleanup_ctx.append(_read_source)


async def _read_source(app: web.Application) -> AsyncIterator[None]:
    async def end() -> None:
        await app[DRAINING].wait()
        app[guard.ACCESS].end_streams()

    tasks = [asyncio.create_task(app[HUB].run()), asyncio.create_task(end())]
    yield
    app[guard.ACCESS].end_streams()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


STREAM = Route(
    "GET",
    f"{PREFIX}/stream",
    VIEWER,
    changes,
    "Server-sent events: snapshot, then change, lost, resumed, and alive after 5 s of silence.",
    query=(Param("last", TEXT, "same as the header Last-Event-ID, for clients that cannot set it", ""),),
    answer=EVENTS,
)
SNAPSHOT = Route("GET", f"{PREFIX}/snapshot", VIEWER, everything, "The current state of everything.")
ROUTES = (SNAPSHOT, STREAM)
