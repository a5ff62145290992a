"""Notifies an application that its worker leaves: `app[DRAINING]` is set as the drain begins.

From then on it can refuse new connections at its readiness URL, and end what would last for ever: streams of events,
long polls. An application that also runs elsewhere puts its own event there, which is then used.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

DRAINING = web.AppKey("impetusd.draining", asyncio.Event)
