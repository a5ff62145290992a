"""The name that one request has everywhere: in its answer, the logs, the jobs it makes and the calls that go out for it.

A job has one, too: that of the request that asked for it, and its own id.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

HEADER = "X-Request-ID"
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,64}")

# Of the request (or job) that the running task works for; "" outside of one.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
# Of the job that the running task does, or that its request makes or changes; 0 for none.
JOB_ID: ContextVar[int] = ContextVar("job_id", default=0)


def accept(given: str | None) -> str:
    """`given` when it can be a request id (1 to 64 of letters, digits, . _ : -), else a new one."""
    if given is not None and _ACCEPTED.fullmatch(given):
        return given
    return secrets.token_hex(8)
