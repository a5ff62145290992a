"""What programs write, of several slots as one log: the last lines, what comes, what is found in rotated files, and where.

The gateway's user may read no log: the supervisor does, by `search` and `tail`, for the caller's role.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from impetusd.client.control import ControlError, Unanswered
from impetusd.core import protocol, stream
from impetusd.core.protocol import METHODS
from impetusd.core.stream import Mirror
from impetusd.gateway.access import TooMany
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
AGAIN = 0.3  # seconds until a log is followed anew, after the supervisor has ended the connection
PAGES = 64  # of new lines that wait for a client; then the supervisor is asked for no more
STREAMS = {"out": "out", "err": "error"}
SHOWN = {control: ours for ours, control in STREAMS.items()}
OWN = "impetusd"  # the supervisor's own log
_ID = re.compile(r"([0-9]{1,15})-([0-9a-f]{1,16}:[0-9a-f]{1,16})-(out|err)-(.{1,256})", re.ASCII)


class Following:
    """How many logs are followed now, of all requests."""

    total = 0


FOLLOWING = web.AppKey("impetusd.following", Following)


def install(app: web.Application) -> None:
    """What requests share."""
    app[FOLLOWING] = Following()


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
        raise Problem(400, f"these are {len(found)} logs; choose fewer units, or one stream, for {MOST} at most")
    return found


def merged(logs: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Lines of several logs by their time, each log in its own order; those of a log without times come last."""
    timed = []
    for lines in logs:
        last = next((line["at"] for line in lines if line["at"] is not None), float("inf"))
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
    found: list[list[dict[str, Any]]] = []
    problems, more = [], False
    if slots:
        streams = [STREAMS[each] for each in query["stream"] or STREAMS]
        result = await ask(backend, "search", {"names": slots, "streams": streams, **params}, caller_of(request))
        for answer in result["logs"]:
            log = Log(answer["name"], SHOWN[answer["stream"]])
            if "error" in answer:
                problems.append({"unit": log.slot, "stream": log.stream, "text": answer["error"]})
            else:
                found.append([_line(log, line) for line in answer["lines"]])
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
        raise Problem(400, "id must be one that a line has")
    try:
        log = Log(str(checked(NAME, found[4])), found[3])
    except ValueError:
        raise Problem(400, "id must be one that a line has") from None
    params = {"names": [log.slot], "streams": [STREAMS[log.stream]], "file": found[2], "offset": int(found[1])}
    params |= {"before": query["before"], "after": query["after"]}
    (result,) = (await ask(request.app[BACKEND], "search", params, caller_of(request)))["logs"]
    if "error" in result:
        raise Problem(409, result["error"])
    return json_answer({"lines": [_line(log, line) for line in result["lines"]]})


