"""Questions to a supervisor that may be replaced, or die, over them: the next one is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from impetusd.client.control import Unanswered
from impetusd.core.protocol import METHODS

FIRST_AGAIN, LAST_AGAIN = 0.1, 1.0  # seconds until it is asked anew; doubled each time
PATIENCE = 5.0  # seconds without a supervisor: the next one is there within 0.5
T = TypeVar("T")


async def persistently(
    method: str,
    ask: Callable[[], Awaitable[T]],
    patience: float = PATIENCE,
    now: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> T:
    """What `ask`, which asks for `method`, is answered; asked again where there is no answer and asking twice does no harm.

    However long a supervisor has worked on it before it died, `patience` is counted from then on. Raises what `ask`
    raises; Unanswered at the end of it, or at once for a method that may have been carried out.
    """
    wait, until = FIRST_AGAIN, float("inf")
    while True:
        try:
            return await ask()
        except Unanswered as error:
            if not METHODS[method].idempotent:
                raise Unanswered(f"{error}; it is unknown whether the command was executed") from None
            until = min(until, now() + patience)
            if now() >= until:
                raise
        await pause(wait)
        wait = min(2 * wait, LAST_AGAIN)
