"""The application that the pool `gateway` serves."""

from __future__ import annotations

import ipaddress
import os

from aiohttp import web

from impetusd.client import inherited
from impetusd.client.async_control import through
from impetusd.gateway import (
    explaining,
    guard,
    login,
    logs,
    metrics,
    openapi,
    pages,
    recent,
    remotes,
    rest,
    routes,
    stream,
    supervisord,
    tls,
)
from impetusd.gateway.access import Access
from impetusd.gateway.backend import Backend
from impetusd.gateway.beside import beside
from impetusd.gateway.keys import BACKEND, SETTINGS
from impetusd.gateway.remotes import Remote
from impetusd.gateway.routes import OPEN, Route
from impetusd.gateway.settings import Settings, settings


def create_app() -> web.Application:
    """Of the environment that the worker has. Raises KeyError, ValueError where that is not what impetusd gives it."""
    ours = settings(os.environ)
    return assembled(ours, Backend(through(inherited.number(os.environ))))


def assembled(ours: Settings, backend: Backend) -> web.Application:
    """Of its parts: what passes the guard goes to one of the routes."""
    app = web.Application(client_max_size=guard.LARGEST_BODY)
    app[SETTINGS], app[BACKEND] = ours, backend
    beside(app, backend.run)
    proxies = tuple(map(ipaddress.ip_network, ours.trusted_proxies))
    rules = guard.Rules(frozenset(ours.hosts), bool(ours.tls_cert), proxy=ours.behind_proxy, proxies=proxies)
    guard.install(app, rules, Access(ours.folder, ours.ceiling))
    login.install(app)
    recent.install(app)
    explaining.install(app)
    logs.install(app, backend)
    stream.install(app, backend)
    metrics.install(app, backend)
    remotes.install(app, [Remote(*(each[key] for key in Remote.__slots__)) for each in ours.remotes])
    if ours.tls_cert:
        tls.install(app, ours.tls_cert, ours.tls_key, ours.xmlrpc)
    routes.add(
        app,
        [
            *ROUTES,
            *pages.ROUTES,
            *metrics.ROUTES,
            *login.ROUTES,
            *rest.ROUTES,
            *explaining.ROUTES,
            *logs.ROUTES,
            *remotes.ROUTES,
            *stream.ROUTES,
            openapi.DOCUMENT,
        ],
    )
    supervisord.install(app, ours, backend)  # last: what comes on its listener passes nothing else
    return app


async def health(_: web.Request) -> web.Response:
    """Whether this process serves, for whoever asks; it says nothing of what impetusd runs."""
    return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})


ROUTES = (Route("GET", "/health", OPEN, health, "Whether the gateway is serving.", answer="text/plain"),)
