"""The supervisor's commands to one worker: JSON objects, one a message, on a SOCK_SEQPACKET socket.

The worker outlives whoever holds the other end: at end of file it stops listening, and goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from typing import Any

_LARGEST = 65536  # bytes of a message

log = logging.getLogger("impetusd.worker")


class Channel:
    """Hands each command that comes to `on_command`, in the event loop."""

    def __init__(self, sock: socket.socket, on_command: Callable[[dict[str, Any]], None]) -> None:
        self._socket: socket.socket | None = sock
        self._on_command = on_command
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock.fileno(), self.receive)

    def receive(self) -> None:
        """Take every command that has come so far."""
        while self._socket is not None:
            try:
                message = self._socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
                self._socket.close()
                self._socket = None
                return
            try:
                command = json.loads(message)
            except ValueError:
                command = None
            if isinstance(command, dict):
                self._on_command(command)
            else:
                log.error("what came on the command channel is not a JSON object: %r", message[:200])
