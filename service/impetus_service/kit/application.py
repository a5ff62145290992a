"""An application of the kit's parts: what is around its routes, and what starts and stops with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import msgspec
from aiohttp import web

from impetus_service.kit import addresses, chat, frame, health, idempotency, jobs, logs, metrics, openapi, origins
from impetus_service.kit.api import Api
from impetus_service.kit.audit import JOURNAL, Journal
from impetus_service.kit.cache import CACHE, Cache
from impetus_service.kit.caller import AUTHENTICATE, Authenticate
from impetus_service.kit.db import DATABASE, Database
from impetus_service.kit.migrate import Migration
from impetus_service.kit.outgoing import OUTGOING, Outgoing
from impetus_service.kit.provider import Provider
from impetus_service.kit.settings import Settings, origin_of
from impetusd.worker.draining import DRAINING

BODY_MAX = 2 * 1024**2  # bytes of a request's body: holds a text of 100,000 characters, however it is escaped

STANDARD = (health.api, metrics.api, openapi.api)  # /health, /health/live, /health/ready, /metrics, /openapi.json


def make_application(
    settings: Settings,
    *,
    title: str,
    version: str,
    migrations: Sequence[Migration],
    apis: Sequence[Api],
    authenticate: Authenticate,
    cookie: str = "",
) -> web.Application:
    """The application that has the routes of `apis`; most want STANDARD among them. `cookie` is the name of that of a session,
    where there is one. Its jobs' files, database, cache and clients are in its AppKeys."""
    logs.hide(*settings.secrets())
    logs.configure(settings.log_level)
    app = web.Application(middlewares=[frame.frame], client_max_size=BODY_MAX)
    app[AUTHENTICATE] = authenticate
    app[health.VERSION] = version
    app[health.STARTED] = time.monotonic()
    app[health.PARTS] = {}
    app[DRAINING] = asyncio.Event()  # the pool's worker sets it; elsewhere nobody does
    app[CACHE] = Cache(settings.cache_max_entries)
    app[DATABASE] = Database(settings, migrations)
    app[JOURNAL] = Journal(app[DATABASE], settings.audit_spool_dir)
    app[OUTGOING] = Outgoing(settings)
    app[chat.PROVIDER] = Provider(settings, app[OUTGOING])
    app[jobs.FOLDER] = settings.job_files_dir
    app[addresses.PROXY_HOPS] = settings.proxy_hops
    app[idempotency.LIFETIME] = timedelta(hours=settings.idempotency_hours)
    app[origins.ORIGINS] = origins.Origins(frozenset(settings.cors_origins), origin_of(settings.public_url) or "")
    app[frame.SHAPES] = {"/v1/": chat.as_openai}
    app[openapi.DOCUMENT] = msgspec.json.encode(
        openapi.describe(title, version, apis, server=settings.public_url, cookie=cookie)
    )
    app.on_response_prepare.append(frame.name_response)
    app.cleanup_ctx.extend([_database, _journal, _outgoing])
    for api in apis:
        app.add_routes(api.routes())
    return app


async def _database(app: web.Application) -> AsyncIterator[None]:
    await app[DATABASE].start()
    yield
    await app[DATABASE].stop()


async def _journal(app: web.Application) -> AsyncIterator[None]:
    await app[JOURNAL].start()
    yield
    await app[JOURNAL].stop()


async def _outgoing(app: web.Application) -> AsyncIterator[None]:
    await app[OUTGOING].start()
    yield
    await app[OUTGOING].stop()
