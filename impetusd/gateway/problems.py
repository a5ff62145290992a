"""What went wrong, as application/problem+json (RFC 9457)."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

from aiohttp import web

from impetusd.core.protocol import EXIT_FAILED, EXIT_NOT_RUNNING, EXIT_UNKNOWN_NAME, EXIT_USAGE

# Of a control method's refusal, by its exit code: what an ndjson answer calls it, and the status of an answer of its own.
OF_EXIT = {
    EXIT_FAILED: ("failed", HTTPStatus.CONFLICT),
    EXIT_USAGE: ("usage", HTTPStatus.BAD_REQUEST),
    EXIT_NOT_RUNNING: ("not_running", HTTPStatus.SERVICE_UNAVAILABLE),
    EXIT_UNKNOWN_NAME: ("unknown_name", HTTPStatus.NOT_FOUND),
}


class Problem(Exception):
    """Ends a request: `detail` is a sentence, `headers` go with the answer."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}

    def response(self) -> web.Response:
        """The answer."""
        return web.Response(
            status=self.status,
            body=body(self.status, self.detail),
            content_type="application/problem+json",
            headers=self.headers,
        )


def body(status: int, detail: str) -> bytes:
    """{"type", "title", "status", "detail"}."""
    head: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    return json.dumps({**head, "detail": detail}).encode()
