"""supervisord's protocol, on the listener that xmlrpc in [gateway] names: who asks there, and in which role.

On a unix socket the role is that of the control socket: root and impetusd's own user are admins, the others what [impetusd]
says. On a port it is the one of the gateway's user. Either way the supervisor does not go above the ceiling.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from impetusd.core import access
from impetusd.core.config.model import Access
from impetusd.gateway import guard, login
from impetusd.gateway.backend import Backend
from impetusd.gateway.caller import Caller
from impetusd.gateway.problems import Problem
from impetusd.gateway.settings import Settings
from impetusd.interop.xmlrpc import Peer, Supervisord
from impetusd.linux import host
from impetusd.worker.draining import DRAINING

WITHIN = 5.0  # seconds to look up users
KNOWN = 1000  # names of users, and passwords, that are remembered
T = TypeVar("T")


def install(app: web.Application, settings: Settings, backend: Backend) -> None:
    """Have what comes on that listener answered here, and nothing of it elsewhere."""
    if not settings.xmlrpc:
        return
    address = settings.xmlrpc.split()[0]  # without what is said of a unix socket's file
    peers = Peers(settings)
    served: list[Supervisord] = []

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_its(request, address):
            return await handler(request)
        try:
            return await served[0].handle(request)
        except Problem as problem:
            return problem.response()

    def turn(caller: Caller, lasts: bool) -> contextlib.AbstractContextManager[None]:
        """As for those who log in; a user of this host is another than the gateway's of the same name."""
        return app[guard.TURNS].take(f"xmlrpc {caller.user}", asyncio.get_running_loop().time(), lasts=lasts)

    async def begin(app: web.Application) -> AsyncIterator[None]:
        await peers.look_up()
        server = Supervisord(
            backend,
            peers.caller,
            Passwords(app).caller,
            hosts=settings.hosts,
            ceiling=settings.ceiling,
            over=app[DRAINING],
            turn=turn,
        )
        served.append(server)
        yield

    app.middlewares.insert(0, answer)
    app.cleanup_ctx.append(begin)


def is_its(request: web.Request, address: str) -> bool:
    """Whether the connection came to that listener: `unix:PATH` or HOST:PORT."""
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    if isinstance(name, tuple):
        return address.rpartition(":")[2] == str(name[1])
    # A socket is bound by its folder's descriptor, so the kernel has the name of the file and not the way there.
    return address.startswith("unix:") and os.path.basename(str(name)) == os.path.basename(address)


class Passwords:
    """Who says to be a user of the gateway, and has its password.

    To check one takes 76 ms, and each request brings it. So of those that were right a digest is kept, by a key of this
    process, for as long as the user has that password.
    """

    def __init__(self, app: web.Application) -> None:
        self._app = app
        self._key = os.urandom(32)
        self._right: dict[bytes, str] = {}  # what was kept of the user's password when it was right

    async def caller(self, guesser: str, user: str, password: str) -> Caller | None:
        """None if it is another, and while `guesser` has to wait."""
        digest = hmac.digest(self._key, f"{user}\0{password}".encode(), "sha256")
        access = self._app[guard.ACCESS]
        known = access.state.users.get(user)
        if known is not None and known.password == self._right.get(digest):
            return access.of_user(user)
        caller = await login.caller_by_password(self._app, guesser, user, password)
        if caller is not None and known is not None:  # if it was changed meanwhile, it is checked once more
            if len(self._right) >= KNOWN:
                self._right.clear()
            self._right[digest] = known.password
        return caller


class Peers:
    """Who is at the other end of a unix socket."""

    def __init__(self, settings: Settings) -> None:
        self._owner = settings.owner
        self._roles = Access(**{role: tuple(words) for role, words in settings.roles.items()})
        self._people: list[access.Person] = []
        self._names: dict[int, str] = {}

    async def look_up(self) -> None:
        """The users behind the names in [impetusd]. Until they are looked up, they have no role."""
        if self._roles != Access():
            self._people = await aside(lambda: host.people(self._roles)) or []

    async def caller(self, peer: Peer) -> Caller | None:
        """None for one without a role."""
        role = access.role_of(peer.uid, peer.gids, self._owner, self._people)
        if not role:
            return None
        if peer.uid not in self._names:
            name = await aside(lambda: host.user_name(peer.uid))
            if name is None or len(self._names) >= KNOWN:
                return Caller(name or str(peer.uid), role)
            self._names[peer.uid] = name
        return Caller(self._names[peer.uid], role)


async def aside(act: Callable[[], T]) -> T | None:
    """What `act` returns, in a thread that may hang: None if it has not returned WITHIN seconds."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(value: T) -> None:
        if not answer.done():
            answer.set_result(value)

    def run() -> None:
        value = act()
        try:
            loop.call_soon_threadsafe(settle, value)
        except RuntimeError:
            pass  # the loop is closed

    threading.Thread(target=run, daemon=True).start()
    try:
        async with asyncio.timeout(WITHIN):
            return await answer
    except TimeoutError:
        return None
