"""GET /api/jobs/{id}/events: the progress of a job as server-sent events, until it has ended.

Each event has the whole state, so a client that connects again misses nothing. A stream ends with the session, or the right
to see the job, that opened it, and when the worker drains: then the client comes to another worker. While the database is
away the stream waits.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

import msgspec
from aiohttp import web

from impetus_service.kit.api import Api
from impetus_service.kit.caller import AUTHENTICATE, Caller
from impetus_service.kit.db import Unavailable
from impetus_service.kit.jobs import ENDED, JobPath, JobSummary, summary_of
from impetus_service.kit.problems import ClientLeft, Problem, unavailable
from impetus_service.kit.streams import SSE, write
from impetusd.worker.draining import DRAINING

STREAMS = asyncio.Semaphore(100)  # in a worker
LOOK_EVERY = 1.0  # seconds between two looks at the job
PING_EVERY = 15.0  # seconds of silence, after which some proxies would cut
RETRY_MS = 2000  # that a client waits before it connects again

api = Api("jobs")


@api.get("/api/jobs/{id}/events", entity="job", raises=(404,), content_types=("text/event-stream",))
async def watch_job(me: Caller, path: JobPath, request: web.Request) -> web.StreamResponse:
    """The progress of a job as server-sent events: `progress` with each change, and `end` as the last.

    The data of each is the job as a list shows it.
    """
    job = await summary_of(me, path.id)
    if STREAMS.locked():
        raise unavailable("too many jobs are being watched in this worker", "busy")
    async with STREAMS:
        response = web.StreamResponse(headers=SSE)
        await response.prepare(request)
        await write(response, b"retry: %d\n\n" % RETRY_MS)
        await _tell(request, me, job, response)
    return response


async def _tell(request: web.Request, me: Caller, job: JobSummary, response: web.StreamResponse) -> None:
    """Send `job`, and each change of it, until it has ended, may not be seen any more, or this worker drains."""
    told, last = None, time.monotonic()
    while True:
        if job != told:
            event = b"end" if job.state in ENDED else b"progress"
            await write(response, b"event: %s\ndata: %s\n\n" % (event, msgspec.json.encode(job)))
            told, last = job, time.monotonic()
        elif time.monotonic() - last >= PING_EVERY:
            await write(response, b": still here\n\n")
            last = time.monotonic()
        if job.state in ENDED or await _drains(request, LOOK_EVERY):
            return
        if request.transport is None or request.transport.is_closing():
            raise ClientLeft("the client left")
        with suppress(Unavailable):
            try:
                me = await request.app[AUTHENTICATE](request, "job.read", "job")
                job = await summary_of(me, job.id)
            except Problem:
                return


async def _drains(request: web.Request, within: float) -> bool:
    """Whether the worker drains, or begins to within so many seconds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            await request.app[DRAINING].wait()
    return request.app[DRAINING].is_set()
