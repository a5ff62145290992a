"""Waiting for what gives no event of its own: until it is there, and never for a time. Only a failure waits long.

Whoever can be told (a pipe, a pidfd, a threading.Event, a future) is waited for by that.
"""

from __future__ import annotations

import asyncio
import inspect
import select
import time
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE = 60.0  # seconds
# The next look is after this part of the time that has passed: with one every 5 ms, and 2 ms for each look at the status of a
# daemon, whoever waited took a quarter of a core.
SHARE, RARELY = 1 / 16, 0.5  # seconds


def wait_for(
    condition: Callable[[], Any], what: object = "a condition", patience: float = PATIENCE, apart: float = 0.005
) -> Any:
    """Return the first true value of `condition`; fail with `what` (its result, if it can be called) after `patience`.

    `apart`: seconds between the first looks, longer where one costs something.
    """
    begun = time.monotonic()
    while not (value := condition()):
        if (waited := time.monotonic() - begun) > patience:
            raise AssertionError(_sentence(what, patience, value))
        time.sleep(_apart(waited, apart))
    return value


def readable(file: Any, patience: float) -> bool:
    """Whether there is something to be read within so many seconds; of any descriptor, where select(2) ends at 1023."""
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(patience * 1000))


async def until(
    condition: Callable[[], Awaitable[Any] | Any], what: object = "a condition", patience: float = PATIENCE
) -> Any:
    """The same in an event loop, which goes on meanwhile; `condition` may be a coroutine function."""
    begun = time.monotonic()
    while True:
        value = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if (waited := time.monotonic() - begun) > patience:
            raise AssertionError(_sentence(what, patience, value))
        await asyncio.sleep(_apart(waited, 0.005))


async def turns(count: int = 1) -> None:
    """Have the event loop go round so often: what was ready has run then."""
    for _ in range(count):
        await asyncio.sleep(0)


def _apart(waited: float, apart: float) -> float:
    return max(apart, min(waited * SHARE, RARELY))


def _sentence(what: object, patience: float, value: object) -> str:
    return f"waited {patience:g} s for {what() if callable(what) else what}; at last it was {value!r}"
