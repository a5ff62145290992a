"""What a client is told when something is wrong: one shape, RFC 9457, whatever the status and wherever it arose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Literal

import msgspec
from aiohttp import web

from impetus_service.kit.request_id import REQUEST_ID

CONTENT_TYPE = "application/problem+json"
RETRY_AFTER = 5  # seconds: the longest pause between our own attempts to connect to the database


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
    """RFC 9457. `errors` names each thing that is wrong, `request_id` finds the request in the logs."""

    title: str
    status: int
    detail: str
    request_id: str = ""
    errors: list[Fault] = []
    type: str = "about:blank"


class Problem(Exception):
    """Raised by whatever finds that a request cannot be answered as it was meant; the frame makes the answer of it.

    `repeated`: the audit log has its like of a moment ago, and needs no other.
    """

    repeated = False

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})


class ClientLeft(Exception):
    """Whoever asked does not take the answer that is being streamed: gone, or not reading. Nobody is left to be told."""


def unavailable(detail: str, retry_after: float = RETRY_AFTER) -> Problem:
    """503: what is missing now will be there again."""
    return Problem(503, detail, headers={"Retry-After": str(max(1, round(retry_after)))})


def not_found(what: str) -> Problem:
    """404, which is also the answer for what belongs to another company."""
    return Problem(404, f"there is no such {what}")


def answer(problem: Problem) -> web.Response:
    """The response that tells a Problem."""
    body = ProblemBody(
        HTTPStatus(problem.status).phrase, problem.status, problem.detail, REQUEST_ID.get(), problem.errors
    )
    return web.Response(
        body=msgspec.json.encode(body), status=problem.status, headers=problem.headers, content_type=CONTENT_TYPE
    )
