"""sd_notify from an event loop: never blocks it, never raises, keeps the order of what is told.

The receiver's queue of a datagram socket is short (net.unix.max_dgram_qlen, 10 by default on older kernels, then
EAGAIN): what does not fit is tried again soon.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque

RETRY_AFTER = 0.02  # seconds


def address(path: str) -> str:
    """The address of NOTIFY_SOCKET: "@name" means the abstract namespace."""
    return "\0" + path[1:] if path.startswith("@") else path


def notify_waiting(*lines: str, patience: float = 5.0) -> None:
    """Tell the supervisor `lines` from a process that has no event loop; waits at most `patience` seconds."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(patience)
                sock.sendto("\n".join(lines).encode(), address(path))
        except OSError:
            pass  # nobody listens: the supervisor is away, and asks when it is back


class Notifier:
    """Tells the supervisor, from the event loop's thread. `path` is NOTIFY_SOCKET's value; "" tells nobody."""

    def __init__(self, path: str) -> None:
        self._address = address(path)
        self._untold: deque[bytes] = deque()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if path else None

    def __call__(self, *lines: str) -> None:
        self._untold.append("\n".join(lines).encode())
        if len(self._untold) == 1:
            self._tell()

    def _tell(self) -> None:
        while self._untold and self._socket is not None:
            try:
                self._socket.sendto(self._untold[0], self._address)
            except BlockingIOError:
                asyncio.get_running_loop().call_later(RETRY_AFTER, self._tell)
                return
            except OSError:
                pass  # nobody listens: the supervisor is away, and asks when it is back
            self._untold.popleft()
