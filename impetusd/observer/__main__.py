"""`python -m impetusd.observer`: one at a time, by a lock in its folder; the settings are in IMPETUSD_OBSERVER."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys

from impetusd.client import async_control, inherited
from impetusd.client.async_control import AsyncControl
from impetusd.observer import settings
from impetusd.observer.program import Observer, say
from impetusd.worker.notify import notify_waiting

CLOSING = 3.0  # seconds for what is to be written down at the end


def main() -> int:
    """Returns the exit code."""
    try:
        given = settings.read(os.environ["IMPETUSD_OBSERVER"])
        fd = inherited.number(os.environ)
    except (KeyError, TypeError, ValueError) as error:
        say(f"this program can only be started by impetusd, for an INI file with [alert:NAME] or [gateway] ({error!r})")
        return 2
    lock = os.open(os.path.join(given.folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"another observer holds {given.folder}/lock; waiting for it to exit")
        fcntl.flock(lock, fcntl.LOCK_EX)
    asyncio.run(work(given, AsyncControl(async_control.through(fd))))
    return 0


async def work(given: settings.Settings, client: AsyncControl) -> None:
    """Until SIGTERM or SIGINT."""
    observer = Observer(given, client)
    running = asyncio.create_task(observer.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    notify_waiting("READY=1")
    with contextlib.suppress(asyncio.CancelledError):
        await running
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSING):
            await observer.close()


if __name__ == "__main__":
    sys.exit(main())
