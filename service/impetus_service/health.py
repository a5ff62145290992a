"""GET /health: whether this worker can do its work, and with what. Answers within a second whatever the database does."""

from __future__ import annotations

import os
import time
from typing import Any

from aiohttp import web

from impetus_service.api import Api
from impetus_service.cache import CACHE
from impetus_service.outgoing import OUTGOING
from impetus_service.problems import RETRY_AFTER
from impetus_service.sessions import DATABASE
from impetusd import __version__

STARTED = web.AppKey("started", float)  # seconds, monotonic

SERVER = "database.server"  # the cache's name for the version of the server that last answered

api = Api("service")


@api.get("/health")
async def health(request: web.Request) -> web.Response:
    """200, or 503 with the same body when the database does not answer."""
    check = await request.app[DATABASE].check()
    cache = request.app[CACHE]
    if check.server is not None:
        cache.set(SERVER, check.server)
    body = {
        "status": "ok" if check.ok else "unavailable",
        "database": {
            "ok": check.ok,
            "latency_ms": check.latency_ms,
            "error": check.error,
            "server": cache.get(SERVER),
        },
        "memory": memory(),
        "cache": {"size": len(cache), "max_entries": cache.max_entries},
        "breakers": request.app[OUTGOING].breakers(),
        "uptime_s": round(time.monotonic() - request.app[STARTED], 3),
        "version": __version__,
        # Asked now, not at start-up: a parked worker gets its name when it is put to work.
        "worker": os.environ.get("IMPETUSD_NAME"),
    }
    if check.ok:
        return web.json_response(body)
    return web.json_response(body, status=503, headers={"Retry-After": str(RETRY_AFTER)})


def memory() -> dict[str, Any]:
    """This process's memory in MB (10^6 bytes), as the kernel counts it.

    `rss_mb` is everything resident, shared pages included. `heap_mb` is the anonymous part of it (RssAnon): what Python's
    and C's allocators hold, code and mapped files left out. Python itself counts only the blocks of its small-object
    allocator, which says nothing about buffers or fragmentation.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {
        "rss_mb": round(int(fields["VmRSS"].split()[0]) * 1024 / 1e6, 1),
        "heap_mb": round(int(fields["RssAnon"].split()[0]) * 1024 / 1e6, 1),
    }
