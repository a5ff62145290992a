"""Why it is so, by the API: incidents, the explanation of a unit, history and alerts."""

from __future__ import annotations

import asyncio
import os
import shlex
import sqlite3
import time
from typing import Any

from aiohttp import web

from impetusd.client.control import ControlError, Unanswered
from impetusd.core import stream
from impetusd.core.explain import why as explaining
from impetusd.core.explain.finding import Facts
from impetusd.core.protocol import METHODS, VIEWER
from impetusd.core.reasons import read, waited_for
from impetusd.gateway import incidents
from impetusd.gateway.backend import Backend
from impetusd.gateway.caller import Caller
from impetusd.gateway.incidents import Known
from impetusd.gateway.keys import BACKEND, SETTINGS
from impetusd.gateway.problems import Problem
from impetusd.gateway.recent import RECENT
from impetusd.gateway.rest import ask, name_of, route
from impetusd.gateway.routes import (
    NAME,
    NOTHING,
    PREFIX,
    TIME,
    Param,
    Route,
    caller_of,
    json_answer,
    read_body,
    read_query,
)
from impetusd.observer import history as histories
from impetusd.supervisor.threads import NoAnswer, Threads

RECORDS = 600  # of the ledger that are looked at
ASKED = 200  # units of incidents that the supervisor is asked about
WITHIN = 10.0  # seconds for the disk that history is on
LONGEST = 61 * 86400.0  # seconds of history in one answer
OF_ALL = 26 * 3600.0  # the same where it is that of all units

THREADS = web.AppKey("impetusd.history", Threads)


def install(app: web.Application) -> None:
    """What requests share."""
    app[THREADS] = Threads("history", 2)


def command(app: web.Application) -> str:
    """What one types to reach this instance."""
    return f"impetusd -c {shlex.quote(app[SETTINGS].conf)}" if app[SETTINGS].conf else "impetusd"


async def all_incidents(request: web.Request) -> web.Response:
    """What is wrong now."""
    read_query(request, route(request))
    backend, caller = request.app[BACKEND], caller_of(request)
    rows = backend.mirror.rows
    problems, until = request.app[RECENT].problems()
    names = incidents.concerned(rows, problems)
    if not names and not problems:
        return json_answer({"incidents": []})
    records, places = await asyncio.gather(_records(backend, caller, names), _places(backend, caller, names))
    known = Known(
        rows=rows,
        standing=problems,
        until=until,
        records=records,
        where={name: each["where"] for name, each in places.items()},
        needs={name: each["needs"] for name, each in places.items()},
        now=time.time(),
        command=command(request.app),
    )
    return json_answer({"incidents": incidents.explained(known)})


async def _records(backend: Backend, caller: Caller, names: list[str]) -> list[dict[str, Any]]:
    if not names:
        return []
    result = await ask(backend, "events", {"names": names[:ASKED], "last": RECORDS}, caller)
    return list(result["records"])


async def _places(backend: Backend, caller: Caller, names: list[str]) -> dict[str, dict[str, Any]]:
    """Of each unit: {"where", "needs"}, the place of its section and what it depends on. {} of an older supervisor."""
    try:
        result = await ask(backend, "places", {"names": names[:ASKED]}, caller)
    except Unanswered:
        raise
    except ControlError:
        return {}
    return dict(result["units"])


async def why(request: web.Request) -> web.Response:
    """As `impetusd why NAME --json`."""
    read_query(request, route(request))
    backend, caller, name = request.app[BACKEND], caller_of(request), name_of(request)
    status, health, timers, own, about, planned = await asyncio.gather(
        ask(backend, "status", {"names": []}, caller),
        ask(backend, "health", {}, caller),
        ask(backend, "timers", {}, caller),
        ask(backend, "events", {"last": RECORDS}, caller),
        ask(backend, "events", {"names": [name, name.partition(":")[0]], "last": RECORDS}, caller),
        ask(backend, "plan", {"problems": True}, caller),
    )
    rows = status["units"]
    waited = {waited_for(row).partition(":")[0] for row in rows if name in {row["unit"], row["name"]}} - {""}
    records = about["records"]
    if waited:
        more = await ask(backend, "events", {"names": [name, *waited], "last": RECORDS}, caller)
        records = more["records"]
    known = {row[key] for row in rows for key in ("unit", "name")}
    known |= {row["name"] for row in (*timers["timers"], *health["checks"])} | set(status.get("groups", ()))
    if name not in known and not records:
        raise Problem(404, f"no unit {name}")
    members = status.get("groups", {}).get(name)
    facts = Facts(
        now=time.time(),
        running=True,
        rows=rows,
        checks=health["checks"],
        timers=timers["timers"],
        troubles=[read(notice, notice["text"]) for notice in status["notices"] if notice["own"]],
        records=records,
        own=own["records"],
        known=sorted(known),
        command=command(request.app),
        held=status.get("held"),
        mistakes=planned["problems"],
    )
    found = explaining.explain(facts, list(members) if members else [name])
    return json_answer({"running": True, "findings": [finding.data() for finding in found]})


