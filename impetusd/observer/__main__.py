"""`python -m impetusd.observer`: what impetusd starts where there is a [gateway] or an [alert:NAME]; not for people."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket

from impetusd.client import inherited
from impetusd.client.async_control import AsyncControl, through
from impetusd.core.stream import Mirror

EX_TEMPFAIL = 75
LOCK = "lock"


def main() -> int:
    """Returns the exit code."""
    fd = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another observer holds {os.path.realpath(LOCK)}")
        return EX_TEMPFAIL
    asyncio.run(observe())
    return 0


async def observe() -> None:
    """Watch until SIGTERM."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    watching = asyncio.create_task(watch())
    await asyncio.wait({watching, asyncio.create_task(over.wait())}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def watch() -> None:
    """Ready once the supervisor has told all; what it tells then is in the mirror."""
    control, mirror = AsyncControl(through(inherited.number(os.environ))), Mirror()
    async for change in control.watch(mirror):
        if change.kind == "snapshot":
            await control.call("observer-report", {"report": {"undelivered": 0}})
            notify("READY=1")


def notify(text: str) -> None:
    """Tell the supervisor by the notify protocol."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), f"\0{path[1:]}" if path.startswith("@") else path)


if __name__ == "__main__":
    raise SystemExit(main())
