"""What can be asked and done by the API, as the control methods know it. Roles are the supervisor's: see `core.protocol`."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from impetusd.client.again import persistently
from impetusd.client.control import ControlError, Unanswered
from impetusd.core import protocol, stream
from impetusd.core.protocol import METHODS, VIEWER, ProtocolError
from impetusd.gateway.backend import Backend
from impetusd.gateway.caller import Caller
from impetusd.gateway.keys import BACKEND, SETTINGS
from impetusd.gateway.problems import OF_EXIT, Problem
from impetusd.gateway.routes import (
    BEGUN,
    FLAG,
    LINES,
    NAME,
    NUMBER,
    PREFIX,
    TEXT,
    TIME,
    Param,
    Route,
    caller_of,
    checked,
    count,
    json_answer,
    read_body,
    read_query,
    route_of,
)

UNREAD = 1000  # lines of progress that wait for a client
LEDGER_AT_ONCE = 5000  # records

_ANY = Param("unit", NAME, "a unit, slot or timer; may be repeated; default: all", many=True)


def route(request: web.Request) -> Route:
    """The route that a request is for."""
    found = route_of(request)
    assert found is not None  # the guard has seen to it
    return found


def name_of(request: web.Request) -> str:
    """The NAME in the path: one, never a pattern."""
    try:
        return str(checked(NAME, request.match_info["name"]))
    except ValueError as error:
        raise Problem(400, f"the name must be {error}") from None


async def ask(backend: Backend, method: str, params: Mapping[str, Any], caller: Caller, progress: Any = None) -> Any:
    """As `Backend.call`, over supervisors that die.

    ProtocolError before anything is asked, if the parameters are wrong.
    """
    protocol.check_params(method, params)
    return await persistently(method, lambda: backend.call(method, params, caller, progress))


# Looking.


async def me(request: web.Request) -> web.Response:
    """Who the caller is, and what is looked at."""
    caller, backend = caller_of(request), request.app[BACKEND]
    read_query(request, route(request))
    its = backend.mirror.rows.get(stream.DAEMON, {}).get("", {})
    instance = {
        "conf": its.get("conf"),
        "version": its.get("version"),
        "host": socket.gethostname(),
        "pid": its.get("shim", {}).get("pid"),
        "started": its.get("started"),
    }
    return json_answer(
        {
            "user": caller.user,
            "role": caller.role,
            "instance": instance,
            "server_time": time.time(),
            "live": backend.live,
            "alerts": "alerts" in its,
            "history": bool(request.app[SETTINGS].history),
            "hosts": bool(request.app[SETTINGS].remotes),
        }
    )


async def unit(request: web.Request) -> web.Response:
    """A unit or slot with all details."""
    read_query(request, route(request))
    name = name_of(request)
    result = await ask(request.app[BACKEND], "describe", {"name": name}, caller_of(request))
    if not result["units"] and not result["groups"]:
        raise Problem(404, f"no unit {name}")
    config: list[dict[str, Any]] = []
    for row in result["units"][:1]:
        spec = row.get("spec") or {}
        origins = row.get("origins") or {}  # an older supervisor does not say which keys are written where
        else_ = "default" if origins else row.get("where")
        config = [{"key": key, "value": value, "origin": origins.get(key, else_)} for key, value in spec.items()]
    for row in result["units"]:
        row["reason"] = protocol.reason_of(row)
    return json_answer({**result, "config": config})


async def env(request: web.Request) -> web.Response:
    """The environment of its processes, with secrets hidden."""
    query = read_query(request, route(request))
    params = {"name": name_of(request), "diff": query["diff"]}
    return json_answer(await ask(request.app[BACKEND], "env", params, caller_of(request)))


async def timers(request: web.Request) -> web.Response:
    """All timers."""
    read_query(request, route(request))
    return json_answer(await ask(request.app[BACKEND], "timers", {}, caller_of(request)))


async def plan(request: web.Request) -> web.Response:
    """What `apply` would change."""
    read_query(request, route(request))
    return json_answer(await ask(request.app[BACKEND], "plan", {"problems": True}, caller_of(request)))


async def events(request: web.Request) -> web.Response:
    """Records of the ledger."""
    query = read_query(request, route(request))
    params = {"names": query["unit"], "after": query["after"], "since": query["since"], "last": query["last"]}
    if query["after"] and query["last"]:
        raise Problem(400, "after and last cannot be combined")
    if not query["after"] and not query["since"] and not query["last"]:
        params["last"] = 200
    result = await ask(request.app[BACKEND], "events", params, caller_of(request))
    return json_answer({"events": result["records"], "last": result["last"], "more": result["more"]})


# Doing.


async def act(request: web.Request) -> web.StreamResponse:
    """Carry out the action in the path on the unit in the path."""
    name, the_route = name_of(request), route(request)
    given = await read_body(request, the_route)
    method, fixed = ACTIONS[the_route.path.rpartition("/")[2]]
    named = {"name": name} if "name" in METHODS[method].params else {"names": [name]}
    return await _carry_out(request, method, {**_with_token(method), **named, **fixed, **_given(given)})


async def apply(request: web.Request) -> web.StreamResponse:
    """Apply the INI file."""
    given = await read_body(request, route(request))
    return await _carry_out(request, "apply", {**_with_token("apply"), **_given(given)})


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _with_token(method: str) -> dict[str, str]:
    """By which the next supervisor knows the question again."""
    return {"token": os.urandom(8).hex()} if "token" in METHODS[method].params else {}


async def _carry_out(request: web.Request, method: str, params: Mapping[str, Any]) -> web.StreamResponse:
    """Lines of progress, then the result. What is refused before there was any progress is a problem of its own."""
    said: asyncio.Queue[bytes] = asyncio.Queue()

    def progress(step: Mapping[str, Any]) -> None:
        if said.qsize() < UNREAD:
            said.put_nowait(_line("progress", step))

    asking = asyncio.create_task(ask(request.app[BACKEND], method, params, caller_of(request), progress))
    asking.add_done_callback(lambda _: said.put_nowait(b""))
    try:
        line = await said.get()
        if not line and asking.exception() is not None:
            await asking
        response = web.StreamResponse(headers={"Content-Type": LINES, "X-Accel-Buffering": "no"})
        request[BEGUN] = True
        await response.prepare(request)
        while line:
            await response.write(line)
            line = await said.get()
        try:
            line = _line("result", await asking)
        except (ControlError, ProtocolError) as error:
            key = "unanswered" if isinstance(error, Unanswered) else OF_EXIT.get(error.exit, OF_EXIT[1])[0]
            line = _line("error", {"key": key, "text": str(error), "exit": error.exit})
        await response.write(line)
        return response
    finally:
        asking.cancel()  # the client has gone; the supervisor goes on


def _line(what: str, value: Any) -> bytes:
    return json.dumps({what: value}, separators=(",", ":")).encode() + b"\n"


# The routes.

# By the word in the path: the control method, and its parameters that are fixed.
ACTIONS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "start": ("start", {}),
    "stop": ("stop", {}),
    "restart": ("restart", {}),
    "reload": ("reload", {}),
    "cancel": ("reload", {"cancel": True}),
    "scale": ("scale", {}),
    "signal": ("signal", {}),
    "enable": ("enable", {}),
    "disable": ("disable", {}),
    "trigger": ("trigger", {}),
}
_WAIT = Param("wait", FLAG, "false: respond without waiting until it is up")
_TOKEN = Param("token", TEXT, "the same value when a request is repeated, so that it is executed once")
_N = {"anyOf": [count(0, protocol.MAX_INSTANCES), {"type": "string", "maxLength": 8, "pattern": r"^[+-][0-9]{1,6}$"}]}
_BODIES: Mapping[str, tuple[Param, ...]] = {
    "start": (_WAIT,),
    "restart": (_WAIT, Param("rolling", FLAG, "restart one process after another, without interruption")),
    "reload": (
        Param(
            "canaries",
            count(0, protocol.MAX_INSTANCES),
            "number of new workers to start first and compare with the old ones",
        ),
        Param("watch", {**TIME, "maximum": protocol.MAX_SECONDS}, "how long to watch the new version, in seconds"),
        _TOKEN,
    ),
    "scale": (Param("n", _N, 'number of instances, or a change such as "+1"', required=True), _TOKEN),
    "signal": (
        Param(
            "signal",
            {"type": "string", "maxLength": 16, "pattern": "^[A-Za-z0-9+-]+$"},
            "signal name, such as HUP, or number",
            required=True,
        ),
    ),
    "enable": (_TOKEN,),
    "disable": (_TOKEN,),
    "trigger": (_WAIT,),
}
_ABOUT = {
    "start": "Start a unit and its dependencies.",
    "stop": "Stop it.",
    "restart": "Restart it.",
    "reload": "Deploy the version on disk; the old one keeps serving if it fails.",
    "cancel": "Cancel the reload; the old version keeps serving.",
    "scale": "Set the number of instances.",
    "signal": "Send a signal.",
    "enable": "Re-enable the unit.",
    "disable": "Stop and disable the unit.",
    "trigger": "Run a timer's job now.",
}
_UNIT = f"{PREFIX}/units/{{name}}"

ROUTES = (
    Route("GET", f"{PREFIX}/me", VIEWER, me, "The logged-in user, and which instance this is."),
    Route("GET", _UNIT, METHODS["describe"].role, unit, "A unit or slot with all details and its configuration."),
    Route(
        "GET",
        f"{_UNIT}/env",
        METHODS["env"].role,
        env,
        "The environment of its processes, with secrets hidden.",
        query=(Param("diff", FLAG, "only what a start with the INI file on disk would change", False),),
    ),
    Route("GET", f"{PREFIX}/timers", METHODS["timers"].role, timers, "Timers, with their last and next runs."),
    Route(
        "GET", f"{PREFIX}/plan", METHODS["plan"].role, plan, "What apply would change, and problems of the INI file."
    ),
    Route(
        "GET",
        f"{PREFIX}/events",
        METHODS["events"].role,
        events,
        "Records of the ledger, the oldest first.",
        query=(
            Param("last", count(0, LEDGER_AT_ONCE), "number of the newest records; default: 200", 0),
            Param("after", NUMBER, "records after the one with this number", 0),
            Param("since", NUMBER, "records since this Unix time", 0),
            _ANY,
        ),
    ),
    *(
        Route(
            "POST",
            f"{_UNIT}/{word}",
            METHODS[method].role,
            act,
            _ABOUT[word],
            body=_BODIES.get(word, ()),
            answer=LINES,
        )
        for word, (method, _) in ACTIONS.items()
    ),
    Route(
        "POST",
        f"{PREFIX}/apply",
        METHODS["apply"].role,
        apply,
        "Apply the INI file to what is running.",
        body=(_TOKEN,),
        answer=LINES,
    ),
)
