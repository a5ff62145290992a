"""What a client is told when something is wrong: one shape, RFC 9457, whatever the status and wherever it arose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal

import msgspec
from aiohttp import web

from impetus_service.kit.request_id import REQUEST_ID

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds: the longest pause between our own attempts to connect to the database

# Why a request was not answered as it was meant, for programs, and the status that goes with it: a code never changes its
# meaning. The first of a status is the one for no special reason.
CODES = {
    "bad_request": 400,
    "malformed_json": 400,
    "refused_by_provider": 400,
    "session_required": 401,
    "session_ended": 401,  # expired, ended, or never there
    "wrong_credentials": 401,
    "forbidden": 403,
    "level_too_low": 403,
    "wrong_password": 403,  # the current one, where it is asked for
    "not_the_author": 403,
    "foreign_origin": 403,  # a page of another origin asks with a session's cookie
    "last_administrator": 403,
    "yourself": 403,  # nobody manages himself
    "not_found": 404,
    "method_not_allowed": 405,
    "body_timeout": 408,
    "conflict": 409,
    "account_exists": 409,
    "role_exists": 409,
    "job_state": 409,  # the job is in one in which that cannot be done
    "gone": 410,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "expectation_failed": 417,
    "invalid": 422,  # `errors` says what
    "too_many_attempts": 429,
    "internal": 500,
    "provider_failed": 502,
    "unavailable": 503,
    "busy": 503,
    "database_unavailable": 503,
    "provider_unavailable": 503,
}
if TYPE_CHECKING:
    ProblemCode = str
else:
    ProblemCode = Literal[tuple(CODES)]

# What is wrong with a field, for programs: a code never changes its meaning.
Code = Literal[
    "missing",
    "unknown",  # no such field or parameter
    "wrong_type",
    "too_small",
    "too_large",
    "too_short",
    "too_long",
    "not_allowed",  # none of those that there are
    "bad_format",
    "bad_character",
    "no_such_role",
    "key_in_use",  # an Idempotency-Key of another request
    "invalid",  # for no other of these reasons
]


class Fault(msgspec.Struct):
    """One thing that is wrong with a request: `message`, for people, follows `at` in a sentence."""

    at: str  # "body.email", "body.texts[3]", "query.from", "path.id", "headers.Idempotency-Key"
    code: Code
    message: str


class ProblemBody(msgspec.Struct, omit_defaults=True):
    """RFC 9457. `code` says why, for programs, and `detail` for people; `errors` names each thing that is wrong, and
    `request_id` finds the request in the logs."""

    title: str
    status: int
    code: ProblemCode
    detail: str
    request_id: str = ""
    errors: list[Fault] = []
    type: str = "about:blank"


class Problem(Exception):
    """Raised by whatever finds that a request cannot be answered as it was meant; the frame makes the answer of it.

    `code` is one of CODES for this status. `repeated`: the audit log has its like of a moment ago, and needs no other.
    """

    repeated = False

    def __init__(
        self,
        status: int,
        detail: str,
        code: ProblemCode = "",
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code or code_of(status)
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


class ClientLeft(Exception):
    """Whoever asked does not take the answer that is being streamed: gone, or not reading. Nobody is left to be told."""


def code_of(status: int) -> ProblemCode:
    """The code for no special reason, also of a status that CODES does not have."""
    return next((code for code, of in CODES.items() if of == status), "bad_request" if status < 500 else "internal")


def unavailable(detail: str, code: ProblemCode = "unavailable", *, retry_after: float = RETRY_AFTER) -> Problem:
    """503: what is missing now will be there again."""
    return Problem(503, detail, code, headers={"Retry-After": str(max(1, round(retry_after)))})


def not_found(what: str) -> Problem:
    """404, which is also the answer for what belongs to another company."""
    return Problem(404, f"no such {what}")


def answer(problem: Problem) -> web.Response:
    """The response that tells a Problem."""
    body = ProblemBody(
        HTTPStatus(problem.status).phrase,
        problem.status,
        problem.code,
        problem.detail,
        REQUEST_ID.get(),
        problem.errors,
    )
    return web.Response(
        body=msgspec.json.encode(body), status=problem.status, headers=problem.headers, content_type=CONTENT_TYPE
    )
