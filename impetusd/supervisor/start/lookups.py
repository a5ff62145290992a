"""Looks up on the host what starts need (`childspec.LookUp`), without blocking the event loop.

Equal lookups share one thread: if it hangs, only one thread hangs, however many instances start and however often they
are retried. Each start gets an answer that is no older than its request.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TypeAlias

from impetusd.client import ports
from impetusd.core.config.model import Unit
from impetusd.core.reasons import because, said
from impetusd.supervisor.start.childspec import CannotStart, Found, LookUp
from impetusd.supervisor.threads import NoAnswer, Threads

MOST = 32  # threads
WITHIN = 10.0  # seconds for an answer
HOLDER_WITHIN = 2.0  # seconds to find out who has the port that a start failed for

Question: TypeAlias = tuple[object, ...]


class LookUps:
    """The look-ups under way."""

    def __init__(self) -> None:
        self._threads = Threads("look-up", MOST)
        self._asked: dict[Question, LookUp] = {}  # what was asked last
        self._turns: dict[Question, asyncio.Lock] = {}
        self._coming: dict[Question, asyncio.Task[Found]] = {}  # those that have not begun yet

    async def of(self, unit: Unit) -> Found:
        """The host's answers about the unit. Raises CannotStart, also if there is none within WITHIN seconds."""
        question = (unit.user, unit.group, unit.env_file, unit.listen, unit.made and unit.made.folder)
        task = self._coming.get(question)
        if task is None:
            task = self._coming[question] = asyncio.create_task(self._ask(question, unit))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait any more
        try:
            async with asyncio.timeout(WITHIN):
                return await asyncio.shield(task)
        except TimeoutError:
            stage, what = (self._asked[question] if question in self._asked else LookUp(unit)).stage
            raise CannotStart(stage, because("no_answer", within_s=WITHIN), what) from None
        except NoAnswer as error:
            raise CannotStart("look_up", said(str(error))) from None

    async def holder(self, port: int) -> str:
        """Who listens on the port; "" if that cannot be found out soon."""
        try:
            return await self._threads.run(functools.partial(ports.holder, port), HOLDER_WITHIN)
        except NoAnswer:
            return ""

    async def _ask(self, question: Question, unit: Unit) -> Found:
        turn = self._turns.setdefault(question, asyncio.Lock())
        async with turn:
            del self._coming[question]
            look_up = self._asked[question] = LookUp(unit)
            try:
                return await self._threads.run(look_up, None)
            finally:
                if question not in self._coming:
                    del self._turns[question], self._asked[question]
