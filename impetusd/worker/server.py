"""The interface between a worker and the part that speaks HTTP, with an implementation for each protocol.

    aiohttp    aiohttp_server   an aiohttp Application, by aiohttp
    asgi       asgi_server      any ASGI application, by uvicorn's protocol classes
    wsgi       wsgi_server      any WSGI application, by the same, and a pool of threads

An implementation is imported only by the worker that serves with it: its library may not be there for the others.
"""

from __future__ import annotations

import importlib
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

from impetusd.worker.accesslog import AccessLog
from impetusd.worker.cells import Page
from impetusd.worker.environment import Settings, WorkerError
from impetusd.worker.tally import Tally

KEEP_ALIVE = 3630  # seconds that a client may be silent between two requests, as in aiohttp: a proxy gives up first
_IMPLEMENTATIONS = {"aiohttp": "aiohttp_server", "asgi": "asgi_server", "wsgi": "wsgi_server"}
_NEEDS = {
    "aiohttp": ("aiohttp", "aiohttp"),
    "asgi": ("uvicorn", "impetusd[asgi]"),
    "wsgi": ("uvicorn", "impetusd[wsgi]"),
}


class Server(ABC):
    """One application, served. Its methods are called in the order in which they stand here, in the event loop."""

    # The part that did not beat when the watchdog ends the worker although its event loop runs.
    pulse = "the event loop"

    def __init__(self, settings: Settings, tally: Tally, grace: float, page: Page) -> None:
        """`grace`: seconds that handlers get after the drain, and WebSockets' clients to answer."""
        self.settings = settings
        self.tally = tally
        self.grace = grace
        self.page = page
        self.access_log = AccessLog() if settings.access_log else None

    @abstractmethod
    async def start_up(self, app: object) -> None:
        """Start `app`, its lifespan or contexts included. Raises what the application raises, or WorkerError."""

    @abstractmethod
    def probe(self, fd: int) -> None:
        """Serve the stream connection `fd`, which is ours from here on, past the sockets and past any drain."""

    @abstractmethod
    async def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these listening sockets from now on. They are the server's, which closes them when it drains."""

    @abstractmethod
    def announce_drain(self) -> None:
        """Let the application know that its worker leaves, end probes, and let none in."""

    @abstractmethod
    def hurry(self) -> None:
        """Nobody takes over: let the drain, begun or not, close idle connections at once."""

    @abstractmethod
    async def drain(self, seconds: float, queues: Sequence[socket.socket]) -> int:
        """Return when every connection has left, or after `seconds`: how many requests were cut off. See `drain`."""

    @abstractmethod
    async def close(self) -> None:
        """Close WebSockets with 1001, end what still runs, and leave the lifespan or contexts."""

    @property
    @abstractmethod
    def connections(self) -> int:
        """How many are open."""

    @property
    def lingers(self) -> bool:
        """After `close`: whether threads still run that the interpreter's end could trip over."""
        return False

    def alive(self) -> bool:
        """Asked by the watchdog's beat, four times in `watchdog`: whether what answers requests still does."""
        return True


def prepare(protocol: str) -> type[Server]:
    """Import the implementation for `protocol`. Raises WorkerError where its library is missing or does not fit."""
    needed, extra = _NEEDS[protocol]
    try:
        module = importlib.import_module(f"impetusd.worker.{_IMPLEMENTATIONS[protocol]}")
    except ImportError as error:
        raise WorkerError(
            f"protocol = {protocol} needs {needed}, which cannot be imported ({error}); pip install '{extra}'"
        ) from None
    return cast("type[Server]", module.SERVER)


def prepare_likely(protocol: str) -> None:
    """Before the fork, because workers share the library; "" for an application whose type only its factory knows."""
    try:
        prepare(protocol or "asgi")  # whose library serves WSGI as well; aiohttp is there already if it is wanted
    except WorkerError:
        if protocol:
            raise
