"""Daemon threads for calls that may block forever: a disk, a name service, the memory map of a hung process.

Each call has a thread of its own, which the event loop waits for until a deadline and then leaves behind. Nothing waits
for such a thread at the end either, as asyncio does for those of its default executor. How many there can be is bounded:
what would take one more waits for its turn, within its own deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NoAnswer(Exception):
    """There was no answer in time, or no thread to ask in. The message is a clause: "no answer within 10 s"."""


class Threads:
    """Threads for one purpose, which hanging threads of other purposes cannot use up."""

    def __init__(self, name: str, most: int) -> None:
        """`most` calls run at a time."""
        self._name = name
        self._free = asyncio.Semaphore(most)

    async def run(self, act: Callable[[], T], within: float | None) -> T:
        """Return or raise what `act` does, or NoAnswer after `within` seconds (None: never)."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[Callable[[], T]] = loop.create_future()

        def settle(outcome: Callable[[], T]) -> None:
            self._free.release()
            if not ended.done():
                ended.set_result(outcome)

        def work() -> None:
            try:
                result = act()
            except BaseException as failure:
                error = failure  # the name of an except clause ends with it

                def outcome() -> T:
                    raise error
            else:

                def outcome() -> T:
                    return result

            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, outcome)

        try:
            async with asyncio.timeout(within):
                await self._free.acquire()
                try:
                    threading.Thread(target=work, name=self._name, daemon=True).start()
                except Exception as error:  # RuntimeError for pids.max, MemoryError
                    self._free.release()
                    raise NoAnswer(f"cannot start a thread: {str(error) or type(error).__name__}") from None
                outcome = await ended
        except TimeoutError:
            raise NoAnswer(f"no response within {within:g} s") from None
        return outcome()
