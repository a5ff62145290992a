"""Requests about log files: where they are, reopen, empty, set who may read them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from impetusd.core.config.model import LogAccess
from impetusd.core.protocol import EXIT_FAILED, FAILED, ProtocolError
from impetusd.linux.priority import WARNING
from impetusd.supervisor.faults import AGAIN
from impetusd.supervisor.logs import stream
from impetusd.supervisor.logs.logaccess import rights_of
from impetusd.supervisor.threads import NoAnswer, Threads

if TYPE_CHECKING:
    from impetusd.supervisor.api.names import Names
    from impetusd.supervisor.logs.writer import Writer
    from impetusd.supervisor.slots.registry import Slots
    from impetusd.supervisor.start.pipes import LogPipes

OWN = "impetusd"  # the daemon's own log
WITHIN = 20.0  # seconds to look up users and groups


class LogFiles:
    """The log files of all slots."""

    def __init__(self, writer: Writer, names: Names, slots: Slots, pipes: LogPipes, own: str) -> None:
        """`own`: the path of the daemon's own."""
        self._writer = writer
        self._faults = slots.faults
        self._names = names
        self._slots = slots
        self._pipes = pipes
        self._own = own

    def logs(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method: where they are."""
        names = [name for name in params["names"] if name != OWN]
        files = []
        for entry in self._names.find(names) if params["names"] else self._slots.entries.values():
            for which, path in zip(("out", "error"), self._pipes.log_files(entry), strict=True):
                if path != stream.STDOUT:
                    files.append({"name": self._slots.shown(entry), "stream": which, "path": path})
        if self._pipes.prefix is not None:
            if not files:
                text = "there are no log files: `impetusd run` writes program output to its standard output and its own log to standard error"
                raise ProtocolError(
                    FAILED, f"{text}; see the log of the container or service that started it", EXIT_FAILED
                )
        elif not params["names"] or OWN in params["names"]:
            files.append({"name": OWN, "stream": "daemon", "path": self._own})
        return {"files": files}

    async def reopen(self, _: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        return {"ok": True, "files": await self._answer(self._writer.reopen)}

    async def flush(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        entries = self._names.find(params["names"]) if params["names"] else self._slots.entries.values()
        paths = sorted({path for entry in entries for path in self._pipes.log_files(entry)} - {*stream.STREAMS})
        failed = await self._answer(functools.partial(self._writer.flush_files, paths))
        return {"ok": not failed, "files": paths, "failed": failed}

    async def _answer(self, ask: Callable[[Callable[[Any], object]], object]) -> Any:
        """The answer of the writer's threads."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def settle(value: Any) -> None:
            if not answer.done():  # the requester may have gone
                answer.set_result(value)

        ask(lambda value: loop.call_soon_threadsafe(self._faults.contain, "log files", "answering", settle, value))
        return await answer

    async def give(self, allowed: LogAccess, folder: str, threads: Threads) -> None:
        """Set the permitted readers on the logs; if the lookup of users fails, repeat it until it succeeds."""
        asked = 0
        while allowed != LogAccess():
            try:
                rights = await threads.run(functools.partial(rights_of, allowed), WITHIN)
            except NoAnswer as error:
                if not asked:
                    text = f"supervisor: looking up log_owner = {allowed.log_owner}: {error}; retrying"
                    self._writer.line(text, WARNING)
                asked += 1
                await asyncio.sleep(AGAIN)
            except (KeyError, ValueError):
                text = f"supervisor: log_owner = {allowed.log_owner}: the user or group no longer exists"
                self._writer.line(text, WARNING)
                return
            else:
                self._writer.give(rights, folder)
                return
