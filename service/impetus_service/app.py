"""The application that the pool runs: `app = impetus_service.app:create_app`. Puts the rooms together, and nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from impetus_service import admin_logs, auth, communications, company, users
from impetus_service.auth import SETTINGS
from impetus_service.kit import addresses, chat, frame, health, job_events, jobs, logs, metrics, openapi
from impetus_service.kit.audit import JOURNAL, Journal
from impetus_service.kit.cache import CACHE, Cache
from impetus_service.kit.db import Database
from impetus_service.kit.health import ROOMS, STARTED
from impetus_service.kit.outgoing import OUTGOING, Outgoing
from impetus_service.kit.provider import Provider
from impetus_service.passwords import PASSWORDS, Passwords
from impetus_service.sessions import DATABASE
from impetus_service.settings import Settings
from impetusd.worker.draining import DRAINING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY_MAX = 2 * 1024**2  # bytes of a request's body: holds the longest text of a communication, however it is escaped

APIS = [
    health.api,
    auth.api,
    company.api,
    users.api,
    communications.api,
    admin_logs.api,
    jobs.api,
    job_events.api,
    chat.api,
    metrics.api,
    openapi.api,
]


def create_app() -> web.Application:
    """The service, configured by the environment. Raises SettingsError, whose message is for the operator."""
    settings = Settings.from_environment(os.environ)
    logs.hide(*settings.secrets())
    logs.configure(settings.log_level)
    app = web.Application(middlewares=[frame.frame], client_max_size=BODY_MAX)
    app[SETTINGS] = settings
    app[STARTED] = time.monotonic()
    app[ROOMS] = {}
    app[DRAINING] = asyncio.Event()  # the pool's worker sets it; elsewhere nobody does
    app[CACHE] = Cache(settings.cache_max_entries)
    app[DATABASE] = Database(settings)
    app[JOURNAL] = Journal(app[DATABASE], settings.audit_spool_dir)
    app[PASSWORDS] = Passwords()
    app[OUTGOING] = Outgoing(settings)
    app[ROOMS]["jobs"] = lambda: app[CACHE].fetch("jobs.backlog", lambda: jobs.backlog(app[DATABASE]), ttl=5)
    app[chat.PROVIDER] = Provider(settings, app[OUTGOING])
    app[addresses.PROXY_HOPS] = settings.proxy_hops
    app[openapi.DOCUMENT] = msgspec.json.encode(openapi.describe(APIS))
    app.on_response_prepare.append(frame.name_response)
    app.cleanup_ctx.extend([_database, _journal, _passwords, _outgoing])
    for api in APIS:
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


async def _passwords(app: web.Application) -> AsyncIterator[None]:
    yield
    app[PASSWORDS].close()


async def _outgoing(app: web.Application) -> AsyncIterator[None]:
    await app[OUTGOING].start()
    yield
    await app[OUTGOING].stop()
