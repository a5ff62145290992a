"""What programs write, of several slots as one log: the last lines, what comes, what is found in rotated files, and where.

The gateway's user may read no log: the supervisor does, by `search` and `tail`, for the caller's role.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from impetusd.client.control import ControlError, Unanswered
from impetusd.core import protocol, stream
from impetusd.core.protocol import EXIT_UNKNOWN_NAME, METHODS
from impetusd.core.stream import Mirror
from impetusd.gateway.access import TooMany
from impetusd.gateway.backend import Backend
from impetusd.gateway.beside import beside
from impetusd.gateway.caller import Caller
from impetusd.gateway.keys import BACKEND
from impetusd.gateway.problems import Problem
from impetusd.gateway.rest import ask, route
from impetusd.gateway.routes import (
    EVENTS,
    NAME,
    PREFIX,
    TEXT,
    TIME,
    Param,
    Route,
    caller_of,
    checked,
    count,
    json_answer,
    one_of,
    read_query,
)
from impetusd.gateway.stream import ALIVE, Writer, event

MOST = 32  # logs in one answer: a slot's stdout and stderr are two
FOLLOWED = 40  # at once, of all requests: the supervisor gives the gateway 64 connections
AGAIN = 0.3  # seconds until a log is followed anew, after the supervisor closed the connection
LATE = 100  # of the lines that a slot which appears has written already
CLOCK = 1.0  # seconds by which the times of files and lines may be behind
PAGES = 64  # of new lines that wait for a client; then the supervisor is asked for no more
STREAMS = {"out": "out", "err": "error"}
SHOWN = {control: ours for ours, control in STREAMS.items()}
OWN = "impetusd"  # the supervisor's own log
_ID = re.compile(r"([0-9]{1,15})-([0-9a-f]{1,16}:[0-9a-f]{1,16})-(out|err)-(.{1,256})", re.ASCII)


class Following:
    """What all requests share: how many logs are followed now, and that slots appear."""

    def __init__(self, backend: Backend) -> None:
        self.total = 0
        self._backend = backend
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Look for slots, for ever."""
        known: set[str] = set()
        while True:
            async for change in self._backend.subscribe():
                if change.kind == stream.UNIT and change.value is None:
                    known.discard(change.key)
                elif change.kind == "snapshot" or (change.kind == stream.UNIT and change.key not in known):
                    known = set(self._backend.mirror.rows.get(stream.UNIT, {}))
                    self._news.set()
                    self._news.clear()
            known.clear()  # it was too slow: there may be others
            await asyncio.sleep(AGAIN)

    async def appeared(self) -> None:
        """Wait until another slot is there."""
        await self._news.wait()


FOLLOWING = web.AppKey("impetusd.following", Following)


def install(app: web.Application, backend: Backend) -> None:
    """What requests share."""
    app[FOLLOWING] = Following(backend)
    beside(app, app[FOLLOWING].run)


class Log(NamedTuple):
    """Of a slot; `stream` is out or err."""

    slot: str
    stream: str

    def line(self, text: str, at: float | None, file: str, offset: int) -> dict[str, Any]:
        """One line as JSON. its id says where it begins, as long as its file is there."""
        return {
            "unit": self.slot,
            "stream": self.stream,
            "at": at,
            "text": text,
            "id": f"{offset}-{file}-{self.stream}-{self.slot}",
        }


def chosen(mirror: Mirror, units: Iterable[str], streams: Iterable[str]) -> list[Log]:
    """The logs of units and slots, of all if none is named; of a name that no row has (a timer between two runs) its own.

    400 if there are too many.
    """
    rows = mirror.rows.get(stream.UNIT, {})
    slots: dict[str, None] = {}
    for name in units or list(dict.fromkeys(row["unit"] for row in rows.values())):
        own = [key for key, row in rows.items() if name in {key, row.get("unit"), row.get("name")}]
        slots.update(dict.fromkeys(own or [name]))
    found = [Log(slot, each) for slot in slots for each in (streams or STREAMS) if slot != OWN or each == "out"]
    if len(found) > MOST:
        raise Problem(
            400, f"these are {len(found)} logs, but at most {MOST} are allowed; choose fewer units or one stream"
        )
    return found


