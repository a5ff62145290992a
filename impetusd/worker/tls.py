"""Lets an application make its worker speak TLS: `app[TLS]` returns the context for a listening socket, or None for
plain HTTP."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from aiohttp import web

TLS: web.AppKey[Callable[[socket.socket], ssl.SSLContext | None]] = web.AppKey("impetusd.tls")
