"""How many requests one user may send, with all sessions, or one token: what others ask is not to wait behind them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from aiohttp import hdrs

from impetusd.gateway.accessfile import TOKENS, USERS
from impetusd.gateway.allowance import Allowance
from impetusd.gateway.problems import Problem

AT_ONCE, A_SECOND = 300, 30  # requests: so many after a while without any, then so many a second
UNDER_WAY = 32  # that are not answered yet; the supervisor gives the gateway 64 connections for all


class Turns:
    """By user. Times are seconds of any clock that only goes on."""

    def __init__(self) -> None:
        self._often = Allowance(AT_ONCE, 1 / A_SECOND, 2 * (USERS + TOKENS))
        self._under_way: Counter[str] = Counter()

    @contextlib.contextmanager
    def take(self, user: str, now: float, *, lasts: bool = False) -> Iterator[None]:
        """While one request is answered, unless it `lasts`: then it is one of those lately, and no more. Raises Problem, 429."""
        if wait := self._often.wait(user, now):
            text = f"too many requests by {user}: the limit is {AT_ONCE} at once, then {A_SECOND} per second"
            raise Problem(429, text, {hdrs.RETRY_AFTER: str(int(wait) + 1)})
        if not lasts and self._under_way[user] >= UNDER_WAY:
            text = f"too many concurrent requests by {user}: the limit is {UNDER_WAY}"
            raise Problem(429, text, {hdrs.RETRY_AFTER: "1"})
        self._often.add(user, now)
        if lasts:
            yield
            return
        self._under_way[user] += 1
        try:
            yield
        finally:
            self._under_way[user] -= 1
            if not self._under_way[user]:
                del self._under_way[user]
