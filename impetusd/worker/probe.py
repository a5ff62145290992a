"""Connections to one worker alone: the supervisor's health check of it, past the socket that all workers share.

Its requests are the application's like any others. But no drain waits for them, and a handler is cancelled when its
prober has gone: those of a check that hangs do not pile up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

log = logging.getLogger("impetusd.worker")


class Probes:
    """Connects each probe to a protocol that `make` makes."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._make = make
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False

    def take(self, fd: int) -> None:
        """Serve the stream connection `fd`, which is ours from here on."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            log.warning("the probe that the supervisor sent is not a socket: %s", error)
            os.close(fd)
            return
        connecting = asyncio.create_task(self._connect(sock), name="impetusd.worker.probe")
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    def close(self) -> None:
        """Stop accepting, including connections that are just being made."""
        self._closed = True

    async def _connect(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self._make, sock)
        except (OSError, ValueError) as error:
            log.warning("the probe that the supervisor sent cannot be served: %s", error)
            sock.close()
            return
        if self._closed:
            transport.close()
