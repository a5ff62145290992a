"""The supervisor's commands to one worker: JSON objects, one a message, on a SOCK_SEQPACKET socket.

    {"do": "serve", "name"}   accept requests, as this slot; with "page" and a descriptor: measure in there, see `measures`
    {"do": "tell"}            report the state again; a supervisor that has died may have lost it; "page" likewise
    {"do": "probe"}           with one descriptor, a stream connection: serve it
    {"do": "count"}           report how many requests it has answered, and how many of them with 500 or above
    {"do": "quit"}            there is no successor: hurry the drain

The worker outlives the holder of the other end: at end of file it stops listening on it, and goes on.
"""

from __future__ import annotations

import array
import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

_LARGEST = 65536  # bytes of a message
_FDS = 8  # of a message; the kernel closes what is more

log = logging.getLogger("impetusd.worker")


def receive(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int], int]:
    """A message of at most `size` bytes with its descriptors, at most `most`, and recvmsg's flags. Raises OSError.

    socket.recv_fds() of Python 3.11 ignores its flags: what it returns would go to a child that is executed meanwhile.
    """
    fds = array.array("i")
    space = socket.CMSG_LEN(most * fds.itemsize)
    message, ancillary, flags, _ = sock.recvmsg(size, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return message, list(fds), flags


class Channel:
    """Hands each command that comes to `on_command`, in the event loop, with the descriptors that came with it.

    Those that `on_command` does not take out of the list are closed when it returns.
    """

    def __init__(self, sock: socket.socket, on_command: Callable[[dict[str, Any], list[int]], None]) -> None:
        self._socket: socket.socket | None = sock
        self._on_command = on_command
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock.fileno(), self.receive)

    def receive(self) -> None:
        """Take every command that has come so far."""
        while self._socket is not None:
            fds: list[int] = []
            try:
                message, fds, _ = receive(self._socket, _LARGEST, _FDS)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            try:
                if message:
                    self._take(message, fds)
            finally:
                for fd in fds:
                    os.close(fd)
            if not message:
                asyncio.get_running_loop().remove_reader(self._socket.fileno())
                self._socket.close()
                self._socket = None
                return

    def _take(self, message: bytes, fds: list[int]) -> None:
        try:
            command = json.loads(message)
        except ValueError:
            command = None
        if isinstance(command, dict):
            self._on_command(command, fds)
        else:
            log.error("received invalid data on the command channel: %r", message[:200])
