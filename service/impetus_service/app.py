"""The application that the pool runs: `app = impetus_service.app:create_app`. Puts the rooms together, and nothing else."""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING

from aiohttp import web

from impetus_service.cache import Cache
from impetus_service.db import Database
from impetus_service.health import CACHE, DATABASE, STARTED, routes
from impetus_service.outgoing import OUTGOING, Outgoing
from impetus_service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def create_app() -> web.Application:
    """The service, configured by the environment. Raises SettingsError, whose message is for the operator."""
    settings = Settings.from_environment(os.environ)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("impetus").setLevel(settings.log_level)
    app = web.Application()
    app[STARTED] = time.monotonic()
    app[CACHE] = Cache(settings.cache_max_entries)
    app[DATABASE] = Database(settings)
    app[OUTGOING] = Outgoing(settings)
    app.cleanup_ctx.extend([_database, _outgoing])
    app.add_routes(routes)
    return app


async def _database(app: web.Application) -> AsyncIterator[None]:
    await app[DATABASE].start()
    yield
    await app[DATABASE].stop()


async def _outgoing(app: web.Application) -> AsyncIterator[None]:
    await app[OUTGOING].start()
    yield
    await app[OUTGOING].stop()