async def history(request: web.Request) -> web.Response:
    """Samples and marks."""
    query = read_query(request, route(request))
    now = time.time()
    until = query["to"] or now
    since = query["from"] or until - 86400.0
    series = [word for words in query["series"] for word in words.split(",") if word]
    if unknown := [word for word in series if word not in histories.SERIES]:
        raise Problem(400, f"unknown series {unknown[0]!r}; series: {', '.join(histories.SERIES)}")
    if not 0 <= until - since <= (LONGEST if query["unit"] else OF_ALL):
        days = LONGEST / 86400 if query["unit"] else OF_ALL / 86400
        raise Problem(400, f"to must not be earlier than from, or more than {days:.0f} days later")
    if len(series) > 1 and not query["unit"]:
        raise Problem(400, "without a unit, only one series is allowed; name a unit to get several")
    path = f"{request.app[SETTINGS].history}/{histories.NAME}"
    try:
        found = await request.app[THREADS].run(
            lambda: histories.read(path, query["unit"], series, since, until) if os.path.exists(path) else None, WITHIN
        )
    except (sqlite3.Error, OSError, NoAnswer) as error:
        raise Problem(503, f"history cannot be read: {error}") from None
    return json_answer(found or {"step": histories.FINE, "from": since, "series": {}, "marks": []})


async def alerts(request: web.Request) -> web.Response:
    """Alerts, silences, and recently sent messages."""
    read_query(request, route(request))
    result = request.app[BACKEND].mirror.rows.get(stream.DAEMON, {}).get("", {}).get("alerts") or {}
    report = result.get("report") or {}
    return json_answer(
        {
            "names": result.get("names", []),
            "undelivered": report.get("undelivered", 0),
            "silences": result.get("silences", []),
            "recent": report.get("recent", []),
            "reported": result.get("reported", 0.0),
        }
    )


async def silence(request: web.Request) -> web.Response:
    """A new silence."""
    given = await read_body(request, route(request))
    params = {"name": given["name"], "seconds": given["for"], "why": given["why"]}
    result = await ask(request.app[BACKEND], "silence", params, caller_of(request))
    return json_answer(result["silence"], 201)


async def unsilence(request: web.Request) -> web.Response:
    """The end of one."""
    await read_body(request, route(request))
    ident = request.match_info["id"]
    if not (ident.isascii() and ident.isdecimal() and len(ident) < 12):
        raise Problem(404, "no such silence")
    await ask(request.app[BACKEND], "unsilence", {"id": ident}, caller_of(request))
    return web.Response(status=204)


async def alert_test(request: web.Request) -> web.Response:
    """Send a test message through a configured alert. What its receiver answered is not passed on."""
    await read_body(request, route(request))
    result = await ask(request.app[BACKEND], "alert-test", {"name": name_of(request)}, caller_of(request))
    text = "" if result["ok"] else "it was not delivered; the observer's log says why: impetusd logs observer"
    return json_answer({"ok": result["ok"], "text": text})


_OPTIONAL = Param("unit", NAME, "a unit or slot; default: all", "")

ROUTES = (
    Route("GET", f"{PREFIX}/incidents", VIEWER, all_incidents, "What is wrong, grouped by cause, the worst first."),
    Route("GET", f"{PREFIX}/units/{{name}}/why", VIEWER, why, "Explain the state of a unit or slot."),
    Route(
        "GET",
        f"{PREFIX}/history",
        VIEWER,
        history,
        "Samples and marks of the past.",
        query=(
            _OPTIONAL,
            Param("series", {"type": "string", "maxLength": 100}, f"of {', '.join(histories.SERIES)}", many=True),
            Param("from", TIME, "Unix time; default: a day before `to`", 0.0),
            Param("to", TIME, "Unix time; default: now", 0.0),
        ),
    ),
    Route("GET", f"{PREFIX}/alerts", VIEWER, alerts, "Alerts, silences, and recently sent messages."),
    Route(
        "POST",
        f"{PREFIX}/silences",
        METHODS["silence"].role,
        silence,
        "Suppress alerts for a while, about a unit, timer or group, or from one alert.",
        body=(
            Param("name", {"type": "string", "maxLength": 256}, 'unit, timer, group or alert; "" for everything', ""),
            Param("for", {"type": "number", "minimum": 1, "maximum": 366 * 86400}, "seconds", required=True),
            Param("why", {"type": "string", "maxLength": 1000}, "the reason", ""),
        ),
    ),
    Route(
        "DELETE",
        f"{PREFIX}/silences/{{id}}",
        METHODS["unsilence"].role,
        unsilence,
        "End a silence.",
        body=(),
        answer=NOTHING,
    ),
    Route(
        "POST",
        f"{PREFIX}/alerts/{{name}}/test",
        METHODS["alert-test"].role,
        alert_test,
        "Send a test message through a configured alert.",
        body=(),
    ),
)
