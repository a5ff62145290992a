"""GET /openapi.json: OpenAPI 3.1, made from the declarations that validate (api.py)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from impetus_service.kit import paging, validation
from impetus_service.kit.api import INPUTS, Api, Operation
from impetus_service.kit.problems import CODES, ProblemBody

REF = "#/components/schemas/{name}"
DOCUMENT = web.AppKey("impetus.openapi", bytes)

api = Api("service")


@api.get("/openapi.json", any_query=True)
async def openapi(request: web.Request) -> web.Response:
    """This description."""
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


# What answers may have besides their bodies: whether it is always there, what it is, and an example.
HEADERS: dict[str, tuple[bool, str, str]] = {
    "X-Request-ID": (True, "Identifies the request in the logs; a client may choose it.", "9d7ddd239e0f3121"),
    "Retry-After": (False, "Seconds to wait before retrying.", "5"),
    "WWW-Authenticate": (True, "A session is required, or has expired.", 'Bearer realm="impetus"'),
    "Location": (True, "URL of the created resource.", "/api/jobs/7"),
    "Idempotent-Replayed": (
        False,
        "true if this is the stored response of an earlier request with this Idempotency-Key.",
        "true",
    ),
    "Set-Cookie": (False, "The session, for requests from a browser.", "session=...; HttpOnly; Path=/; Secure"),
    "Content-Disposition": (True, "The name of the file.", 'attachment; filename="audit.csv"'),
    "X-Export-Limit": (True, "Maximum number of rows in the file.", "5000"),
    "X-Export-Truncated": (True, "Whether there are more rows.", "false"),
}
_OF_STATUS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
_ABOUT = """\
Errors are returned as application/problem+json (RFC 9457), below /v1 in OpenAI's format. `code` is the machine-readable cause
and never changes its meaning. All mistakes in a request are reported at once. Times are in UTC. Lists take `limit` and
`cursor`. A session is a bearer token, or in a browser a cookie. With a cookie, only the service's own pages and those of the origins in
CORS_ORIGINS may do more than read."""


def describe(title: str, version: str, apis: Sequence[Api], *, server: str = "", cookie: str = "") -> dict[str, Any]:
    """The description of all operations, which are served at `server`, by default where the description is.

    `cookie` is the name of that of a session.
    """
    operations = [operation for each in apis for operation in each.operations]
    types = [kind for operation in operations for kind in _types(operation)]
    schemas, components = msgspec.json.schema_components(types, schema_hook=validation.schema, ref_template=REF)
    schemes: dict[str, Any] = {"session": {"type": "http", "scheme": "bearer", "description": "A session's token."}}
    if cookie:
        schemes["cookie"] = {"type": "apiKey", "in": "cookie", "name": cookie, "description": "A session of a browser."}
    described = Described(dict(zip(map(repr, types), schemas, strict=True)), components, list(schemes))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = described.operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": _ABOUT},
        "servers": [{"url": server or "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": {
                name: {"description": what, "required": always, "schema": {"type": "string"}, "example": example}
                for name, (always, what, example) in HEADERS.items()
            },
            "responses": described.problems,
            "securitySchemes": schemes,
        },
    }


def _types(operation: Operation) -> list[Any]:
    parts = (operation.hints.get(name) for name in INPUTS)
    answers = (operation.answers, *operation.also.values(), operation.problem[1])
    return [kind for kind in (*parts, *answers) if kind is not None]


class Described:
    """Makes the descriptions of operations, and meanwhile `problems`, the answers that they share."""

    def __init__(self, schema_of: dict[str, Any], components: dict[str, Any], schemes: list[str]) -> None:
        self._schema_of = schema_of  # by repr of a type
        self._components = components
        self._schemes = schemes  # of authentication, any of which will do
        self.problems: dict[str, Any] = {}

    def operation(self, operation: Operation) -> dict[str, Any]:
        """One operation."""
        hints = operation.hints
        described: dict[str, Any] = {
            "operationId": operation.name,
            "tags": [operation.tag],
            "summary": (operation.handler.__doc__ or "").split("\n")[0],
            "parameters": [
                *self._parameters(hints.get("path"), "path"),
                *self._parameters(hints.get("query"), "query"),
                *self._parameters(hints.get("headers"), "header"),
                *(paging.parameters() if "page" in hints else []),
            ],
            "responses": {},
        }
        if operation.handler.__doc__ and "\n" in operation.handler.__doc__:
            described["description"] = inspect.cleandoc(operation.handler.__doc__)
        if operation.authenticated:
            described["security"] = [{scheme: []} for scheme in self._schemes]
            described["x-level"] = int(operation.rank)
        if "body" in hints:
            described["requestBody"] = {
                "required": True,
                "content": self._content(("application/json",), hints["body"]),
            }
            if operation.body_max is not None:
                described["requestBody"]["description"] = f"At most {operation.body_max} bytes."
        responses = described["responses"]
        responses[str(operation.status)] = self._response(
            operation.status, None if operation.status == 204 else operation.answers, operation.content_types
        )
        responses[str(operation.status)]["headers"] |= _headers(*operation.headers)
        for status, kind in operation.also.items():
            responses[str(status)] = self._response(status, kind, operation.content_types[:1])
        for status in _refusals(operation):
            responses.setdefault(str(status), self._problem(status, *operation.problem))
        return described

    def _response(self, status: int, kind: Any, content_types: tuple[str, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "description": HTTPStatus(status).phrase,
            "headers": _headers("X-Request-ID", *_OF_STATUS.get(status, ())),
        }
        if status != 204:
            found["content"] = self._content(content_types, kind)
        return found

    def _content(self, content_types: tuple[str, ...], kind: Any) -> dict[str, Any]:
        if kind is None:  # whatever the provider, or a file, has
            return {name: {"schema": {}} for name in content_types}
        schema = self._schema_of[repr(kind)]
        return {name: {"schema": schema, "example": self.example(schema)} for name in content_types}

    def _problem(self, status: int, content_type: str, kind: Any) -> dict[str, Any]:
        """A reference to the answer of that status and form."""
        name = f"{kind.__name__}{status}"
        if name not in self.problems:
            response = self._response(status, kind, (content_type,))
            codes = [code for code, of in CODES.items() if of == status]
            content = response["content"][content_type]
            if kind is ProblemBody:
                of_status = {"properties": {"status": {"const": status}, "code": {"enum": codes}}}
                content["schema"] = {"allOf": [content["schema"], of_status]}
                told = {"title": HTTPStatus(status).phrase, "status": status, "code": codes[0], "detail": "..."}
                content["example"] = told | {"request_id": HEADERS["X-Request-ID"][2]}
                if status == 422:
                    fault = {
                        "at": "query.limits",
                        "code": "unknown",
                        "message": "is unknown; no parameters are allowed",
                    }
                    content["example"]["errors"] = [fault]
            response["description"] += f": {', '.join(codes)}"
            self.problems[name] = response
        return {"$ref": f"#/components/responses/{name}"}

    def _parameters(self, kind: Any, where: str) -> list[dict[str, Any]]:
        if kind is None:
            return []
        schema = self._components[self._schema_of[repr(kind)]["$ref"].rpartition("/")[2]]
        found = []
        for name, each in schema["properties"].items():
            described = {
                "name": name,
                "in": where,
                "required": where == "path" or name in schema.get("required", ()),
                "schema": {key: value for key, value in each.items() if key != "default" or value is not None},
            }
            if (example := self.example(each, named=True)) is not None:
                described["example"] = example
            found.append(described)
        return found

    def example(self, schema: dict[str, Any], *, named: bool = False) -> Any:
        """A value that the schema allows; with `named`, None where neither the schema nor its default gives one."""
        if "$ref" in schema:
            return self.example(self._components[schema["$ref"].rpartition("/")[2]])
        for kinds in (schema.get("anyOf"), schema.get("allOf")):
            if kinds and "examples" not in schema and "type" not in schema:
                return self.example(next((kind for kind in kinds if kind.get("type") != "null"), kinds[0]), named=named)
        for key in ("examples", "enum"):
            if key in schema:
                return schema[key][0]
        if schema.get("default") is not None:
            return schema["default"]
        if named:
            return None
        match schema.get("type"):
            case "object":
                return {name: self.example(each) for name, each in schema.get("properties", {}).items()}
            case "array":
                return [self.example(schema["items"])] if "items" in schema else []
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return False
            case "string":
                return "2026-01-31T12:00:00Z" if schema.get("format") == "date-time" else "..."
        return None


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _refusals(operation: Operation) -> list[int]:
    """The problems that follow from the declaration, and those that the operation names."""
    hints = operation.hints
    statuses = {*operation.raises, 500}
    if operation.authenticated:
        statuses |= {401, 403, 503}
    if "body" in hints:
        statuses |= {400, 408, 413, 415, 422}
    if not operation.any_query:
        statuses.add(422)
    return sorted(statuses)
