"""How this worker is. /health tells all and answers within a second whatever the database does; /health/live and
/health/ready, for whoever sends it requests, wait for nothing."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from impetus_service.kit.api import Api
from impetus_service.kit.audit import JOURNAL
from impetus_service.kit.cache import CACHE
from impetus_service.kit.db import DATABASE
from impetus_service.kit.outgoing import OUTGOING
from impetus_service.kit.problems import RETRY_AFTER
from impetusd.worker.draining import DRAINING

STARTED = web.AppKey("impetus.started", float)  # seconds, monotonic
VERSION = web.AppKey("impetus.version", str)  # of the application
# What other parts of the application add to /health: a name, and what gives its value. All are asked at the same time as
# the database; one that has not answered by PARTS_TIMEOUT, or fails, is null.
Parts = dict[str, Callable[[], Awaitable[Any]]]
PARTS = web.AppKey("impetus.health.parts", Parts)

PARTS_TIMEOUT = 0.9  # seconds
SERVER = "database.server"  # the cache's name for the version of the server that last answered

api = Api("service")


class DatabaseHealth(msgspec.Struct):
    ok: bool
    latency_ms: float | None
    error: str | None
    server: str | None
    migrated: bool


class MemoryHealth(msgspec.Struct):
    """MB (10^6 bytes), as the kernel counts it.

    `rss_mb` is everything resident, shared pages included. `heap_mb` is the anonymous part of it (RssAnon): what Python's
    and C's allocators hold, code and mapped files left out. Python itself counts only the blocks of its small-object
    allocator, which says nothing about buffers or fragmentation.
    """

    rss_mb: float
    heap_mb: float


class CacheHealth(msgspec.Struct):
    size: int
    max_entries: int
    hits: int
    misses: int


class AuditHealth(msgspec.Struct):
    """Entries that the database does not have yet, and those that it never will."""

    waiting: int
    dropped: int


class Health(msgspec.Struct):
    status: str
    database: DatabaseHealth
    memory: MemoryHealth
    cache: CacheHealth
    audit: AuditHealth
    breakers: dict[str, Any]
    parts: dict[str, Any]
    rooms: dict[str, Any]  # the same, under the name that it had
    draining: bool
    uptime_s: float
    version: str
    worker: str | None


class Ready(msgspec.Struct):
    ready: bool
    reason: str | None = None


@api.get("/health", also={503: Health}, any_query=True)
async def health(request: web.Request) -> Health | web.Response:
    """How this worker is, with its database, memory and cache.

    200, or 503 with the same body when the database does not answer, or its schema could not be brought up to date.
    """
    app = request.app
    database, cache, journal = app[DATABASE], app[CACHE], app[JOURNAL]
    check, parts = await asyncio.gather(database.check(), _ask_all(app[PARTS]))
    if check.server is not None:
        cache.set(SERVER, check.server, ttl=math.inf)
    error = check.error or (str(database.failure) if database.failure else None)
    body = Health(
        status="unavailable" if error else "ok",
        database=DatabaseHealth(check.ok, check.latency_ms, error, cache.get(SERVER), database.migrated),
        memory=memory(),
        cache=CacheHealth(len(cache), cache.max_entries, cache.hits, cache.misses),
        audit=AuditHealth(journal.waiting, journal.dropped),
        breakers=app[OUTGOING].breakers(),
        parts=parts,
        rooms=parts,
        draining=app[DRAINING].is_set(),
        uptime_s=round(time.monotonic() - app[STARTED], 3),
        version=app[VERSION],
        # Asked now, not at start-up: a parked worker gets its name when it is put to work.
        worker=os.environ.get("IMPETUSD_NAME"),
    )
    if not error:
        return body
    return web.Response(
        body=msgspec.json.encode(body),
        status=503,
        content_type="application/json",
        headers={"Retry-After": str(RETRY_AFTER)},
    )


@api.get("/health/live", any_query=True)
async def live() -> Ready:
    """Whether the worker answers at all; whoever gets another answer, or none, may restart it."""
    return Ready(ready=True)


@api.get("/health/ready", also={503: Ready}, any_query=True)
async def ready(request: web.Request) -> Ready | web.Response:
    """Whether to send requests here: not before the schema is up to date, and not while the worker drains.

    A database that goes away later does not count: what needs it answers 503, and there is no better worker to ask.
    """
    if request.app[DRAINING].is_set():
        return _not_ready("draining: this worker exits once its connections are closed")
    database = request.app[DATABASE]
    if not database.migrated:
        return _not_ready(database.unready)
    return Ready(ready=True)


def _not_ready(reason: str) -> web.Response:
    body = msgspec.json.encode(Ready(ready=False, reason=reason))
    return web.Response(body=body, status=503, content_type="application/json", headers={"Retry-After": "1"})


async def _ask_all(parts: Parts) -> dict[str, Any]:
    """What each has to say by PARTS_TIMEOUT."""
    tasks = {name: asyncio.ensure_future(ask()) for name, ask in parts.items()}
    if tasks:
        _, late = await asyncio.wait(tasks.values(), timeout=PARTS_TIMEOUT)
        for task in late:
            task.cancel()
    return {
        name: None if not task.done() or task.cancelled() or task.exception() else task.result()
        for name, task in tasks.items()
    }


def memory() -> MemoryHealth:
    """This process's."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file)
    kib = {name: int(fields[name].split()[0]) for name in ("VmRSS", "RssAnon")}
    return MemoryHealth(round(kib["VmRSS"] * 1024 / 1e6, 1), round(kib["RssAnon"] * 1024 / 1e6, 1))
