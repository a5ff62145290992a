"""The kinds of jobs: an export to a file, a report, embeddings in batches; kit.job_kinds says how one is declared."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Annotated, Any, Literal

import asyncpg
import msgspec
from msgspec import UNSET, Meta, UnsetType

from impetus_service.admin_logs import TABLES, Export
from impetus_service.company import zone_of
from impetus_service.kit import job_files
from impetus_service.kit.caller import Rank
from impetus_service.kit.formats import FORMATS
from impetus_service.kit.job_kinds import Kinds, Refused, Run
from impetus_service.kit.provider import Embeddings, ProviderError, in_parts
from impetus_service.kit.validation import Input, Instant, Zone
from impetus_service.queries import reports
from impetus_service.queries.logs import LISTING, SHOWN

KINDS = Kinds()

EVERYTHING = 2**62  # rows
CHUNK = 2000  # rows that are in memory
TEXTS_BYTES = 8 * 1024**2  # of the body with the texts of a job
REPORT_ROWS = 10_000

REPORTS = {
    "audit": reports.AUDIT,
    "data-access": reports.ACCESS,
    "communications": reports.COMMUNICATIONS,
}


@KINDS.kind("/api/jobs/exports", rank=Rank.ADMINISTRATOR)
async def export(run: Run, wanted: Export) -> Any:
    """Every entry of a log that the filters leave, newest first, as a file of any size."""
    listing, given, encode = LISTING[TABLES[wanted.log]], await wanted.given(run.company), FORMATS[wanted.format]
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
    """Counts of rows by period; `from` is included, `to` is not, unless it is a date: then that day is.

    Days, weeks and months begin in `time_zone`, else in the company's.
    """

    of: Literal["audit", "data-access", "communications"]
    by: Literal["day", "week", "month"]
    from_: Instant
    to: Instant
    time_zone: Zone | UnsetType = UNSET  # so that a worker of the release before, which knows none, can read it


@KINDS.kind("/api/jobs/reports", rank=Rank.ADMINISTRATOR)
async def report(run: Run, wanted: ReportJob) -> Any:
    """How many rows of which kind there are in each day, week or month."""
    zone = await zone_of(run.company, wanted.time_zone)
    begin, end = wanted.from_.within(zone)[0], wanted.to.within(zone)[1]
    try:
        rows = await run.company.fetch(REPORTS[wanted.of], wanted.by, begin, end, REPORT_ROWS + 1, str(zone))
    except asyncpg.InvalidParameterValueError as error:
        raise Refused(f"the database does not know the time zone {zone}") from error
    if len(rows) > REPORT_ROWS:
        raise Refused(f"the report has more than {REPORT_ROWS} rows: use a shorter period or a longer unit")
    found = [{"period": _day(row["period"], zone), "what": row["what"], "count": row["count"]} for row in rows]
    return {"time_zone": str(zone), "rows": found}


class EmbeddingsJob(Input):
    """Up to 10,000 texts, as far as the body has at most TEXTS_BYTES."""

    texts: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=100_000)]], Meta(min_length=1, max_length=10_000)
    ]
    model: Annotated[str, Meta(max_length=200)] | None = None  # else OPENAI_EMBEDDING_MODEL


@KINDS.kind("/api/jobs/embeddings", body_max=TEXTS_BYTES)
async def embeddings(run: Run, wanted: EmbeddingsJob) -> Any:
    """The embeddings of up to 10,000 texts, as a file with a line for each: {"index": …, "embedding": […]}."""
    decode = msgspec.json.Decoder(Embeddings).decode
    name = run.name("jsonl")
    async with job_files.writing(run.folder, name) as sink:
        for begin, texts in in_parts(wanted.texts):
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


def _day(instant: datetime, zone: tzinfo) -> str:
    return instant.astimezone(zone).date().isoformat()
