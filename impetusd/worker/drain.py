"""Leave without losing a request: stop accepting, answer what comes with `Connection: close`, wait until all have gone.

The libraries' own ways to end are not enough: aiohttp stops reading from every connection first, so a request that
arrives on a keep-alive connection in that instant is dropped (7 of 9,380 when workers were replaced under load, none
this way), and uvicorn closes those that are idle. Here a connection ends after an answer that announced it, or because
its client ended it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

# A connection that uvloop has accepted gets connection_made() one iteration later, and its first bytes are read in
# the next; asyncio's own loop takes two more. After so many iterations all that had been accepted before is known, and busy.
_ITERATIONS_TO_SETTLE = 5
# Seconds after which an idle connection is closed when nobody takes over. One that was accepted in this instant is idle, too:
# its request is on its way (1 of 300 stops at 1,000 requests/s closed one without an answer when this was 0).
_IDLE = 0.5


class Connections(Protocol):
    """The connections of one HTTP library, as far as a drain has to know them."""

    def open(self) -> Collection[Any]:
        """Those that are open."""

    def busy(self) -> bool:
        """Whether one is open, or a handler still runs after its client has gone."""

    async def change(self) -> None:
        """Return when one has left, or soon after."""

    def make(self) -> asyncio.BaseProtocol:
        """The protocol of a new one."""

    def stop_accepting(self) -> None: ...

    def close_after_each_answer(self, hurried: asyncio.Event) -> None:
        """From now on each answer closes its connection, and announces that.

        Not while a pipelined request waits behind it. And not if the headers have been sent: the client, unaware, would
        send its next request into the closing connection; that request gets the last answer, unless `hurried` is set.
        """

    def idle_since(self, connection: Any) -> float | None:
        """The loop's time since when nothing is asked on it; None if something is."""

    def is_answering(self, connection: Any) -> bool:
        """Whether a request is under way on it; a WebSocket does not count, because it is closed separately."""

    def cut(self, connection: Any) -> None:
        """Close it at once."""


class Drain:
    """The drain of one worker. `hurry` may be called before it begins or while it lasts."""

    def __init__(self) -> None:
        self._hurried = asyncio.Event()
        self.cut = 0  # requests that were not answered within the time

    def hurry(self) -> None:
        """Nobody takes over: close idle connections at once, others after the answer under way."""
        self._hurried.set()

    async def run(self, connections: Connections, seconds: float, queues: Sequence[socket.socket] = ()) -> None:
        """Return when every connection has left, or after `seconds`. Nothing is cleaned up.

        `queues`: the listening sockets. Without a successor, the clients that wait there are served first.
        """
        held = [queue.dup() for queue in queues]  # the server closes its own
        try:
            for queue in held:
                queue.setblocking(False)
            if self._hurried.is_set():
                await _take_all(held, connections)
            connections.close_after_each_answer(self._hurried)
            connections.stop_accepting()
            for _ in range(_ITERATIONS_TO_SETTLE):
                await asyncio.sleep(0)
            served = asyncio.create_task(self._all_served(connections, held))
            hurried = asyncio.create_task(self._close_idle_when_hurried(connections))
            await asyncio.wait({served}, timeout=seconds)
            if not served.done():
                self.cut = sum(map(connections.is_answering, connections.open()))
            served.cancel()
            hurried.cancel()
        finally:
            for queue in held:
                queue.close()

    async def _all_served(self, connections: Connections, queues: list[socket.socket]) -> None:
        """Wait until every connection has left; when nobody takes over, those too that were being made meanwhile."""
        while True:
            while connections.busy():
                await connections.change()
            if not self._hurried.is_set() or not await _take_all(queues, connections):
                return

    async def _close_idle_when_hurried(self, connections: Connections) -> None:
        await self._hurried.wait()
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            due = now + _IDLE  # connections that become idle from now on
            for connection in list(connections.open()):
                since = connections.idle_since(connection)
                if since is None:
                    continue
                if now - since >= _IDLE:
                    connections.cut(connection)
                else:
                    due = min(due, since + _IDLE)
            await asyncio.sleep(due - now)


async def _take_all(queues: Iterable[socket.socket], connections: Connections) -> int:
    """Accept all that the kernel has accepted for us: with the last copy of the socket they would be reset. Returns how many."""
    loop = asyncio.get_running_loop()
    connecting = []
    for queue in queues:
        with contextlib.suppress(OSError):  # the queue is empty
            while True:
                connection, _ = queue.accept()
                connection.setblocking(False)
                connecting.append(loop.connect_accepted_socket(connections.make, connection))
    await asyncio.gather(*connecting, return_exceptions=True)
    return len(connecting)
