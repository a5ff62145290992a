"""GET /metrics: what this worker counts, as Prometheus reads it. A pool has one such set a worker, told apart by a label."""

from __future__ import annotations

import os
from collections.abc import Iterator

from aiohttp import web

from impetus_service.kit.api import Api
from impetus_service.kit.audit import JOURNAL
from impetus_service.kit.breaker import State
from impetus_service.kit.cache import CACHE
from impetus_service.kit.health import memory
from impetus_service.kit.outgoing import OUTGOING

api = Api("service")


@api.get("/metrics", content_types=("text/plain",), any_query=True)
async def metrics(request: web.Request) -> web.Response:
    """What this worker counts, in Prometheus' text format."""
    text = "".join(f"{line}\n" for line in _lines(request.app))
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _lines(app: web.Application) -> Iterator[str]:
    worker = os.environ.get("IMPETUSD_NAME", "")
    yield "# HELP impetus_breaker State of the circuit breaker of a target: 1 for the current state, else 0."
    yield "# TYPE impetus_breaker gauge"
    for target, current in app[OUTGOING].breakers().items():
        for state in State:
            labels = f'worker="{_quoted(worker)}",target="{_quoted(target)}",state="{state.value}"'
            yield f"impetus_breaker{{{labels}}} {int(state.value == current)}"
    for name, kind, what, value in (
        ("impetus_cache_entries", "gauge", "Entries of the in-memory cache.", len(app[CACHE])),
        ("impetus_cache_hits_total", "counter", "Cache hits.", app[CACHE].hits),
        ("impetus_cache_misses_total", "counter", "Cache misses.", app[CACHE].misses),
        ("impetus_audit_waiting", "gauge", "Log entries not yet written to the database.", app[JOURNAL].waiting),
        ("impetus_audit_dropped_total", "counter", "Log entries that were lost.", app[JOURNAL].dropped),
        ("impetus_resident_bytes", "gauge", "Resident memory.", int(memory().rss_mb * 1_000_000)),
    ):
        yield f"# HELP {name} {what}"
        yield f"# TYPE {name} {kind}"
        yield f'{name}{{worker="{_quoted(worker)}"}} {value}'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
