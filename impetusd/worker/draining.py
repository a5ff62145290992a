"""How an application learns that its worker leaves: `app[DRAINING]` is set as the drain begins.

From then on it can say at its readiness URL that it wants no new connections, and end what would last for ever: streams of
events, long polls. An application that runs elsewhere, too, puts an event of its own there; that one is then used.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

DRAINING = web.AppKey("impetusd.draining", asyncio.Event)
