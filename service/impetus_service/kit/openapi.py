"""GET /openapi.json: OpenAPI 3.1, made from the declarations that validate (api.py)."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, get_origin

import msgspec
from aiohttp import web

from impetus_service.kit import paging, validation
from impetus_service.kit.api import INPUTS, Api, Operation

REF = "#/components/schemas/{name}"
DOCUMENT = web.AppKey("impetus.openapi", bytes)

api = Api("service")


@api.get("/openapi.json", any_query=True)
async def openapi(request: web.Request) -> web.Response:
    """This description."""
    return web.Response(body=request.app[DOCUMENT], content_type="application/json")


def describe(title: str, version: str, apis: Sequence[Api]) -> dict[str, Any]:
    """The description of all operations."""
    operations = [operation for each in apis for operation in each.operations]
    types = [kind for operation in operations for kind in _types(operation)]
    schemas, components = msgspec.json.schema_components(types, schema_hook=validation.schema, ref_template=REF)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"session": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(operation: Operation) -> list[Any]:
    parts = (operation.hints.get(name) for name in INPUTS)
    answers = (operation.answers, *operation.also.values(), operation.problem[1])
    return [kind for kind in (*parts, *answers) if kind is not None]


def _describe(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    hints = operation.hints
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": (operation.handler.__doc__ or "").split("\n")[0],
        "parameters": [
            *_parameters(hints.get("path"), "path"),
            *_parameters(hints.get("query"), "query"),
            *_parameters(hints.get("headers"), "header"),
            *(paging.parameters() if "page" in hints else []),
        ],
        "responses": {},
    }
    if operation.handler.__doc__ and "\n" in operation.handler.__doc__:
        described["description"] = operation.handler.__doc__
    if operation.authenticated:
        described["security"] = [{"session": []}]
        described["x-level"] = int(operation.rank)
    if "body" in hints:
        content = {"application/json": {"schema": schema_of[repr(hints["body"])]}}
        described["requestBody"] = {"required": True, "content": content}
        if operation.body_max is not None:
            described["requestBody"]["description"] = f"At most {operation.body_max} bytes."
    success: dict[str, Any] = {"description": HTTPStatus(operation.status).phrase}
    if operation.status != 204:
        schema = {} if operation.answers is None else schema_of[repr(operation.answers)]
        success["content"] = {kind: {"schema": schema} for kind in operation.content_types}
    described["responses"][str(operation.status)] = success
    for status, kind in operation.also.items():
        content = {operation.content_types[0]: {"schema": schema_of[repr(kind)]}}
        described["responses"][str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    problem_type, shape = operation.problem
    problem = {problem_type: {"schema": schema_of[repr(shape)]}}
    for status in _refusals(operation):
        described["responses"].setdefault(str(status), {"description": HTTPStatus(status).phrase, "content": problem})
    return described


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


def _parameters(kind: Any, where: str) -> list[dict[str, Any]]:
    if kind is None:
        return []
    (_,), components = msgspec.json.schema_components([kind], schema_hook=validation.schema, ref_template=REF)
    schema = components[(get_origin(kind) or kind).__name__]
    return [
        {
            "name": name,
            "in": where,
            "required": where == "path" or name in schema.get("required", ()),
            "schema": {key: value for key, value in each.items() if key != "default" or value is not None},
        }
        for name, each in schema["properties"].items()
    ]
