"""The gateway's certificate, read again when it was renewed.

Connections that are open keep the one that they began with. Where the new files do not fit each other (yet), the ones before
stay, and the log says so once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl

from aiohttp import web

from impetusd.gateway.beside import beside
from impetusd.supervisor.threads import NoAnswer, Threads
from impetusd.worker.tls import TLS

LOOK = 30.0  # seconds between two looks at the files
WITHIN = 10.0  # seconds for the disk

_log = logging.getLogger("impetusd.gateway")


class Certificate:
    """A context that serves with what is in the two files. Raises OSError, ssl.SSLError where they cannot be used."""

    def __init__(self, cert: str, key: str) -> None:
        self._files = cert, key
        self.context = _context()
        self._stamp = self._now()
        self.context.load_cert_chain(cert, key)
        self._threads = Threads("certificate", 1)
        self._complained = ""

    def _now(self) -> tuple[tuple[int, int, int, int], ...]:
        found = (os.stat(path) for path in self._files)
        return tuple((there.st_dev, there.st_ino, there.st_mtime_ns, there.st_size) for there in found)

    def renew(self) -> bool:
        """Whether the files have changed, and are in use now. Raises OSError, ssl.SSLError; then nothing changes."""
        now = self._now()
        if now == self._stamp:
            return False
        _context().load_cert_chain(*self._files)  # whether they fit: the one in use must not be left half changed
        self.context.load_cert_chain(*self._files)
        self._stamp = now
        return True

    async def follow(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK)
            await self.look()

    async def look(self) -> None:
        """Once."""
        why = ""
        try:
            if await self._threads.run(self.renew, WITHIN):
                _log.info("the certificate %s was renewed", self._files[0])
        except (OSError, NoAnswer) as error:  # ssl.SSLError is an OSError
            why = str(error)
        if why and why != self._complained:
            _log.warning(
                "the certificate in %s cannot be used, so the previous one stays in use: %s", self._files[0], why
            )
        self._complained = why


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def install(app: web.Application, cert: str, key: str, plain: str) -> None:
    """Have the worker speak TLS on each TCP socket but `plain`, HOST:PORT. RuntimeError if the files cannot be used."""
    try:
        certificate = Certificate(cert, key)
    except OSError as error:
        raise RuntimeError(f"tls_cert = {cert} and tls_key = {key} cannot be used: {error}") from None
    port = plain.rpartition(":")[2]

    def chosen(sock: socket.socket) -> ssl.SSLContext | None:
        if sock.family == socket.AF_UNIX or (port.isdecimal() and sock.getsockname()[1] == int(port)):
            return None
        return certificate.context

    app[TLS] = chosen
    beside(app, certificate.follow)
