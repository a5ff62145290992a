"""The control method `events`: the ledger, page by page, even for users without access to its files.

A client that follows asks for records after the last one it has, and is answered as soon as there is one.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

from impetusd.core.protocol import EXIT_FAILED, FAILED, ProtocolError
from impetusd.files import ledgerfile
from impetusd.supervisor.disk.ledger import Ledger
from impetusd.supervisor.threads import NoAnswer, Threads

MOST = 4  # threads that read
WITHIN = 20.0  # seconds for the disk
PATIENCE = 10.0  # seconds that a connection is held until an empty page is the answer


class Events:
    """Answers from the files and from what waits for the disk. The files are read in a thread."""

    def __init__(self, ledger: Ledger, path: str) -> None:
        self._ledger = ledger
        self._path = path
        self._threads = Threads("ledger", MOST)
        self._closed = False

    async def page(self, params: dict[str, Any]) -> dict[str, Any]:
        """As `ledgerfile.page`; with `wait` not before there is a record after number `after`, or PATIENCE is over."""
        if params["wait"]:
            await self._wait(params["after"])
        query = ledgerfile.Query(params["names"], params["after"], params["since"], params["last"])
        look = functools.partial(ledgerfile.page, self._path, query, self._ledger.waiting())
        try:
            found = await self._threads.run(look, WITHIN)
        except NoAnswer as error:
            raise ProtocolError(FAILED, f"cannot read {self._path}: {error}", EXIT_FAILED) from None
        except OSError as error:
            raise ProtocolError(FAILED, f"cannot read {self._path}: {error.strerror}", EXIT_FAILED) from None
        return {"records": found.records, "last": found.last, "more": found.more, "damaged": found.damaged}

    async def _wait(self, after: int) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while self._ledger.last <= after and not self._closed:
                    self._ledger.news.clear()
                    await self._ledger.news.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Keep nobody waiting any more."""
        self._closed = True
        self._ledger.news.set()
