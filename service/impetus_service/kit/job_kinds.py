"""The kinds of jobs. A kind is declared once, and nowhere else:

    KINDS = Kinds()

    @KINDS.kind("/api/jobs/reports", rank=Rank.ADMINISTRATOR)
    async def report(run: Run, wanted: ReportJob) -> Any:
        \"\"\"How many rows of which kind there are in each period.\"\"\"

From this follow its route, which checks what is asked for (jobs.py), its description, its name in lists and filters, and
what a job worker calls (job_worker.py): the coroutine runs there, never in a web worker. What it returns is the result.

It calls `progress` between batches, which also tells it, by an exception, that it is to stop: cancelled by its user, taken
over by another worker, or because this worker ends. It raises Refused for what no further attempt would better; any other
error is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import msgspec

from impetus_service.kit import job_queries as queries
from impetus_service.kit.caller import Rank
from impetus_service.kit.db import Company
from impetus_service.kit.provider import Provider
from impetus_service.kit.validation import Input, from_builtins

PROGRESS_EVERY = 0.5  # seconds between two writes of the progress

Do = TypeVar("Do", bound=Callable[..., Awaitable[Any]])


class Refused(Exception):
    """The job cannot be done, however often it is tried: the text says why."""


class Gone(Exception):
    """The job is no longer this run's: it was cancelled, or another worker has it."""


class Stopping(Exception):
    """This worker ends; another one is to begin anew."""


@dataclass(frozen=True)
class Kind:
    """What jobs of one kind are."""

    name: str
    path: str  # POST asks for one there
    rank: int  # the lowest level that may
    body_max: int | None  # bytes of such a request; None: as of any
    parameters: type[Input]
    do: Callable[[Run, Any], Awaitable[Any]]

    def begin(self, run: Run, parameters: str) -> Awaitable[Any]:
        """Do one that was asked for with `parameters`, JSON. Raises msgspec.ValidationError when another release took them."""
        return self.do(run, msgspec.json.decode(parameters, type=self.parameters, dec_hook=from_builtins))


class Kinds(dict[str, Kind]):
    """All of an application, by name."""

    def kind(self, path: str, *, rank: int = Rank.MEMBER, body_max: int | None = None) -> Callable[[Do], Do]:
        """Declare the decorated coroutine, over a Run and the parameters `wanted`, as what does jobs of the kind of its name."""

        def declare(do: Do) -> Do:
            self[do.__name__] = Kind(do.__name__, path, rank, body_max, get_type_hints(do)["wanted"], do)
            return do

        return declare


@dataclass
class Run:
    """One attempt of one job."""

    id: int
    attempt: int
    run: int  # of all its runs, also those before it was requeued
    company: Company
    provider: Provider
    folder: str
    is_stopping: Callable[[], bool]
    file: str | None = None  # the name of the one that was made
    _told: float = 0.0

    async def progress(self, done: int, total: int) -> None:
        """Tell how far it is, now and then. Raises Gone or Stopping."""
        if self.is_stopping():
            raise Stopping
        now = time.monotonic()
        if now - self._told < PROGRESS_EVERY:
            return
        self._told = now
        percent = min(99, done * 100 // max(1, total))  # 100 is for what has succeeded
        if not await self.company.execute(queries.PROGRESS, self.id, self.attempt, self.run, percent):
            raise Gone

    def name(self, suffix: str) -> str:
        """Of the file."""
        return f"{self.id}-{self.run}.{suffix}"
