"""The application that the pool runs: `app = impetus_service.app:create_app`. Puts the parts together, and nothing else."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from aiohttp import web

import impetus_service.kit  # noqa: F401 - first, as it says which packages are missing
from impetus_service import admin_logs, auth, communications, company, roles, user_sessions, users
from impetus_service.job_kinds import KINDS
from impetus_service.kit import chat, job_events, jobs
from impetus_service.kit.application import STANDARD, make_application
from impetus_service.kit.cache import CACHE
from impetus_service.kit.db import DATABASE
from impetus_service.kit.health import PARTS
from impetus_service.passwords import PASSWORDS, Passwords
from impetus_service.schema import shipped
from impetus_service.sessions import COOKIE, authenticate
from impetus_service.settings import SETTINGS, Settings
from impetusd import __version__

APIS = [
    *STANDARD,
    auth.api,
    user_sessions.api,
    company.api,
    users.api,
    roles.api,
    communications.api,
    admin_logs.api,
    jobs.api_of(KINDS),
    job_events.api,
    chat.api,
]


def create_app() -> web.Application:
    """The service, configured by the environment. Raises SettingsError, whose message is for the operator."""
    settings = Settings.from_environment(os.environ)
    app = make_application(
        settings,
        title="Impetus",
        version=__version__,
        migrations=shipped(),
        apis=APIS,
        authenticate=authenticate,
        cookie=COOKIE,
    )
    app[SETTINGS] = settings
    app[PASSWORDS] = Passwords()
    app[PARTS]["jobs"] = lambda: app[CACHE].fetch("jobs.backlog", lambda: jobs.backlog(app[DATABASE]), ttl=5)
    app.cleanup_ctx.append(_passwords)
    return app


async def _passwords(app: web.Application) -> AsyncIterator[None]:
    yield
    app[PASSWORDS].close()
