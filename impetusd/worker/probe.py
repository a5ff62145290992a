"""Connections to one worker alone: the supervisor's health check of it, past the socket that all workers share.

Its requests are the application's like any others. But they have a server object of their own, so that no drain waits
for them, and a handler is cancelled when its prober has gone: those of a check that hangs do not pile up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from aiohttp import web

log = logging.getLogger("impetusd.worker")


class Probes:
    """Serves probes with what `server`, the runner's, serves."""

    def __init__(self, server: web.Server) -> None:
        self._server = web.Server(
            server.request_handler, request_factory=server.request_factory, handler_cancellation=True, access_log=None
        )
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
        """Begin to end the connections, answered or not, and let in no more."""
        self._closed = True
        for connection in self._server.connections:
            connection.force_close()

    async def wait_closed(self, seconds: float) -> None:
        """Return when their handlers have ended, or after `seconds`, twice."""
        await self._server.shutdown(seconds)

    async def _connect(self, sock: socket.socket) -> None:
        try:
            sock.setblocking(False)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(self._server, sock)
        except (OSError, ValueError) as error:
            log.warning("the probe that the supervisor sent cannot be served: %s", error)
            sock.close()
            return
        if self._closed:
            transport.close()
