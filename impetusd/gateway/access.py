"""Who is logged in: the access file as the gateway sees it, brought up to date the moment that anybody changes it.

The file is read and written in threads, for its disk may hang. inotify reports a change, whoever made it; then each stream
whose session or token is no longer valid, or has another role, is ended. Where the kernel has no inotify to spare, the file
is looked at every POLL seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from impetusd.core.protocol import ADMIN, ROLES
from impetusd.gateway import accessfile, tokens
from impetusd.gateway.accessfile import State
from impetusd.gateway.caller import Caller
from impetusd.linux.inotify import Inotify
from impetusd.supervisor.threads import NoAnswer, Threads

WITHIN = 10.0  # seconds for the disk
POLL = 2.0  # seconds
OF_ONE, OF_USER, OF_ALL = 16, 32, 128  # streams of one session or token, of one user, and of all

T = TypeVar("T")


class TooMany(Exception):
    """There is one stream too many."""


class Unavailable(Exception):
    """The access file cannot be read or written; the message is a sentence."""


class Access:
    """Callers by their secrets. `ceiling` is the highest role that anybody has here."""

    def __init__(self, folder: str, ceiling: str = ADMIN) -> None:
        self._folder = folder
        self._ceiling = ceiling
        self._state = State()
        self._threads = Threads("access", 2)
        self._one = asyncio.Lock()  # one reads or writes at a time, so that what is known never gets older
        self._inotify = Inotify()
        self._loading: asyncio.Task[None] | None = None
        self._polling: asyncio.TimerHandle | None = None
        self._streams: list[tuple[Caller, Callable[[], None]]] = []

    async def open(self) -> None:
        """Read the file, and follow it from now on. Raises Unavailable."""
        await self._load()
        self._inotify.add(self._folder)
        loop = asyncio.get_running_loop()
        if self._inotify.on:
            loop.add_reader(self._inotify.fd, self._changed)
        else:
            self._polling = loop.call_later(POLL, self._poll)

    async def close(self) -> None:
        """Follow it no more."""
        if self._inotify.fd >= 0:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            os.close(self._inotify.fd)
            self._inotify.fd = -1
        if self._polling is not None:
            self._polling.cancel()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    def _changed(self) -> None:
        other, written = self._inotify.changed(accessfile.NAME)
        if other or written:
            self._reload()
        if not self._inotify.on:  # the folder was removed or renamed
            self._inotify.add(self._folder)
            if not self._inotify.on and self._polling is None:
                self._polling = asyncio.get_running_loop().call_later(POLL, self._poll)

    def _poll(self) -> None:
        self._inotify.add(self._folder)
        self._reload()
        self._polling = None
        if not self._inotify.on:
            self._polling = asyncio.get_running_loop().call_later(POLL, self._poll)

    def _reload(self) -> None:
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
        self._loading = asyncio.get_running_loop().create_task(self._try_to_load())

    async def _try_to_load(self) -> None:
        """Nobody has access while it cannot be known who has."""
        try:
            await self._load()
        except Unavailable:
            self._take(State())

    async def _load(self) -> None:
        async with self._one:
            self._take(await self._ask(lambda: accessfile.read(self._folder)))

    def _take(self, state: State) -> None:
        self._state = state
        for caller, end in list(self._streams):
            if not self.is_valid(caller):
                end()

    async def change(self, act: Callable[[State], T]) -> T:
        """As `accessfile.change`. Raises Unavailable, and what `act` raises."""

        def both() -> tuple[T, State]:
            result = accessfile.change(self._folder, act)
            return result, accessfile.read(self._folder)

        async with self._one:
            result, state = await self._ask(both)
            self._take(state)
        return result

    async def _ask(self, act: Callable[[], T]) -> T:
        try:
            return await self._threads.run(act, WITHIN)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
        except NoAnswer as error:
            why = str(error)
        raise Unavailable(f"{self._folder}/{accessfile.NAME} cannot be used: {why}")

    # Asking.

    @property
    def state(self) -> State:
        """What the file says."""
        return self._state

    def of_session(self, secret: str) -> Caller | None:
        """Whose session this is; None if it is none, or has ended."""
        digest = tokens.digest(secret)
        grant = self._state.sessions.get(digest)
        return self._valid(Caller(grant.user, self._at_most(grant.role), f"session:{digest}") if grant else None)

    def of_token(self, secret: str) -> Caller | None:
        """The same of a token."""
        digest = tokens.digest(secret)
        found = next((name for name, each in self._state.tokens.items() if each.digest == digest), None)
        if found is None:
            return None
        role = self._at_most(self._state.tokens[found].role)
        return self._valid(Caller(f"token:{found}", role, f"token:{digest}"))

    def of_user(self, name: str) -> Caller | None:
        """A user who has shown the password otherwise; None if there is none of this name."""
        user = self._state.users.get(name)
        return Caller(name, self._at_most(user.role)) if user is not None else None

    def _at_most(self, role: str) -> str:
        return min(role, self._ceiling, key=ROLES.index)

    def _valid(self, caller: Caller | None) -> Caller | None:
        return caller if caller is not None and self.is_valid(caller) else None

    def is_valid(self, caller: Caller) -> bool:
        """Whether the session or token is still there, has the same role, and has not expired."""
        kind, _, digest = caller.session.partition(":")
        now = time.time()
        if kind == "session":
            grant = self._state.sessions.get(digest)
            return grant is not None and grant.expires > now and self._at_most(grant.role) == caller.role
        token = self._state.tokens.get(caller.user.removeprefix("token:"))
        alive = token is not None and (not token.expires or token.expires > now)
        return token is not None and alive and token.digest == digest and self._at_most(token.role) == caller.role

    def end_streams(self) -> None:
        """All of them: the worker leaves, and their clients go on with another."""
        for _, end in list(self._streams):
            end()

    @contextlib.contextmanager
    def stream(self, caller: Caller, end: Callable[[], None]) -> Iterator[None]:
        """While a stream lasts; `end` is called when it must end. TooMany if there are enough."""
        own = sum(each.session == caller.session for each, _ in self._streams)
        of_user = sum(each.user == caller.user for each, _ in self._streams)
        if own >= OF_ONE or of_user >= OF_USER or len(self._streams) >= OF_ALL:
            raise TooMany
        entry = (caller, end)
        self._streams.append(entry)
        try:
            yield
        finally:
            self._streams.remove(entry)
