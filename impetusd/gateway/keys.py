"""What every handler finds in the application."""

from __future__ import annotations

from aiohttp import web

from impetusd.gateway.backend import Backend
from impetusd.gateway.settings import Settings

BACKEND = web.AppKey("backend", Backend)
SETTINGS = web.AppKey("settings", Settings)
