"""Who asks, as routes see it. How that is found out is the application's own: it puts a function into app[AUTHENTICATE]."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

from aiohttp import web

from impetus_service.kit.db import Company


class Rank(IntEnum):
    """The usual levels of those who ask; an application may have others between."""

    MEMBER = 10
    MANAGER = 50
    ADMINISTRATOR = 100


@dataclass(frozen=True)
class Caller:
    """A user in a session, and the only way of a handler to its company's rows."""

    session_id: int
    user_id: int
    level: int
    company: Company
    by_cookie: bool = False  # of a browser, which adds it to what any page sends


CALLER = web.RequestKey("impetus.caller", Caller)  # of a request, once it is known who asks

# Gives the caller of a request, who does `action` to an `entity` in the words of the audit log, and sets CALLER. Raises
# Problem 401 or 403, and Unavailable when the database cannot tell.
Authenticate = Callable[[web.Request, str, str], Awaitable[Caller]]
AUTHENTICATE: web.AppKey[Authenticate] = web.AppKey("impetus.authenticate")
