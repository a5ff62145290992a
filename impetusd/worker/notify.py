"""sd_notify from an event loop: never blocks it, never raises, keeps the order of messages.

The receiver's queue of a datagram socket is short (net.unix.max_dgram_qlen, 10 by default on older kernels, then
EAGAIN). It stays full while there is no supervisor, because the shim keeps the socket. Messages that do not fit are
retried, at first soon, then four times a second.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque

RETRY_AFTER = 0.02  # seconds, doubled each time
RETRY_AFTER_AT_MOST = 0.25
_FULL = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM}  # of the queue or of the kernel's memory: it passes


def address(path: str) -> str:
    """The address of NOTIFY_SOCKET: "@name" means the abstract namespace."""
    return "\0" + path[1:] if path.startswith("@") else path


def notify_waiting(*lines: str) -> None:
    """Send `lines` to the supervisor from a process without an event loop; waits while the queue is full."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto("\n".join(lines).encode(), address(path))
        except OSError:
            pass  # nobody listens: the supervisor is away, and asks when it is back


class Notifier:
    """Notifies the supervisor, from the event loop's thread. `path` is NOTIFY_SOCKET's value; "" sends nothing.

    A message that is still waiting is not queued twice, so that a long wait for the supervisor costs no memory.
    """

    def __init__(self, path: str) -> None:
        self._address = address(path)
        self._unsent: deque[bytes] = deque()
        self._retry_after = RETRY_AFTER
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if path else None

    def __call__(self, *lines: str) -> None:
        message = "\n".join(lines).encode()
        if self._socket is None or message in self._unsent:
            return
        self._unsent.append(message)
        if len(self._unsent) == 1:
            self._send(self._socket)

    @property
    def waiting(self) -> int:
        """How many messages could not be sent so far."""
        return len(self._unsent)

    def _send(self, sock: socket.socket) -> None:
        while self._unsent:
            try:
                sock.sendto(self._unsent[0], self._address)
            except OSError as error:
                if error.errno in _FULL:
                    asyncio.get_running_loop().call_later(self._retry_after, self._send, sock)
                    self._retry_after = min(self._retry_after * 2, RETRY_AFTER_AT_MOST)
                    return
                # Else there is no receiver: the supervisor is away, and requests the state ("tell") when it is back.
            self._retry_after = RETRY_AFTER
            self._unsent.popleft()
