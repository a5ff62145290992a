"""The control method `tail`: a slot's output, for peers whose role allows it, whatever the permissions of its files.

The disk is read in threads, which may hang; each page is bounded, and read only once the one before it was taken.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from impetusd.core import redact
from impetusd.core.protocol import EXIT_FAILED, EXIT_USAGE, FAILED, ProtocolError
from impetusd.core.stream import lines_line
from impetusd.files.logpage import Log, Page
from impetusd.files.rotated import time_of
from impetusd.supervisor.api.control import Flow
from impetusd.supervisor.api.feed import send
from impetusd.supervisor.slots.entry import Entry
from impetusd.supervisor.threads import NoAnswer, Threads

MOST = 8  # threads that read
WITHIN = 10.0  # seconds for the disk
AGAIN = 0.25  # seconds between deliveries to a client that follows
SPARING = 10  # times what a page took, until the next one is read
OWN = "impetusd"  # the daemon's own log
NOTHING = Page([], 0, 0, "", anew=False, more=False)._asdict()  # there is no file yet


class Tailing:
    """Answers `tail`, and goes on with it for those who follow."""

    def __init__(
        self,
        find: Callable[[list[str]], list[Entry]],
        files: Callable[[Entry], tuple[str, str]],
        own: str,
    ) -> None:
        """`find` as `Names.find`; `files`: where a slot's stdout and stderr go; `own`: the daemon's own log."""
        self._find = find
        self._files = files
        self._own = own
        self._threads = Threads("tail", MOST)
        self._loop = asyncio.get_running_loop()

    async def tail(self, params: dict[str, Any]) -> Mapping[str, Any] | Flow:
        """A page, from `offset` of `file` on, or the last one; with `follow` each that comes after it."""
        path, secrets = self.where(params["name"], params["stream"])
        log = Log(path, params["file"], params["offset"])
        try:
            first = await self._read(log, path, secrets)
        except BaseException:
            log.close()
            raise
        result = {"path": path, **(first or NOTHING)}
        if not params["follow"]:
            log.close()
            return result
        return Flow(result, lambda writer: self._follow(log, path, secrets, writer))

    def where(self, name: str, stream: str) -> tuple[str, tuple[str, ...]]:
        """The file, and what must not be seen of it."""
        if name == OWN:
            return self._own, ()
        found = self._find([name])
        if len(found) > 1:
            names = ", ".join(entry.name for entry in found[:5])
            raise ProtocolError(FAILED, f"{name} has several slots, each with its own log: {names}", EXIT_USAGE)
        path = self._files(found[0])[stream == "error"]
        if not path.startswith("/"):
            raise ProtocolError(FAILED, f"the output of {name} goes to {path}, not to a file", EXIT_FAILED)
        known = found[0].secrets or redact.secrets(found[0].unit.env.items(), found[0].unit.command)
        return path, known

    async def _read(self, log: Log, path: str, secrets: Iterable[str]) -> dict[str, Any] | None:
        def read() -> dict[str, Any] | None:
            page = log.read()
            return _as_json(page, secrets) if page is not None else None

        try:
            return await self._threads.run(read, WITHIN)
        except NoAnswer as error:
            raise ProtocolError(FAILED, f"cannot read {path}: {error}", EXIT_FAILED) from None
        except OSError as error:
            raise ProtocolError(FAILED, f"cannot read {path}: {error.strerror}", EXIT_FAILED) from None

    async def _follow(self, log: Log, path: str, secrets: Iterable[str], writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                began = self._loop.time()
                page = await self._read(log, path, secrets)
                took = self._loop.time() - began
                if page is not None:
                    await send(writer, lines_line(page))
                await asyncio.sleep(AGAIN if page is None else took * SPARING)
        except ProtocolError as error:
            raise ConnectionAbortedError(error.message) from None
        finally:
            log.close()


def _as_json(page: Page, secrets: Iterable[str]) -> dict[str, Any]:
    """As JSON. `offsets`: where each line begins; `times`: when it was written, null where it does not say."""
    lines = [redact.text(line.decode("utf-8", "backslashreplace"), secrets) for line in page.lines]
    offsets = list(itertools.accumulate((len(line) + 1 for line in page.lines[:-1]), initial=page.offset))
    places = {"offsets": offsets[: len(lines)], "times": list(map(time_of, page.lines))}
    return {**page._asdict(), "lines": lines, **places}
