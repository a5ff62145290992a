"""GET /api/v1/openapi.json: OpenAPI 3.1, made of the same table as the routes themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from aiohttp import web

import impetusd
from impetusd.gateway.routes import EVENTS, JSON, LINES, NAME, NOTHING, OPEN, PREFIX, ROUTES, Param, Route, json_answer
from impetusd.gateway.routes import read_query as read

PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail"],
}
_ABOUT = (
    "Everything that the web page shows and does. Log in by POST /api/v1/login, or send a token: Authorization: Bearer TOKEN"
    " (impetusd token add). A role includes those below it: viewer, operator, admin; [gateway] ceiling is the highest here."
    " What changes something takes Content-Type: application/json. Errors are application/problem+json."
)
_OF_ANSWER = {
    LINES: 'lines of JSON: {"progress": …} each, then {"result": …} or {"error": {"key", "text", "exit"}}',
    EVENTS: "server-sent events; a comment or `alive` at least every 5 s",
    NOTHING: "done",
}
_COMMON = {"400": "malformed", "421": "unknown host"}
_WITH_LOGIN = {
    "401": "not logged in",
    "403": "insufficient role, or another origin",
    "429": "too many requests of this user",
    "503": "no supervisor",
}


def described(routes: Iterable[Route]) -> dict[str, Any]:
    """The document."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "impetusd", "version": impetusd.__version__, "description": _ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM},
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "impetusd-9615"},
            },
        },
        "security": [{"token": []}, {"session": []}],
    }


def is_api(route: Route) -> bool:
    """Whether it is for programs: the page's files are not."""
    return not route.path.startswith("/page/") and route.path != "/"


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", route.path)
    parameters = [{"name": name, "in": "path", "required": True, "schema": dict(NAME)} for name in names]
    parameters += [_query(param) for param in route.query]
    words = [word for word in re.split(r"[/{}.-]+", route.path.removeprefix(PREFIX)) if word]
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *words]),
        "summary": route.about,
        "parameters": parameters,
        "responses": _responses(route),
        "x-role": route.role or None,
    }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _body(route.body)}}}
    if route.role == OPEN:
        operation["security"] = []
    return operation


def _query(param: Param) -> dict[str, Any]:
    schema: dict[str, Any] = dict(param.schema)
    if param.many:
        schema = {"type": "array", "items": schema, "maxItems": 64}
    elif param.default not in {None, ""}:
        schema["default"] = param.default
    return {"name": param.name, "in": "query", "required": param.required, "description": param.about, "schema": schema}


def _body(params: tuple[Param, ...]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {param.name: {**param.schema, "description": param.about} for param in params},
        "additionalProperties": False,
    }
    required = [param.name for param in params if param.required]
    return {**schema, "required": required} if required else schema


def _responses(route: Route) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    errors = {**_COMMON, **(_WITH_LOGIN if route.role != OPEN else {})}
    if route.body is not None:
        errors["415"] = "not application/json"
    done: dict[str, Any] = {"description": _OF_ANSWER.get(route.answer, "the answer")}
    if route.answer != NOTHING:
        schema = dict(route.schema) if route.answer == JSON else {"type": "string"}
        done["content"] = {route.answer: {"schema": schema}}
    status = "204" if route.answer == NOTHING else "200"
    return {status: done, **{code: {"description": text, "content": problem} for code, text in sorted(errors.items())}}


async def document(request: web.Request) -> web.Response:
    """The document, of all routes of this application."""
    read(request, DOCUMENT)
    return json_answer(described(route for route in request.app[ROUTES].values() if is_api(route)))


DOCUMENT = Route("GET", f"{PREFIX}/openapi.json", OPEN, document, "This description.")
