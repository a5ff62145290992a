"""What the misbehaving programs share: telling that they are ready, and holding on for a bounded time.

They import the standard library alone, and end by themselves (SIGALRM) should a test lose sight of them.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable

LIFETIME = 300  # seconds

signal.alarm(LIFETIME)


def notify(message: str) -> None:
    """Tell the supervisor, as sd_notify does; nothing happens when nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


def until(condition: Callable[[], object]) -> None:
    """Wait for what gives no event, LIFETIME at most."""
    while not condition():
        time.sleep(0.01)


def hold() -> None:
    """Wait until a signal ends this process."""
    while True:
        signal.pause()
