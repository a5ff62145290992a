"""Requests about log files: reopen, empty, set who may read them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from impetusd.core.config.model import LogAccess
from impetusd.linux.priority import WARNING
from impetusd.supervisor.faults import AGAIN, Faults
from impetusd.supervisor.logs import stream
from impetusd.supervisor.logs.logaccess import rights_of
from impetusd.supervisor.threads import NoAnswer, Threads

if TYPE_CHECKING:
    from impetusd.supervisor.logs.writer import Writer

WITHIN = 20.0  # seconds to look up users and groups


class LogFiles:
    """The log files of all slots."""

    def __init__(self, writer: Writer, faults: Faults, paths_of: Callable[[list[str]], Iterable[str]]) -> None:
        """`paths_of(names)`: of the log files of these units and slots; without names of all."""
        self._writer = writer
        self._faults = faults
        self._paths_of = paths_of

    async def reopen(self, _: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        return {"ok": True, "files": await self._answer(self._writer.reopen)}

    async def flush(self, params: dict[str, Any]) -> dict[str, Any]:
        """The control method."""
        paths = sorted({*self._paths_of(params["names"])} - {*stream.STREAMS})
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
                    text = f"supervisor: {error} to who log_owner = {allowed.log_owner} is: asked again"
                    self._writer.line(text, WARNING)
                asked += 1
                await asyncio.sleep(AGAIN)
            except (KeyError, ValueError):
                text = f"supervisor: log_owner = {allowed.log_owner}: this host has no such user or group any more"
                self._writer.line(text, WARNING)
                return
            else:
                self._writer.give(rights, folder)
                return
