"""What the jobs do: an export to a file, a report, embeddings in batches. Runs in job workers, never in a web worker.

Each is a coroutine over a Run. It calls `progress` between batches, which also tells it, by an exception, that it is to
stop: cancelled by its user, taken over by another worker, or because this worker ends. It raises Refused for what no
further attempt would better; any other error is tried again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from impetus_service import job_files
from impetus_service.admin_logs import FORMATS, TABLES, Export
from impetus_service.db import Company
from impetus_service.jobs import EmbeddingsJob, ReportJob
from impetus_service.provider import Embeddings, Provider, ProviderError
from impetus_service.queries import jobs as queries
from impetus_service.queries.logs import LISTING, SHOWN
from impetus_service.validation import from_builtins

EVERYTHING = 2**62  # rows
CHUNK = 2000  # rows that are in memory
BATCH = 100  # texts that the provider is asked about at once
REPORT_ROWS = 10_000
PROGRESS_EVERY = 0.5  # seconds between two writes of the progress

REPORTS = {
    "audit": queries.REPORT_AUDIT,
    "data-access": queries.REPORT_ACCESS,
    "communications": queries.REPORT_COMMUNICATIONS,
}


class Refused(Exception):
    """The job cannot be done, however often it is tried: the text says why."""


class Gone(Exception):
    """The job is no longer this run's: it was cancelled, or another worker has it."""


class Stopping(Exception):
    """This worker ends; another one is to begin anew."""


@dataclass
class Run:
    """One attempt of one job."""

    id: int
    attempt: int
    run: int  # of all its runs, also those before it was requeued
    parameters: Any
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


async def export(run: Run) -> Any:
    """Every entry of a log that the filters leave, newest first, of one instant."""
    wanted = msgspec.convert(run.parameters, Export, dec_hook=from_builtins)
    listing, given, encode = LISTING[TABLES[wanted.log]], wanted.given(), FORMATS[wanted.format]
    statement, arguments = listing.count(given, EVERYTHING)
    total = await run.company.fetchval(statement, *arguments)
    statement, arguments = listing.page(given, None, EVERYTHING, 0)
    as_tuples = wanted.format == "csv"
    name = run.name(wanted.format)
    rows = 0
    async with (
        job_files.writing(run.folder, name) as sink,
        run.company.cursor(statement, *arguments, prefetch=CHUNK) as cursor,
    ):
        chunk: list[Any] = [SHOWN] if as_tuples else []
        async for row in cursor:
            rows += 1
            chunk.append(tuple(row) if as_tuples else row)
            if len(chunk) >= CHUNK:
                await sink.write(encode, chunk)
                chunk = []
                await run.progress(rows, total)
        await sink.write(encode, chunk)
    run.file = name
    return {"rows": rows, "bytes": sink.bytes}


async def report(run: Run) -> Any:
    """How many rows of which kind there are in each day, week or month."""
    wanted = msgspec.convert(run.parameters, ReportJob, dec_hook=from_builtins)
    period = wanted.from_.begin, wanted.to.end
    rows = await run.company.fetch(REPORTS[wanted.of], wanted.by, *period, REPORT_ROWS + 1)
    if len(rows) > REPORT_ROWS:
        raise Refused(f"the report has more than {REPORT_ROWS} rows: narrow the period, or take a longer unit")
    return {"rows": [{"period": _day(row["period"]), "what": row["what"], "count": row["count"]} for row in rows]}


async def embeddings(run: Run) -> Any:
    """A file with a line for each text: {"index": …, "embedding": […]}."""
    wanted = msgspec.convert(run.parameters, EmbeddingsJob)
    decode = msgspec.json.Decoder(Embeddings).decode
    name = run.name("jsonl")
    async with job_files.writing(run.folder, name) as sink:
        for begin in range(0, len(wanted.texts), BATCH):
            body: dict[str, Any] = {"input": wanted.texts[begin : begin + BATCH]}
            if wanted.model:
                body["model"] = wanted.model
            try:
                answer = decode(await run.provider.embed(body))
            except ProviderError as error:
                if error.status == 400:
                    raise Refused(str(error)) from error
                raise
            lines = [{"index": begin + each.index, "embedding": each.embedding} for each in answer.data]
            await sink.write(msgspec.json.Encoder().encode_lines, lines)
            await run.progress(begin + len(lines), len(wanted.texts))
    run.file = name
    return {"texts": len(wanted.texts), "bytes": sink.bytes}


KINDS: dict[str, Callable[[Run], Awaitable[Any]]] = {"export": export, "report": report, "embeddings": embeddings}


def _day(instant: datetime) -> str:
    return instant.date().isoformat()
