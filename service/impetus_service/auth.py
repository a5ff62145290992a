"""Logging in and out. A session is a token that is shown once.

Failed logins are counted of an account from an address, so that whoever guesses locks himself out and not the account's
owner; with wider limits of an account from anywhere, and of an address for any account. The count is in the database, so
it holds over all workers, and an attempt is counted before its password is looked at, so that many at once get no more
tries than one after the other. A wrong password, an unknown account and a deactivated one look alike, also in the time
that they take.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Annotated, Any

import msgspec
from aiohttp import web

from impetus_service import passwords
from impetus_service.kit import addresses
from impetus_service.kit.api import Api
from impetus_service.kit.caller import Caller
from impetus_service.kit.db import DATABASE, Company, Database
from impetus_service.kit.entries import Actor
from impetus_service.kit.problems import Problem
from impetus_service.kit.validation import Input, Moment
from impetus_service.passwords import PASSWORDS
from impetus_service.queries import accounts as queries
from impetus_service.sessions import new_token, refuse_foreign_page, set_cookie, token_hash
from impetus_service.settings import SETTINGS, Settings
from impetus_service.users import Email, Name, NewPassword, User

USER_AGENT_MAX = 200  # characters
WIDER = 10  # times LOGIN_ATTEMPTS: many people may share an address, and many addresses may guess at an account

api = Api("auth")


class Credentials(Input):
    email: Email
    password: Annotated[str, msgspec.Meta(max_length=1024)]
    cookie: bool = False  # the session goes into the browser's cookie, and no script gets to see its token

    def __repr__(self) -> str:
        return f"Credentials(email={self.email!r})"


class Session(msgspec.Struct):
    """`token` goes into the header Authorization: Bearer TOKEN; it is nowhere to be had again. Null: it is in the cookie."""

    token: str | None
    expires_at: Moment


class ProfileChange(Input):
    name: Name


class PasswordChange(Input):
    current: Annotated[str, msgspec.Meta(max_length=1024)]
    new: NewPassword

    def __repr__(self) -> str:
        return "PasswordChange()"


@api.post("/api/auth/login", status=201, raises=(401, 403, 429, 503), headers=("Set-Cookie",))
async def login(request: web.Request, body: Credentials) -> Session | web.Response:
    """Open a session; with `cookie` in a cookie of the browser, HttpOnly, Secure and SameSite.

    A user has SESSIONS_PER_USER sessions at most: the oldest end for new ones.
    """
    if body.cookie:
        refuse_foreign_page(request)
    database, settings = request.app[DATABASE], request.app[SETTINGS]
    email, address = body.email.lower(), addresses.address(request)
    own, wider = _key("login", f"{address} {email}"), [_key("address", str(address)), _key("account", email)]
    try:
        await _count(database, settings, own, *wider)
    except TooMany as limited:
        if not limited.repeated:
            user = await database.fetchrow(queries.USER_BY_EMAIL, email)
            await _company(request, user).refused(limited.detail)
        raise
    user = await database.fetchrow(queries.USER_BY_EMAIL, email)
    matches = await request.app[PASSWORDS].matches(body.password, user and user["password_hash"])
    if user is None or not matches:
        await _company(request, user).refused("wrong password" if user is not None else "no such account")
        raise _refused()
    await database.execute(queries.FORGET_ATTEMPTS, own)
    await database.execute(queries.TAKE_BACK_ATTEMPTS, wider)
    hashed = None
    if passwords.outdated(user["password_hash"]):
        hashed = await request.app[PASSWORDS].hashed(body.password)
    token, lifetime = new_token(), timedelta(hours=settings.session_hours)
    async with _company(request, user).transaction() as change:
        # Whoever changes the password, or deactivates the user, ends the sessions that are there: not before this one is.
        if await change.fetchval(queries.LOCK_CREDENTIALS, user["id"], user["password_hash"]) is None:
            raise _refused()
        if hashed is not None:
            await change.execute(queries.SET_PASSWORD, user["id"], hashed)
        agent = request.headers.get("User-Agent", "").encode(errors="replace").decode()[:USER_AGENT_MAX] or None
        session = await change.fetchrow(queries.ADD_SESSION, user["id"], token_hash(token), address, lifetime, agent)
        ended = await change.execute(queries.END_OLD_SESSIONS, user["id"], settings.sessions_per_user)
        change.record(session["id"], f"{ended} of the oldest sessions ended" if ended else "")
    if not body.cookie:
        return Session(token, session["expires_at"])
    response = web.Response(
        body=msgspec.json.encode(Session(None, session["expires_at"])), status=201, content_type="application/json"
    )
    set_cookie(request, response, token, lifetime)
    return response


@api.post("/api/auth/logout", status=204, entity="session", action="auth.logout", headers=("Set-Cookie",))
async def logout(request: web.Request, me: Caller) -> web.Response:
    """End the session that asks."""
    async with me.company.transaction() as change:
        await change.execute(queries.END_SESSION, me.session_id)
        change.record(me.session_id)
    response = web.Response(status=204)
    if me.by_cookie:
        set_cookie(request, response, "", timedelta())
    return response


@api.get("/api/auth/me")
async def get_me(me: Caller) -> User:
    """The user whose session asks."""
    return User(**await me.company.fetchrow(queries.USER, me.user_id))


@api.patch("/api/auth/me", entity="user")
async def update_me(me: Caller, body: ProfileChange) -> User:
    """Change the own name."""
    async with me.company.transaction() as change:
        await change.fetchrow(queries.LOCK_USER, me.user_id)
        before = await change.fetchrow(queries.USER, me.user_id)
        await change.execute(queries.SET_NAME, me.user_id, body.name)
        change.record(me.user_id, f"name {before['name']} → {body.name}")
        return User(**await change.fetchrow(queries.USER, me.user_id))


@api.post("/api/auth/password", status=204, entity="password", action="password.change", raises=(429,))
async def change_password(request: web.Request, me: Caller, body: PasswordChange) -> None:
    """Set another password, and end all other sessions of the user."""
    key = _key("password", str(me.user_id))
    await _count(request.app[DATABASE], request.app[SETTINGS], key)
    kept = await me.company.fetchval(queries.PASSWORD, me.user_id)
    if not await request.app[PASSWORDS].matches(body.current, kept):
        raise Problem(403, "the current password is wrong", "wrong_password")
    hashed = await request.app[PASSWORDS].hashed(body.new)
    async with me.company.transaction() as change:
        if await change.fetchval(queries.LOCK_CREDENTIALS, me.user_id, kept) is None:
            raise Problem(403, "the current password is wrong", "wrong_password")  # by now
        await change.execute(queries.SET_PASSWORD, me.user_id, hashed)
        ended = await change.execute(queries.END_OTHER_SESSIONS, me.user_id, me.session_id)
        change.record(me.user_id, f"{ended} other sessions ended")
    await request.app[DATABASE].execute(queries.FORGET_ATTEMPTS, key)


class TooMany(Problem):
    """429; the first one of its window is the one that is recorded."""

    def __init__(self, seconds: int, *, repeated: bool) -> None:
        super().__init__(
            429, f"too many failed logins; try again in {seconds} s", headers={"Retry-After": str(seconds)}
        )
        self.repeated = repeated


def _refused() -> Problem:
    detail = "wrong email or password"
    return Problem(401, detail, "wrong_credentials", headers={"WWW-Authenticate": "Bearer"})


def _company(request: web.Request, user: Any) -> Company:
    """Of a user who logs in. Of one who does not exist the installation's own, 0: to write that down takes as long."""
    who = Actor(user and user["id"], "auth.login", "session", addresses.address(request))
    return Company(request.app[DATABASE], user["company_id"] if user else 0, who)


async def _count(database: Database, settings: Settings, own: bytes, *wider: bytes) -> None:
    """Count an attempt; Problem 429 when it is one too many, and then no wider limit is touched by it."""
    window = timedelta(minutes=settings.login_window_minutes)
    for key in (own, *wider):
        row = await database.fetchrow(queries.COUNT_ATTEMPT, key, window)
        limit = settings.login_attempts * (1 if key is own else WIDER)
        if row["count"] > limit:
            seconds = max(1, round(row["seconds_left"]))
            raise TooMany(seconds, repeated=row["count"] > limit + 1)


def _key(kind: str, of: str) -> bytes:
    # Hashed: people type all sorts of things into the field of the address.
    return hashlib.sha256(f"{kind}:{of}".encode(errors="replace")).digest()
