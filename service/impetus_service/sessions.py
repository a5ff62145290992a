"""Who asks: the session that a request's token names, with its user, company and level.

The token comes as Authorization: Bearer TOKEN, or in a cookie that no script can read, as a page in a browser has it. The
cookie's name begins with __Host-: browsers take it over TLS (or from localhost) alone, and from no other host, so nobody can
lay a session of his own in it. What is more than reading is done by cookie for our own pages only (kit/origins.py).
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta

from aiohttp import web

from impetus_service.kit.addresses import address
from impetus_service.kit.caller import CALLER, Caller
from impetus_service.kit.db import DATABASE, Company
from impetus_service.kit.entries import Actor
from impetus_service.kit.origins import may_use_cookie
from impetus_service.kit.problems import Problem
from impetus_service.queries import accounts
from impetus_service.settings import SETTINGS

PREFIX = "imp_"  # of a token, so that one can be found, and hidden, wherever it turns up
COOKIE = "__Host-impetus"
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="impetus"'}


def new_token() -> str:
    """An opaque token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """What of a token is kept. A plain hash is enough: nobody can try 2^256 tokens."""
    return hashlib.sha256(token.encode()).digest()


async def authenticate(request: web.Request, action: str, entity: str) -> Caller:
    """The caller of `request`, who does `action` to an `entity` in the words of the audit log.

    Raises Problem 401 or 403, and Unavailable when the database cannot tell.
    """
    token, by_cookie = _token(request)
    database = request.app[DATABASE]
    row = await database.fetchrow(accounts.SESSION, token_hash(token))
    if row is None:
        detail = "the session is invalid or has expired; log in again"
        raise Problem(
            401,
            detail,
            "session_ended",
            headers={"WWW-Authenticate": _CHALLENGE["WWW-Authenticate"] + ', error="invalid_token"'},
        )
    caller = Caller(
        row["id"],
        row["user_id"],
        row["level"],
        Company(database, row["company_id"], Actor(row["user_id"], action, entity, address(request))),
        by_cookie,
    )
    request[CALLER] = caller
    return caller


def _token(request: web.Request) -> tuple[str, bool]:
    """The token of a request, and whether it is in the cookie: which a header makes nobody look at."""
    header = request.headers.get("Authorization")
    if header is None:
        token, by_cookie = request.cookies.get(COOKIE, ""), True
    else:
        scheme, _, token = header.partition(" ")
        token, by_cookie = token.strip() if scheme.lower() == "bearer" else "", False
    if not token or not token.isascii():
        raise Problem(401, "a session is required: Authorization: Bearer TOKEN, or its cookie", headers=_CHALLENGE)
    if by_cookie:
        refuse_foreign_page(request)
    return token, by_cookie


def refuse_foreign_page(request: web.Request) -> None:
    """Problem 403 for an unsafe request with our cookie that a page of somebody else sends."""
    if not may_use_cookie(request):
        raise Problem(
            403, "session cookies are accepted only from the service's own pages and CORS_ORIGINS", "foreign_origin"
        )


def set_cookie(request: web.Request, response: web.Response, token: str, lifetime: timedelta) -> None:
    """Put a session into the browser's cookie; an empty token takes it out."""
    response.set_cookie(
        COOKIE, token, max_age=int(lifetime.total_seconds()), path="/", secure=True, httponly=True,
        samesite=request.app[SETTINGS].cookie_samesite.capitalize(),
    )  # fmt: skip
