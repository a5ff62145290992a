"""Logging in and out: by password, or by the code of a one-time link; both become a session's cookie.

One password is worked on at a time, in a thread: 76 ms of a core and 32 MiB; of those that wait some are kept for browsers in
which somebody has logged in before. Who fails FAILURES times has to wait, by the
address that the connection comes from; a browser in which the same user has logged in before is counted for itself, and a code is not
counted at all. So nobody can lock the owner out by guessing, from the same address or another.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time

from aiohttp import hdrs, web

from impetusd.gateway import accessfile, guard, passwords, tokens
from impetusd.gateway.access import Access
from impetusd.gateway.accessfile import State
from impetusd.gateway.allowance import Allowance
from impetusd.gateway.caller import Caller
from impetusd.gateway.problems import Problem
from impetusd.gateway.routes import NOTHING, OPEN, PREFIX, SECRET, Param, Route, read_body
from impetusd.supervisor.threads import NoAnswer, Threads

FAILURES = 5  # at once
EACH = 12.0  # seconds after which one is forgotten
COUNTED = 1000  # addresses and browsers; the one that was heard of longest ago goes
WAITING, KEPT = 8, 8  # passwords that wait for their turn, and besides of browsers that are known
WITHIN = 10.0  # seconds for all of them
BROWSER = "browser "  # before the digest of one that is known, among those whose failures are counted

_log = logging.getLogger("impetusd.gateway")


class Doorkeeper:
    """What all logins of one gateway share."""

    def __init__(self) -> None:
        self.failures = Allowance(FAILURES, EACH, COUNTED)
        self._threads = Threads("password", 1)
        self._waiting = 0

    async def is_right(self, password: str, kept: str, *, known: bool = False) -> bool:
        """As `passwords.is_right`; 429 if too many wait already. `known`: of a browser that is."""
        if self._waiting >= WAITING + (KEPT if known else 0):
            raise Problem(429, "too many logins at once", {hdrs.RETRY_AFTER: "1"})
        self._waiting += 1
        try:
            return await self._threads.run(lambda: passwords.is_right(password, kept), WITHIN)
        except NoAnswer:
            raise Problem(503, "the password could not be checked in time", {hdrs.RETRY_AFTER: "1"}) from None
        finally:
            self._waiting -= 1


DOORKEEPER = web.AppKey("impetusd.doorkeeper", Doorkeeper)


async def log_in(request: web.Request) -> web.Response:
    """A session for a password, or for a one-time code."""
    given = await read_body(request, LOGIN)
    access, rules = request.app[guard.ACCESS], request.app[guard.RULES]
    if rules.scheme(request) == "http":
        sentence = "X-Forwarded-Proto is http, so the password would cross the network unencrypted; use https"
        raise Problem(403, sentence)
    by_code = given["code"] is not None
    if by_code is (given["user"] is not None or given["password"] is not None) or (
        not by_code and None in {given["user"], given["password"]}
    ):
        raise Problem(400, "user and password, or a code, are required")
    if by_code:
        user, role = await _redeem(access, given["code"])
        kept = None
    else:
        role = ""
        user, kept = (
            given["user"],
            await _check(request.app, _counted_as(request, access, given["user"]), given["user"], given["password"]),
        )
    session, browser, now = tokens.new(), tokens.new(), time.time()

    def add(state: State) -> bool:
        if kept is not None and (user not in state.users or state.users[user].password != kept):
            return False  # it was changed meanwhile
        its = role if kept is None else state.users[user].role
        state.add_session(tokens.digest(session), user, its, now)
        state.add_browser(tokens.digest(browser), user, its, now)
        return True

    if not await access.change(add):
        raise _wrong()
    _log.info("%s logged in from %s", ascii(user), rules.client(request) or "a unix socket")
    response = web.Response(status=204)
    name = rules.cookie(request)
    for cookie, value, age in ((name, session, accessfile.SESSION), (f"{name}-known", browser, accessfile.BROWSER)):
        response.set_cookie(
            cookie, value, max_age=int(age), path="/", httponly=True, samesite="Strict", secure=rules.secure
        )
    return response


async def _redeem(access: Access, code: str) -> tuple[str, str]:
    """The user and role of a one-time code, which is used up by it."""
    digest = tokens.digest(code)
    if digest not in access.state.links:  # nobody has the file written by guessing
        raise _wrong()
    grant = await access.change(lambda state: state.links.pop(digest, None))
    if grant is None or grant.expires <= time.time():
        raise _wrong()
    return grant.user, grant.role


async def caller_by_password(app: web.Application, who: str, user: str, password: str) -> Caller | None:
    """For listeners that have no sessions: the user, if this is the password. None also while `who`, by whom failures are
    counted, has to wait.
    """
    try:
        await _check(app, who, user, password)
    except Problem:
        return None
    return app[guard.ACCESS].of_user(user)


async def _check(app: web.Application, who: str, user: str, password: str) -> str:
    """What is kept of the user's password, if this is it; 401, or 429 for one who has failed too often."""
    doorkeeper, access = app[DOORKEEPER], app[guard.ACCESS]
    now = asyncio.get_running_loop().time()
    if wait := doorkeeper.failures.wait(who, now):
        raise Problem(429, "too many wrong passwords", {hdrs.RETRY_AFTER: str(int(wait) + 1)})
    kept = access.state.users[user].password if user in access.state.users else ""
    doorkeeper.failures.add(who, now)  # before it is known: those that wait for their turn count, too
    if not await doorkeeper.is_right(password, kept, known=who.startswith(BROWSER)):
        _log.warning("a wrong password for %s came from %s", ascii(user[:100]), who)
        raise _wrong()
    doorkeeper.failures.forget(who)
    return kept


