"""What is around every request: its id, its one line in the access log, and an answer of one shape for whatever goes wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import asyncpg
from aiohttp import web

from impetus_service.kit import logs
from impetus_service.kit.addresses import address
from impetus_service.kit.caller import CALLER
from impetus_service.kit.db import Unavailable
from impetus_service.kit.origins import add_headers, preflight
from impetus_service.kit.problems import ClientLeft, Problem, answer, unavailable
from impetus_service.kit.request_id import HEADER, JOB_ID, REQUEST_ID, accept

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

log = logging.getLogger("impetus.http")

# How a Problem is answered below a path, where it is not as an RFC 9457 body: a prefix, and what makes the answer.
Shapes = Mapping[str, Callable[[Problem], web.Response]]
SHAPES = web.AppKey("impetus.shapes", Shapes)

_NAME = web.RequestKey("impetus.request_id", str)
_BEGUN = web.RequestKey("impetus.begun", web.StreamResponse)  # the response whose head has been sent


@web.middleware
async def frame(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one middleware."""
    began = time.perf_counter()
    name = request[_NAME] = accept(request.headers.get(HEADER))
    token, of_job = REQUEST_ID.set(name), JOB_ID.set(0)
    status, size = 499, 0  # nginx's number for a client that did not wait
    try:
        try:
            response = preflight(request) or await handler(request)
        except Exception as error:
            response = _answer_to(error, request)
        status, size = response.status, response.content_length or 0
        return response
    finally:
        _write_access(request, status, size, began)
        REQUEST_ID.reset(token)
        JOB_ID.reset(of_job)


async def name_response(request: web.Request, response: web.StreamResponse) -> None:
    """on_response_prepare: the last moment for a header of a response that is streamed."""
    headers = response.headers
    headers[HEADER] = request.get(_NAME) or accept(request.headers.get(HEADER))  # 417 comes before any middleware
    headers.setdefault("Cache-Control", "no-store")  # what is somebody's own must lie in no proxy
    headers.setdefault("X-Content-Type-Options", "nosniff")  # nor be run by a browser that takes a text for a page
    add_headers(request, response)
    request[_BEGUN] = response


def _answer_to(error: Exception, request: web.Request) -> web.StreamResponse:
    begun = request.get(_BEGUN)
    if begun is not None:
        # Too late to say anything but that the answer is not complete: by ending the connection in its middle.
        level = logging.INFO if isinstance(error, ClientLeft) else logging.ERROR
        log.log(level, "%s %s aborted: %s", request.method, request.path, error, exc_info=_ours(error))
        if request.transport is not None:
            request.transport.abort()
        return cast("web.StreamResponse", begun)
    if isinstance(error, web.HTTPException) and error.status < 400:
        return error
    if isinstance(error, ConnectionResetError):
        return web.Response(status=499)  # the client has left: nobody reads it
    problem = _problem(error, request)
    for prefix, shaped in request.app.get(SHAPES, {}).items():
        if request.path.startswith(prefix):
            return shaped(problem)
    return answer(problem)


def _problem(error: Exception, request: web.Request) -> Problem:
    match error:
        case Problem():
            return error
        case Unavailable():
            return unavailable(f"the database cannot respond: {error}", "database_unavailable")
        case web.HTTPException():
            return _of_http(error, request)
        case web.RequestPayloadError():
            return Problem(400, f"the body is not encoded as its headers say: {' '.join(str(error).split())}")
        case asyncpg.CharacterNotInRepertoireError() | asyncpg.UntranslatableCharacterError():  # in text; in jsonb
            return Problem(422, "a text contains U+0000, which the database cannot store")
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return Problem(500, "internal error; find the request's id in the logs")


def _of_http(error: web.HTTPException, request: web.Request) -> Problem:
    """aiohttp's own refusals, and whatever else is raised as a response."""
    match error:
        case web.HTTPNotFound():
            detail = f"{request.path} does not exist"
        case web.HTTPMethodNotAllowed():
            detail = f"{request.path} supports {', '.join(sorted(error.allowed_methods))}, not {error.method}"
        case web.HTTPRequestEntityTooLarge():
            detail = f"the body is too large: {error.text}"
        case _:
            detail = error.text or error.reason
    headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
    return Problem(error.status, detail, headers=headers)


def _ours(error: Exception) -> Exception | None:
    """The error when it is worth a traceback: not for a client that left or a database that is away."""
    return None if isinstance(error, ClientLeft | Problem | Unavailable | OSError | TimeoutError) else error


def _write_access(request: web.Request, status: int, size: int, began: float) -> None:
    if not logs.access.isEnabledFor(logging.INFO):
        return
    fields: dict[str, object] = {
        "method": request.method,
        "path": logs.redact_path(request.path),
        "status": status,
        "ms": round((time.perf_counter() - began) * 1000, 2),
        "bytes": size,
        "address": address(request),
    }
    caller = request.get(CALLER)
    if caller is not None:
        fields["user_id"], fields["company_id"] = caller.user_id, caller.company.id
    logs.access.info("", extra={"fields": fields})
