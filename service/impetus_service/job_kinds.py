"""The kinds of jobs: an export to a file, a report, embeddings in batches. A kind is declared here, once, and nowhere else.

    @kind("/api/jobs/reports", rank=Rank.ADMINISTRATOR)
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
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

from impetus_service.admin_logs import FORMATS, TABLES, Export
from impetus_service.kit import job_files
from impetus_service.kit import job_queries as queries
from impetus_service.kit.db import Company
from impetus_service.kit.provider import Embeddings, Provider, ProviderError
from impetus_service.kit.validation import Input, Instant, from_builtins
from impetus_service.queries import reports
from impetus_service.queries.logs import LISTING, SHOWN
from impetus_service.sessions import Rank

EVERYTHING = 2**62  # rows
CHUNK = 2000  # rows that are in memory
BATCH, BATCH_BYTES = 100, 1_000_000  # texts that the provider is asked about at once, and their bytes
TEXTS_BYTES = 8 * 1024**2  # of the body with the texts of a job
REPORT_ROWS = 10_000
PROGRESS_EVERY = 0.5  # seconds between two writes of the progress

REPORTS = {
    "audit": reports.AUDIT,
    "data-access": reports.ACCESS,
    "communications": reports.COMMUNICATIONS,
}


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


Do = TypeVar("Do", bound=Callable[..., Awaitable[Any]])
KINDS: dict[str, Kind] = {}


def kind(path: str, *, rank: int = Rank.MEMBER, body_max: int | None = None) -> Callable[[Do], Do]:
    """Declare the decorated coroutine, over a Run and the parameters `wanted`, as what does jobs of the kind of its name."""

    def declare(do: Do) -> Do:
        KINDS[do.__name__] = Kind(do.__name__, path, rank, body_max, get_type_hints(do)["wanted"], do)
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


@kind("/api/jobs/exports", rank=Rank.ADMINISTRATOR)
async def export(run: Run, wanted: Export) -> Any:
    """Every entry of a log that the filters leave, newest first, as a file of any size."""
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


class ReportJob(Input, rename={"from_": "from"}):
    """Counts of rows by period; `from` is included, `to` is not, unless it is a date: then that day is."""

    of: Literal["audit", "data-access", "communications"]
    by: Literal["day", "week", "month"]
    from_: Instant
    to: Instant


@kind("/api/jobs/reports", rank=Rank.ADMINISTRATOR)
async def report(run: Run, wanted: ReportJob) -> Any:
    """How many rows of which kind there are in each day, week or month."""
    period = wanted.from_.begin, wanted.to.end
    rows = await run.company.fetch(REPORTS[wanted.of], wanted.by, *period, REPORT_ROWS + 1)
    if len(rows) > REPORT_ROWS:
        raise Refused(f"the report has more than {REPORT_ROWS} rows: narrow the period, or take a longer unit")
    return {"rows": [{"period": _day(row["period"]), "what": row["what"], "count": row["count"]} for row in rows]}


class EmbeddingsJob(Input):
    """Up to 10,000 texts, as far as the body has at most TEXTS_BYTES."""

    texts: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=100_000)]], Meta(min_length=1, max_length=10_000)
    ]
    model: Annotated[str, Meta(max_length=200)] | None = None  # else OPENAI_EMBEDDING_MODEL


@kind("/api/jobs/embeddings", body_max=TEXTS_BYTES)
async def embeddings(run: Run, wanted: EmbeddingsJob) -> Any:
    """The embeddings of up to 10,000 texts, as a file with a line for each: {"index": …, "embedding": […]}."""
    decode = msgspec.json.Decoder(Embeddings).decode
    name = run.name("jsonl")
    async with job_files.writing(run.folder, name) as sink:
        for begin, texts in _batches(wanted.texts):
            body: dict[str, Any] = {"input": texts}
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


def _batches(texts: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(index of the first, texts), each of at most BATCH texts and, unless it is one alone, BATCH_BYTES."""
    begin = size = 0
    for index, text in enumerate(texts):
        length = len(text.encode())
        if index > begin and (index - begin >= BATCH or size + length > BATCH_BYTES):
            yield begin, texts[begin:index]
            begin, size = index, 0
        size += length
    yield begin, texts[begin:]


def _day(instant: datetime) -> str:
    return instant.date().isoformat()