def _counted_as(request: web.Request, access: Access, user: str) -> str:
    """The browser, if this user has logged in there before; else the address, of IPv6 the network of it."""
    known = request.cookies.get(f"{request.app[guard.RULES].cookie(request)}-known", "")
    digest = tokens.digest(known[: tokens.LONGEST])
    browser = access.state.browsers.get(digest)
    if browser is not None and browser.user == user and browser.expires > time.time():
        return f"{BROWSER}{digest}"
    address = request.app[guard.RULES].client(request)
    if address is None:
        return "unix socket"
    return str(ipaddress.ip_network((address, 64 if address.version == 6 else 32), strict=False))


def _wrong() -> Problem:
    return Problem(401, "wrong user, password or code")


async def log_out(request: web.Request) -> web.Response:
    """The session ends, with all its streams. A token has none."""
    access = request.app[guard.ACCESS]
    await read_body(request, LOGOUT)
    name = request.app[guard.RULES].cookie(request)
    digest = tokens.digest(request.cookies.get(name, "")[: tokens.LONGEST])
    if digest in access.state.sessions:
        await access.change(lambda state: state.sessions.pop(digest, None))
    response = web.Response(status=204)
    response.del_cookie(name, path="/", httponly=True, samesite="Strict", secure=request.app[guard.RULES].secure)
    return response


LOGIN = Route(
    "POST",
    f"{PREFIX}/login",
    OPEN,
    log_in,
    "Log in with user and password, or with the code of a one-time link. Sets the session cookie.",
    body=(
        Param("user", SECRET, "the user's name"),
        Param("password", SECRET, "the password"),
        Param("code", SECRET, "code of a one-time link, instead of user and password"),
    ),
    answer=NOTHING,
)
LOGOUT = Route(
    "POST", f"{PREFIX}/logout", OPEN, log_out, "End the session and all its streams.", body=(), answer=NOTHING
)
ROUTES = (LOGIN, LOGOUT)


def install(app: web.Application) -> None:
    """What logins share."""
    app[DOORKEEPER] = Doorkeeper()
