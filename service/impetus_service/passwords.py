"""Passwords at rest: scrypt, which costs whoever steals the table memory for each guess.

16 MB and five passes are what OWASP asks for at least; a guess takes some 0.2 s of a core. It is computed in threads, of
which there are few, so that logins can neither fill the memory nor take the CPU from all other requests.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

from impetus_service.kit.problems import unavailable

N, R, P = 2**14, 8, 5  # 128 * N * R bytes, P passes
THREADS = 2  # of a worker
MAX_WAITING = 20  # more are told to come again
_MAXMEM = 64 * 1024**2  # bytes that OpenSSL may use for one


class Passwords:
    """Makes and checks what is kept of passwords, for one worker."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="impetus.passwords")
        self._waiting = 0

    async def hashed(self, password: str) -> str:
        """What to keep of `password`: the parameters, a salt and the hash. Raises Problem 503 under too many logins."""
        salt = os.urandom(16)
        digest = await self._in_thread(password, salt, N, R, P)
        return _written(salt, digest)

    async def matches(self, password: str, kept: str | None) -> bool:
        """Whether `kept` is of `password`; None, for an account that does not exist, takes as long. Raises Problem 503."""
        _, n, r, p, salt, digest = (kept or _written(bytes(16), bytes(32))).split("$")
        found = await self._in_thread(password, base64.b64decode(salt), int(n), int(r), int(p))
        return hmac.compare_digest(found, base64.b64decode(digest)) and kept is not None

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
        if self._waiting >= MAX_WAITING:
            raise unavailable("too many logins at once", "busy", retry_after=2)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, _scrypt, password, salt, n, r, p)
        finally:
            self._waiting -= 1


PASSWORDS = web.AppKey("impetus.passwords", Passwords)


def outdated(kept: str) -> bool:
    """Whether `kept` was made with other parameters than a new one would be."""
    return kept.split("$")[:4] != _written(b"", b"").split("$")[:4]


def _written(salt: bytes, digest: bytes) -> str:
    return f"scrypt${N}${R}${P}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(password.encode(errors="surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=_MAXMEM, dklen=32)
