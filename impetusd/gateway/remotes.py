"""GET /api/v1/hosts: the overviews of other hosts, [host:NAME], as their own gateways give them.

Each host has a task of its own, which asks it every EVERY seconds while somebody looks and every REST seconds otherwise, in a
thread of its own: one that hangs, or answers without end, keeps nobody waiting but itself. What a request gets is what is
known. Nothing of theirs is ever loaded or followed: an answer is text, a redirect is a failure, and a link is the url of the
INI file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import web

from impetusd.core.protocol import VIEWER
from impetusd.gateway.beside import beside
from impetusd.gateway.overviews import Unreadable, cards, overview
from impetusd.gateway.routes import PREFIX, Route, json_answer, read_query
from impetusd.probe import Get, fetch
from impetusd.supervisor.threads import NoAnswer, Threads

EVERY, REST = 10.0, 60.0  # seconds between two questions
WITHIN = 5.0  # seconds for an answer; a host gives two
LOOKED_UP = 3.0  # seconds that looking up its name may take besides
LARGEST = 4 << 20  # bytes of an answer; 500 units have 0.3 MB
# What an answer's status means here; of others the number is shown.
REFUSED = {
    **{code: f"redirects ({code}) are not followed; set url to the final URL" for code in (301, 302, 307, 308)},
    401: "token rejected (401); create another one there: impetusd token add NAME",
    404: "no gateway at this URL (404); set url to the URL of its page",
    421: "its gateway refuses the host name in url (421); add it to hosts in its [gateway]",
    429: "too many requests (429)",
    503: "its gateway has no supervisor (503)",
}

_log = logging.getLogger("impetusd.gateway")


@dataclass(frozen=True, slots=True)
class Remote:
    """A [host:NAME]."""

    name: str
    url: str
    token: str
    ca_file: str = ""


class Away(Exception):
    """It gave no overview; the message is a clause."""


class Host:
    """One of them, and what is known of it. Times are Unix time."""

    def __init__(self, remote: Remote, clock: Callable[[], float] = time.time) -> None:
        self.remote = remote
        self._clock = clock
        self.state = "asking"  # until there is a result; then "well", or "lost" (it has no supervisor), or "away"
        self.since: float | None = None  # when that began, as far as this gateway has seen
        self.seen: float | None = None  # when it answered last
        self.trouble = ""
        self._overview: Mapping[str, Any] | None = None
        self._threads = Threads(f"host {remote.name}", 1)

    async def look(self) -> None:
        """Ask it once. Raises nothing."""
        try:
            found = await self._threads.run(partial(_ask, self.remote), 2 * WITHIN + LOOKED_UP)
        except (Away, Unreadable, NoAnswer) as error:
            self._take("away", str(error))
        except Exception:
            _log.exception("cannot read the response of %s", self.remote.name)
            self._take("away", "internal error; see the log of the gateway")
        else:
            self._overview = found
            self._take("well" if found["live"] else "lost")

    def _take(self, state: str, trouble: str = "") -> None:
        now = self._clock()
        if state != "away":
            self.seen = now
        if state != self.state:
            self.since = now
            if state != "well" or self.state == "away":
                _log.info("host %s is %s%s", self.remote.name, state, f": {trouble}" if trouble else "")
        self.state, self.trouble = state, trouble

    def shown(self) -> dict[str, Any]:
        """As JSON; "overview" (see `overviews`) is null until it has answered once."""
        return {
            "name": self.remote.name,
            "url": self.remote.url,
            "state": self.state,
            "since": self.since,
            "seen": self.seen,
            "trouble": self.trouble,
            "overview": self._overview,
        }


def _ask(remote: Remote) -> dict[str, Any]:
    """What `overviews` makes of two answers; of one alone, where it has lost its supervisor. Raises Away, Unreadable."""
    found = overview(_fetched(remote, "snapshot"))
    return {**found, **(cards(_fetched(remote, "incidents")) if found["live"] else {"incidents": [], "more": 0})}


def _fetched(remote: Remote, what: str) -> bytes:
    headers = (("Authorization", f"Bearer {remote.token}"),)
    asked = Get(f"{remote.url}api/v1/{what}", headers=headers, ca_file=remote.ca_file)
    status, body, trouble = fetch(asked, WITHIN, LARGEST)
    if trouble:
        raise Away(REFUSED.get(status, trouble))
    return body


class Remotes:
    """All of them, in the order of the INI file."""

    def __init__(self, remotes: Sequence[Remote]) -> None:
        self.hosts = [Host(each) for each in remotes]
        self._wanted = asyncio.Event()
        self._asked = 0.0  # when somebody looked last, by the loop's clock

    async def run(self) -> None:
        """Ask all, for ever."""
        await asyncio.gather(*(self._follow(host) for host in self.hosts))

    async def _follow(self, host: Host) -> None:
        while True:
            await host.look()
            await asyncio.sleep(EVERY)
            if asyncio.get_running_loop().time() - self._asked > EVERY:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REST - EVERY):
                        await self._wanted.wait()

    def shown(self) -> list[dict[str, Any]]:
        """All that is known, to somebody who looks."""
        self._asked = asyncio.get_running_loop().time()
        self._wanted.set()
        self._wanted.clear()
        return [host.shown() for host in self.hosts]


REMOTES = web.AppKey("impetusd.remotes", Remotes)


async def hosts(request: web.Request) -> web.Response:
    """The overviews of other hosts."""
    read_query(request, ROUTES[0])
    return json_answer({"hosts": request.app[REMOTES].shown()})


def install(app: web.Application, remotes: Sequence[Remote]) -> None:
    """Ask them while the app serves."""
    app[REMOTES] = Remotes(remotes)
    if remotes:
        beside(app, app[REMOTES].run)


ROUTES = (
    Route(
        "GET",
        f"{PREFIX}/hosts",
        VIEWER,
        hosts,
        "Overviews of the other hosts that [host:NAME] sections name, as far as known.",
    ),
)