async def follow(request: web.Request) -> web.StreamResponse:
    """The last lines, then each that comes: from each log in its order, of several as they come."""
    query = read_query(request, route(request))
    backend, caller = request.app[BACKEND], caller_of(request)
    logs = chosen(backend.mirror, query["unit"], query["stream"])
    pages: asyncio.Queue[list[dict[str, Any]] | Exception] = asyncio.Queue(PAGES)
    writer = Writer(request, caller)

    async def read(log: Log, first: asyncio.Future[tuple[str, list[dict[str, Any]]]]) -> None:
        """Over supervisors that die and come back: each goes on where the one before has come to."""
        params: dict[str, Any] = {"name": log.slot, "stream": STREAMS[log.stream], "follow": True}
        while True:
            try:
                async with contextlib.aclosing(backend.follow("tail", params, caller)) as answers:
                    async for page in answers:
                        if first.done():
                            await pages.put(_lines(log, page))
                        else:
                            first.set_result((page["path"], _lines(log, page)))
                            if paths.setdefault(page["path"], log) != log:
                                return  # another slot writes into the same file, and is followed already
                        params |= {"offset": page["next"], "file": page["file"]}
            except ControlError as error:
                if not first.done():
                    first.set_exception(error)
                    return
                if not isinstance(error, Unanswered):
                    await pages.put(error)
                    return
            await asyncio.sleep(AGAIN)

    if request.app[FOLLOWING].total + len(logs) > FOLLOWED:
        raise TooMany
    paths: dict[str, Log] = {}
    loop = asyncio.get_running_loop()
    firsts: list[asyncio.Future[tuple[str, list[dict[str, Any]]]]] = [loop.create_future() for _ in logs]
    tasks = [asyncio.create_task(read(log, first)) for log, first in zip(logs, firsts, strict=True)]
    request.app[FOLLOWING].total += len(logs)
    try:
        begun = await asyncio.gather(*firsts, return_exceptions=True)
        errors = [each for each in begun if isinstance(each, BaseException)]
        if errors and len(errors) == len(begun):
            raise errors[0]
        by_path = dict(each for each in reversed(begun) if not isinstance(each, BaseException))
        async with writer.open() as response:
            for line in merged(by_path.values())[-query["last"] :] if query["last"] else ():
                await writer.send(event("line", line, line["id"]))
            for error in errors:
                await writer.send(event("problem", {"text": str(error)}))
            while True:
                try:
                    async with asyncio.timeout(ALIVE):
                        page = await pages.get()
                except TimeoutError:
                    await writer.send(event("alive", {}))
                    continue
                if isinstance(page, Exception):
                    await writer.send(event("problem", {"text": str(page)}))
                    continue
                await writer.send(b"".join(event("line", line, line["id"]) for line in page))
        return response
    finally:
        request.app[FOLLOWING].total -= len(logs)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *firsts, return_exceptions=True)


def _lines(log: Log, page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a page of `tail`; an older supervisor says neither where its lines begin nor when they were written."""
    texts = page["lines"]
    offsets, times = page.get("offsets", [page["offset"]] * len(texts)), page.get("times", [None] * len(texts))
    return [log.line(text, at, page["file"], offset) for text, offset, at in zip(texts, offsets, times, strict=False)]


_UNITS = Param("unit", NAME, "a unit or slot; several times for several, all if none is given", many=True)
_STREAMS = Param("stream", one_of(*STREAMS), "stdout or stderr; both if none is given", many=True)
_LAST = count(0, protocol.MAX_LOG_LINES)
ROLE = METHODS["search"].role

ROUTES = (
    Route(
        "GET",
        f"{PREFIX}/logs",
        ROLE,
        tail,
        "The last lines of several logs, by time.",
        query=(_UNITS, _STREAMS, Param("last", _LAST, "so many", 200)),
    ),
    Route(
        "GET",
        f"{PREFIX}/logs/stream",
        METHODS["tail"].role,
        follow,
        "The same as server-sent events, and each line that comes.",
        query=(_UNITS, _STREAMS, Param("last", _LAST, "so many before those that come", 0)),
        answer=EVENTS,
    ),
    Route(
        "GET",
        f"{PREFIX}/logs/search",
        ROLE,
        search,
        "The last lines that have a text, rotated files included.",
        query=(
            _UNITS,
            _STREAMS,
            Param("q", TEXT, "the text, in any case", ""),
            Param("from", TIME, "Unix time", 0.0),
            Param("to", TIME, "Unix time", 0.0),
            Param("before", count(0, 50), "lines before each", 0),
            Param("after", count(0, 50), "lines after each", 0),
            Param("limit", count(1, protocol.MAX_LOG_LINES), "so many that match", 200),
        ),
    ),
    Route(
        "GET",
        f"{PREFIX}/logs/context",
        ROLE,
        context,
        "A line with those around it.",
        query=(
            Param("id", {"type": "string", "minLength": 1, "maxLength": 320}, "of the line", required=True),
            Param("before", count(0, 500), "lines before it", 20),
            Param("after", count(0, 500), "lines after it", 20),
        ),
    ),
)