class Part(NamedTuple):
    """Lines of one log in their order, and when it was written last, Unix time: of an older supervisor 0.0."""

    lines: list[dict[str, Any]]
    written: float


def merged(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Lines of several logs by their time, each log in its own order.

    Lines without a time go with the one before them. Of a log that has no times at all there is one time, when it was
    written last: what has come last is last.
    """
    timed = []
    for lines, written in parts:
        last = next((line["at"] for line in lines if line["at"] is not None), written)
        keyed = []
        for line in lines:
            last = last if line["at"] is None else line["at"]
            keyed.append((last, line))
        timed.append(keyed)
    return [line for _, line in heapq.merge(*timed, key=lambda pair: pair[0])]


async def tail(request: web.Request) -> web.Response:
    """The last lines."""
    query = read_query(request, route(request))
    return json_answer(await _found(request, query, {"limit": query["last"]}, query["last"]))


async def search(request: web.Request) -> web.Response:
    """The last lines that have a text, between two times."""
    query = read_query(request, route(request))
    params = {name: query[name] for name in ("limit", "before", "after")}
    params |= {"text": query["q"], "since": query["from"], "until": query["to"]}
    around = query["limit"] * (1 + query["before"] + query["after"])
    return json_answer(await _found(request, query, params, around))


async def _found(
    request: web.Request, query: Mapping[str, Any], params: Mapping[str, Any], most: int
) -> dict[str, Any]:
    """Of each log what `search` finds, as one; what is wrong with one is a problem beside the lines of the others."""
    backend = request.app[BACKEND]
    logs = chosen(backend.mirror, query["unit"], query["stream"])
    slots = list(dict.fromkeys(log.slot for log in logs))
    found: list[Part] = []
    problems, more = [], False
    if slots:
        streams = [STREAMS[each] for each in query["stream"] or STREAMS]
        result = await ask(backend, "search", {"names": slots, "streams": streams, **params}, caller_of(request))
        for answer in result["logs"]:
            log = Log(answer["name"], SHOWN[answer["stream"]])
            if "error" in answer:
                problems.append({"unit": log.slot, "stream": log.stream, "text": answer["error"]})
            else:
                found.append(Part([_line(log, line) for line in answer["lines"]], answer.get("written", 0.0)))
                more = more or answer["more"]
    lines = merged(found)
    rows = backend.mirror.rows.get(stream.UNIT, {})
    return {
        "lines": lines[-most:] if most else [],
        "more": more or len(lines) > most,
        "lost": sum(rows[slot].get("dropped_lines") or 0 for slot in slots if slot in rows),
        "problems": problems,
    }


def _line(log: Log, line: Mapping[str, Any]) -> dict[str, Any]:
    return {**log.line(line["text"], line["at"], line["file"], line["offset"]), "match": line["match"]}


async def context(request: web.Request) -> web.Response:
    """A line, and what stands around it."""
    query = read_query(request, route(request))
    found = _ID.fullmatch(query["id"])
    if found is None:
        raise Problem(400, "id must be the id of a line")
    try:
        log = Log(str(checked(NAME, found[4])), found[3])
    except ValueError:
        raise Problem(400, "id must be the id of a line") from None
    params = {"names": [log.slot], "streams": [STREAMS[log.stream]], "file": found[2], "offset": int(found[1])}
    params |= {"before": query["before"], "after": query["after"]}
    (result,) = (await ask(request.app[BACKEND], "search", params, caller_of(request)))["logs"]
    if "error" in result:
        raise Problem(409, result["error"])
    return json_answer({"lines": [_line(log, line) for line in result["lines"]]})


async def follow(request: web.Request) -> web.StreamResponse:
    """The last lines, then each that comes: from each log in its order, of several as they come; also of slots that appear
    later.
    """
    query = read_query(request, route(request))
    backend, following = request.app[BACKEND], request.app[FOLLOWING]
    units, streams = query["unit"], query["stream"]
    logs = chosen(backend.mirror, units, streams)
    if following.total + len(logs) > FOLLOWED:
        raise TooMany
    writer = Writer(request, caller_of(request))
    followed = Followed(backend, following, writer.caller)
    try:
        begun, errors = await followed.begin(logs)
        async with writer.open() as response:
            for line in merged(begun)[-query["last"] :] if query["last"] else ():
                await writer.send(event("line", line, line["id"]))
            for error in errors:
                await writer.send(event("problem", {"text": str(error)}))
            followed.join(lambda: chosen(backend.mirror, units, streams))
            while True:
                try:
                    async with asyncio.timeout(ALIVE):
                        page = await followed.pages.get()
                except TimeoutError:
                    await writer.send(event("alive", {}))
                    continue
                if isinstance(page, Exception):
                    await writer.send(event("problem", {"text": str(page)}))
                    continue
                await writer.send(b"".join(event("line", line, line["id"]) for line in page))
        return response
    finally:
        await followed.close()


class Followed:
    """The logs that one request follows: `pages` has what comes, lines or what is wrong."""

    def __init__(self, backend: Backend, following: Following, caller: Caller) -> None:
        self._backend = backend
        self._following = following
        self._caller = caller
        self.pages: asyncio.Queue[list[dict[str, Any]] | Exception] = asyncio.Queue(PAGES)
        self._tasks: dict[Log, asyncio.Task[None]] = {}
        self._paths: dict[str, Log] = {}
        self._joining: asyncio.Task[None] | None = None
        self._since = time.time()

    async def begin(self, logs: Iterable[Log]) -> tuple[list[Part], list[BaseException]]:
        """The last lines of each log, once, and what cannot be read. Raises ControlError where nothing can."""
        loop = asyncio.get_running_loop()
        firsts: list[asyncio.Future[tuple[str, Part]]] = []
        for log in logs:
            firsts.append(loop.create_future())
            self._start(log, firsts[-1])
        found = await asyncio.gather(*firsts, return_exceptions=True)
        errors = [each for each in found if isinstance(each, BaseException)]
        if errors and len(errors) == len(found):
            raise errors[0]
        by_path = dict(each for each in reversed(found) if not isinstance(each, BaseException))
        return list(by_path.values()), errors

    def join(self, choose: Callable[[], list[Log]]) -> None:
        """Follow, from now on, what `choose` returns besides. It may raise Problem, where that is too many."""
        self._joining = asyncio.create_task(self._join(choose))

    async def _join(self, choose: Callable[[], list[Log]]) -> None:
        said = False
        while True:
            try:
                more = [log for log in choose() if log not in self._tasks]
                if self._following.total + len(more) > FOLLOWED:
                    raise Problem(429, "too many logs are already being followed")
            except Problem as problem:
                if not said:
                    await self.pages.put(problem)
                said, more = True, []
            for log in more:
                self._start(log, None)
            await self._following.appeared()

    def _start(self, log: Log, first: asyncio.Future[tuple[str, Part]] | None) -> None:
        self._following.total += 1
        self._tasks[log] = asyncio.create_task(self._read(log, first))
        self._tasks[log].add_done_callback(lambda _: self._less())

    def _less(self) -> None:
        self._following.total -= 1

    async def _read(self, log: Log, first: asyncio.Future[tuple[str, Part]] | None) -> None:
        """Over supervisors that die and come back: each goes on where the one before has come to. `first` gets the last
        lines; None: of a slot that has appeared meanwhile, what was written since.
        """
        params: dict[str, Any] = {"name": log.slot, "stream": STREAMS[log.stream], "follow": True}
        while True:
            try:
                async with contextlib.aclosing(self._backend.follow("tail", params, self._caller)) as answers:
                    async for page in answers:
                        lines = _lines(log, page)
                        if "offset" not in params:
                            if first is not None and not first.done():
                                first.set_result((page["path"], Part(lines, page.get("written", 0.0))))
                            if self._paths.setdefault(page["path"], log) != log:
                                return  # another slot writes into the same file, and is followed already
                            lines = self._late(lines, page) if first is None else []
                        if lines:
                            await self.pages.put(lines)
                        params |= {"offset": page["next"], "file": page["file"]}
            except ControlError as error:
                if first is not None and not first.done():
                    first.set_exception(error)
                    return
                gone = error.exit == EXIT_UNKNOWN_NAME and log.slot not in self._backend.mirror.rows.get(
                    stream.UNIT, {}
                )
                if gone:  # it may come back
                    del self._tasks[log]
                    return
                if not isinstance(error, Unanswered) and error.exit != EXIT_UNKNOWN_NAME:
                    await self.pages.put(error)
                    return
            await asyncio.sleep(AGAIN)

    def _late(self, lines: list[dict[str, Any]], page: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Of the last lines of a slot that has appeared those that are news, as far as that can be known."""
        if page.get("written", 0.0) < self._since - CLOCK:
            return []
        return [line for line in lines if line["at"] is None or line["at"] >= self._since - CLOCK][-LATE:]

    async def close(self) -> None:
        """Follow no more."""
        tasks = [*self._tasks.values(), *([self._joining] if self._joining is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _lines(log: Log, page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a page of `tail`; an older supervisor says neither where its lines begin nor when they were written."""
    texts = page["lines"]
    offsets, times = page.get("offsets", [page["offset"]] * len(texts)), page.get("times", [None] * len(texts))
    return [log.line(text, at, page["file"], offset) for text, offset, at in zip(texts, offsets, times, strict=False)]


_UNITS = Param("unit", NAME, "a unit or slot; may be repeated; default: all", many=True)
_STREAMS = Param("stream", one_of(*STREAMS), "stdout or stderr; default: both", many=True)
_LAST = count(0, protocol.MAX_LOG_LINES)
ROLE = METHODS["search"].role

ROUTES = (
    Route(
        "GET",
        f"{PREFIX}/logs",
        ROLE,
        tail,
        "The last lines of several logs, in order of time.",
        query=(_UNITS, _STREAMS, Param("last", _LAST, "so many", 200)),
    ),
    Route(
        "GET",
        f"{PREFIX}/logs/stream",
        METHODS["tail"].role,
        follow,
        "The same as server-sent events, followed by new lines.",
        query=(_UNITS, _STREAMS, Param("last", _LAST, "number of lines before the new ones", 0)),
        answer=EVENTS,
    ),
    Route(
        "GET",
        f"{PREFIX}/logs/search",
        ROLE,
        search,
        "The last lines that contain a text, rotated files included.",
        query=(
            _UNITS,
            _STREAMS,
            Param("q", TEXT, "the text, case-insensitive", ""),
            Param("from", TIME, "Unix time", 0.0),
            Param("to", TIME, "Unix time", 0.0),
            Param("before", count(0, 50), "number of lines before each match", 0),
            Param("after", count(0, 50), "number of lines after each match", 0),
            Param("limit", count(1, protocol.MAX_LOG_LINES), "maximum number of matches", 200),
        ),
    ),
    Route(
        "GET",
        f"{PREFIX}/logs/context",
        ROLE,
        context,
        "A line with the lines around it.",
        query=(
            Param("id", {"type": "string", "minLength": 1, "maxLength": 320}, "id of the line", required=True),
            Param("before", count(0, 500), "number of lines before it", 20),
            Param("after", count(0, 500), "number of lines after it", 20),
        ),
    ),
)
