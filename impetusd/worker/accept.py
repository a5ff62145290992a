"""Accept connections in turns, and only this worker's share.

The event loops' own servers accept whatever is in the queue as soon as they are woken: of connections that are opened at once,
the first worker that runs gets most (of 64 over 4 workers up to 53). Here one connection is accepted per iteration of
the loop, and a worker that has more than others passes its turn (see `cells`): for PASS it ignores the queue and leaves
it to others.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from impetusd.worker.cells import PASS, Page

if TYPE_CHECKING:
    import ssl

HANDSHAKE = 10.0  # seconds for that of TLS
_PAUSE = 0.1  # seconds without looking at the queue when there is no room for more
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

log = logging.getLogger("impetusd.worker")


class Acceptor:
    """The listening sockets of one worker. `make` makes the protocol of a connection; `known` says how many are open."""

    def __init__(
        self,
        page: Page,
        make: Callable[[], asyncio.BaseProtocol],
        known: Callable[[], int],
        tls: Callable[[socket.socket], ssl.SSLContext | None] | None = None,
    ) -> None:
        """`tls`: the context for connections to a listening socket, None for plain ones."""
        self._tls = tls or (lambda _: None)
        self._page = page
        self._make = make
        self._known = known
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._pausing: asyncio.TimerHandle | None = None
        self._paused_until = 0.0  # monotonic
        self._connecting = 0
        self._has_room = True

    @property
    def connections(self) -> int:
        """How many are open, or about to be."""
        return self._known() + self._connecting

    @property
    def accepts(self) -> bool:
        """Whether it has begun and has not been stopped."""
        return bool(self._sockets)

    def begin(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these, which are ours from here on."""
        self._sockets = list(sockets)
        for sock in self._sockets:
            sock.setblocking(False)
        self._look()

    def left(self) -> None:
        """A connection has been closed."""
        self._page.left(self.connections, self._loop.time())

    def stop(self) -> None:
        """Stop accepting. The server knows an accepted connection two iterations of the loop later."""
        if self._pausing is not None:
            self._pausing.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _look(self) -> None:
        for sock in self._sockets:
            self._loop.add_reader(sock.fileno(), self._turn, sock)

    def _turn(self, sock: socket.socket) -> None:
        if self._page.passes(self.connections, self._loop.time()):
            self._pause(PASS)
            return
        try:
            connection, _ = sock.accept()
        except OSError as error:  # another worker was quicker, or the client has gone: ignored
            if error.errno in _NO_ROOM:
                self._wait_for_room(error)
            return
        self._has_room = True
        connection.setblocking(False)
        self._connecting += 1
        self._page.show(self.connections)
        tls = self._tls(sock)
        more: dict[str, Any] = {"ssl": tls, "ssl_handshake_timeout": HANDSHAKE} if tls is not None else {}
        self._connect(connection, self._loop.connect_accepted_socket(self._make, connection, **more))

    def _connect(self, connection: socket.socket, steps: Coroutine[Any, Any, object]) -> None:
        """Go on with `steps` until they have connected the protocol. A task for it would take longer than they do."""
        try:
            waits_for: asyncio.Future[object] = steps.send(None)
        except StopIteration:
            self._connecting -= 1
            self._page.show(self.connections)
        except Exception as error:
            self._connecting -= 1
            # A client's errors, as in its TLS handshake, are not logged, because anybody could fill the log with them.
            if not isinstance(error, OSError) or error.errno in _NO_ROOM:
                log.warning("a connection cannot be served: %r", error)
            connection.close()
        else:
            waits_for.add_done_callback(lambda _: self._connect(connection, steps))

    def _pause(self, seconds: float) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
        self._paused_until = time.monotonic() + seconds
        self._pausing = self._loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        if time.monotonic() < self._paused_until:  # uvloop counts whole milliseconds: one may be over in 0.1
            self._pausing = self._loop.call_later(PASS, self._go_on)
            return
        self._pausing = None
        self._look()
        for sock in self._sockets:
            if self._pausing is None:
                self._turn(sock)

    def _wait_for_room(self, error: OSError) -> None:
        """Queued connections may be taken by other workers."""
        if self._has_room:
            self._has_room = False
            log.error("a connection cannot be accepted: %s; trying again every %g s", error.strerror, _PAUSE)
        self._pause(_PAUSE)
