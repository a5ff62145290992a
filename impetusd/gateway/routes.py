"""The one table of routes: who may ask for what, with which parameters, and what comes back.

The router, the check of roles, the reading of parameters, the OpenAPI document and the test of routes by roles all go by it.
What a parameter may be is a JSON schema of a few words, which `checked` understands.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from aiohttp import web

from impetusd.core import protocol
from impetusd.gateway.caller import Caller
from impetusd.gateway.problems import Problem

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
Schema: TypeAlias = Mapping[str, Any]

OPEN = ""  # the role of what answers without a login
JSON, LINES, EVENTS, NOTHING = "application/json", "application/x-ndjson", "text/event-stream", ""
PREFIX = "/api/v1"
MOST_VALUES = 64  # of a parameter that may come several times

NAME: Schema = {"type": "string", "minLength": 1, "maxLength": protocol.MAX_NAME, "pattern": r"^[^\x00-\x1f\x7f*?\[]+$"}
TEXT: Schema = {"type": "string", "maxLength": 256}
SECRET: Schema = {"type": "string", "minLength": 1, "maxLength": 1024}
FLAG: Schema = {"type": "boolean"}
TIME: Schema = {"type": "number", "minimum": 0, "maximum": 1e11}
NUMBER: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 53) - 1}
OBJECT: Schema = {"type": "object"}


def count(least: int, most: int) -> Schema:
    """A whole number between two others."""
    return {"type": "integer", "minimum": least, "maximum": most}


def one_of(*words: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(words)}


class Param(NamedTuple):
    """A parameter of the query, or a member of the body. `many`: it may come several times, and is a list."""

    name: str
    schema: Schema
    about: str
    default: Any = None
    required: bool = False
    many: bool = False


class Route(NamedTuple):
    """`role` is the lowest that may ask, or OPEN; `opened` says of which requests it asks for none all the same. `answer` the media type, NOTHING for 204; `schema` of a JSON answer.

    `body` None: it takes none.
    """

    method: str
    path: str
    role: str
    handler: Handler
    about: str
    query: tuple[Param, ...] = ()
    body: tuple[Param, ...] | None = None
    answer: str = JSON
    schema: Schema = OBJECT
    opened: Callable[[web.Request], bool] = lambda _: False


CALLER = web.RequestKey("impetusd.caller", Caller)
BEGUN = web.RequestKey("impetusd.begun", bool)  # the answer has, and cannot become another one
ROUTES = web.AppKey("impetusd.routes", dict[tuple[str, str], Route])  # by method and path


def add(app: web.Application, routes: Iterable[Route]) -> None:
    """Have the app answer these, and nothing else by the same path: no HEAD, no OPTIONS."""
    known = app.setdefault(ROUTES, {})
    for route in routes:
        resource = app.router.add_route(route.method, route.path, route.handler).resource
        assert resource is not None  # of a route that is added by its path
        known[route.method, resource.canonical] = route


def route_of(request: web.Request) -> Route | None:
    """Which of them a request is for; None for none."""
    resource = request.match_info.route.resource
    known = request.app[ROUTES]
    return known.get((request.method, resource.canonical)) if resource is not None else None


def caller_of(request: web.Request) -> Caller:
    """Who asks, of a request for a route that takes a role."""
    return request[CALLER]


# Parameters.


def checked(schema: Schema, value: Any) -> Any:
    """The value, if it is of this schema; ValueError says what is expected."""
    if "anyOf" in schema:
        for each in schema["anyOf"]:
            try:
                return checked(each, value)
            except ValueError:
                continue
        raise ValueError(" or ".join(expected(each) for each in schema["anyOf"]))
    kinds: dict[str, Any] = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}
    kind = schema["type"]
    if not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise ValueError(expected(schema))
    if isinstance(value, str):
        fits = schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value))
        fits = fits and ("enum" not in schema or value in schema["enum"])
        fits = fits and ("pattern" not in schema or re.fullmatch(schema["pattern"], value) is not None)
    else:
        fits = math.isfinite(value) and schema.get("minimum", value) <= value <= schema.get("maximum", value)
    if not fits:
        raise ValueError(expected(schema))
    return value


def expected(schema: Schema) -> str:
    """What a value must be, as a clause."""
    if "anyOf" in schema:
        return " or ".join(expected(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema["type"] == "string":
        pattern = f" that match {schema['pattern']}" if "pattern" in schema else ""
        return f"{schema.get('minLength', 0)} to {schema['maxLength']} characters{pattern}"
    if schema["type"] == "boolean":
        return "true or false"
    whole = "a whole number" if schema["type"] == "integer" else "a number"
    return f"{whole} from {schema['minimum']:g} to {schema['maximum']:g}"


def read_query(request: web.Request, route: Route) -> dict[str, Any]:
    """The parameters of the query, checked and completed; 400 for an unknown, repeated, missing or wrong one."""
    known = {param.name: param for param in route.query}
    given: dict[str, list[Any]] = {}
    for name, text in request.query.items():
        if name not in known:
            allowed = f"; allowed: {', '.join(known)}" if known else ""
            raise Problem(400, f"unknown parameter {name[:64]!r}{allowed}")
        given.setdefault(name, []).append(_value(known[name], _of_text(known[name].schema, text)))
    for name, values in given.items():
        if len(values) > (MOST_VALUES if known[name].many else 1):
            raise Problem(400, f"{name} is given too many times")
    return _completed(route.query, {name: v if known[name].many else v[0] for name, v in given.items()})


async def read_body(request: web.Request, route: Route) -> dict[str, Any]:
    """The same of the body, which is a JSON object; nothing stands for {}."""
    try:
        data = await request.read()
    except web.RequestPayloadError:
        raise Problem(400, "the body could not be read completely") from None
    try:
        given = json.loads(data.decode(), parse_constant=_refuse_constant) if data.strip() else {}
    except (ValueError, RecursionError):
        raise Problem(400, "the body is not JSON") from None
    if not isinstance(given, dict):
        raise Problem(400, "the body must be a JSON object")
    known = {param.name: param for param in route.body or ()}
    for name in given:
        if name not in known:
            allowed = f"; allowed: {', '.join(known)}" if known else ""
            raise Problem(400, f"unknown member {name[:64]!r} of the body{allowed}")
    return _completed(route.body or (), {name: _value(known[name], value) for name, value in given.items()})


def _refuse_constant(text: str) -> Any:
    raise ValueError(text)


def _of_text(schema: Schema, text: str) -> Any:
    """A value of the query: a number where one is expected, and can be read."""
    kind = schema.get("type")
    if kind == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}.get(text, text)
    if kind == "integer" and re.fullmatch(r"\d{1,16}", text, re.ASCII):
        return int(text)
    if kind == "number" and re.fullmatch(r"\d{1,16}(\.\d{1,9})?", text, re.ASCII):
        return float(text)
    return text


def _value(param: Param, value: Any) -> Any:
    try:
        return checked(param.schema, value)
    except ValueError as error:
        raise Problem(400, f"{param.name} must be {error}") from None


def _completed(params: Iterable[Param], given: dict[str, Any]) -> dict[str, Any]:
    for param in params:
        if param.required and param.name not in given:
            raise Problem(400, f"{param.name} is missing")
    return {param.name: given.get(param.name, [] if param.many else param.default) for param in params}


def json_answer(value: Any, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(
        status=status, body=json.dumps(value, separators=(",", ":")).encode(), content_type="application/json"
    )
