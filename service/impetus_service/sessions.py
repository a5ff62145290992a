"""Who asks: the session that a request's bearer token names, with its user, company and level."""

from __future__ import annotations

import hashlib
import secrets

from aiohttp import web

from impetus_service.kit.addresses import address
from impetus_service.kit.caller import CALLER, Caller
from impetus_service.kit.db import DATABASE, Company
from impetus_service.kit.entries import Actor
from impetus_service.kit.problems import Problem
from impetus_service.queries import accounts

PREFIX = "imp_"  # of a token, so that one can be found, and hidden, wherever it turns up
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="impetus"'}


def new_token() -> str:
    """An opaque token of 256 random bits."""
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """What of a token is kept. A plain hash is enough: nobody can try 2^256 tokens."""
    return hashlib.sha256(token.encode()).digest()


async def authenticate(request: web.Request, action: str, entity: str) -> Caller:
    """The caller of `request`, who does `action` to an `entity` in the words of the audit log. Raises Problem 401, and Unavailable when the database cannot tell."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or not token.isascii():
        raise Problem(401, "a session is needed: Authorization: Bearer TOKEN", headers=_CHALLENGE)
    database = request.app[DATABASE]
    row = await database.fetchrow(accounts.SESSION, token_hash(token.strip()))
    if row is None:
        detail = "the session has expired or ended, or never was: log in again"
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
    )
    request[CALLER] = caller
    return caller
