"""How an application has its worker speak TLS: `app[TLS]` gives the context for a listening socket, or None for plain HTTP."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from aiohttp import web

TLS: web.AppKey[Callable[[socket.socket], ssl.SSLContext | None]] = web.AppKey("impetusd.tls")
