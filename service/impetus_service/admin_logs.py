"""GET /api/admin/logs/…: the audit and the data-access log of the own company, in pages and as a file.

An export is streamed from a server-side cursor: the memory it takes is that of CHUNK rows, whatever its length. It has at
most EXPORT_MAX rows, and says in its head whether there were more; what is larger is a job. While it runs it has one
connection of the pool; so only EXPORTS run at a time in a worker, and a client that does not read is left after STALLED.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from impetus_service.company import period
from impetus_service.kit import addresses
from impetus_service.kit.api import Api, Id, Identified
from impetus_service.kit.audit import JOURNAL
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.db import Company
from impetus_service.kit.formats import CONTENT_TYPES, FORMATS
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import unavailable
from impetus_service.kit.statements import containing
from impetus_service.kit.streams import write
from impetus_service.kit.validation import Input, Instant, Moment, Zone
from impetus_service.queries.logs import LISTING, SHOWN

EXPORT_MAX = 5000  # rows of an answer
CHUNK = 250  # rows that are in memory
EXPORTS = asyncio.Semaphore(2)
TABLES = {"audit": "audit_logs", "data-access": "data_access_logs"}

Text = Annotated[str, msgspec.Meta(max_length=200)]
Severity = Literal["info", "warning", "critical"]

api = Api("logs")


class Filters(Input, rename={"from_": "from"}):
    """`from` is included, `to` is not, unless it is a date: then that day is. `text` is looked for in descriptions."""

    user: Id | None = None
    action: Text | None = None
    entity: Text | None = None
    severity: Severity | None = None
    from_: Instant | None = None
    to: Instant | None = None
    text: Text | None = None
    time_zone: Zone | UnsetType = (
        UNSET  # of dates; else the company's (and not stored with a job, whose worker may be older)
    )

    async def given(self, company: Company) -> dict[str, Any]:
        """Condition of the listing to value."""
        return {
            "user": self.user,
            "action": self.action,
            "entity": self.entity,
            "severity": self.severity,
            **await period(company, self.from_, self.to, self.time_zone),
            "text": containing(self.text) if self.text else None,
        }


class Export(Filters):
    log: Literal["audit", "data-access"] = "audit"
    format: Literal["csv", "jsonl"] = "jsonl"


class LogEntry(Identified):
    user_id: int | None
    action: Annotated[str, msgspec.Meta(examples=["user.update"])]
    entity: Annotated[str, msgspec.Meta(examples=["user"])]
    entity_id: Annotated[str, msgspec.Meta(examples=["7"])] | None
    severity: Severity
    description: Annotated[str, msgspec.Meta(examples=["name Ada → Bea"])]
    address: Annotated[str, msgspec.Meta(examples=["192.0.2.1"])] | None
    request_id: Annotated[str, msgspec.Meta(examples=["9d7ddd239e0f3121"])] | None
    created_at: Moment


@api.get("/api/admin/logs/audit", rank=Rank.ADMINISTRATOR, entity="audit_log")
async def list_audit_logs(me: Caller, query: Filters, page: Page) -> Paged[LogEntry]:
    """Who did what."""
    return await listed(me.company, LISTING["audit_logs"], await query.given(me.company), page, LogEntry)


@api.get("/api/admin/logs/data-access", rank=Rank.ADMINISTRATOR, entity="data_access_log")
async def list_data_access_logs(me: Caller, query: Filters, page: Page) -> Paged[LogEntry]:
    """Who saw what."""
    return await listed(me.company, LISTING["data_access_logs"], await query.given(me.company), page, LogEntry)


@api.get(
    "/api/admin/logs/export",
    rank=Rank.ADMINISTRATOR,
    entity="log_export",
    content_types=tuple(CONTENT_TYPES.values()),
    headers=("Content-Disposition", "X-Export-Limit", "X-Export-Truncated"),
)
async def export_logs(request: web.Request, me: Caller, query: Export) -> web.StreamResponse:
    """At most 5,000 entries as a file, newest first.

    X-Export-Truncated says whether there are more; then narrow the period, or make an export job.
    """
    given, table = await query.given(me.company), TABLES[query.log]
    if EXPORTS.locked():
        raise unavailable("other exports are running in this worker", "busy")
    async with EXPORTS:
        statement, arguments = LISTING[table].count(given, EXPORT_MAX)
        count = await me.company.fetchval(statement, *arguments)
        response = web.StreamResponse(
            headers={
                "Content-Type": CONTENT_TYPES[query.format],
                "Content-Disposition": f'attachment; filename="{query.log}.{query.format}"',
                "X-Export-Limit": str(EXPORT_MAX),
                "X-Export-Truncated": "true" if count > EXPORT_MAX else "false",
            }
        )
        statement, arguments = LISTING[table].page(given, None, EXPORT_MAX, 0)
        encode = FORMATS[query.format]
        async with me.company.cursor(statement, *arguments, prefetch=CHUNK) as rows:
            await response.prepare(request)
            chunk = [SHOWN] if query.format == "csv" else []
            async for row in rows:
                chunk.append(tuple(row) if query.format == "csv" else row)
                if len(chunk) >= CHUNK:
                    await write(response, encode(chunk))
                    chunk.clear()
            await write(response, encode(chunk))
        await response.write_eof()
    request.app[JOURNAL].add(
        "audit_logs", me.company.id, me.user_id, "log.export", table, severity="warning",
        description=f"{min(count, EXPORT_MAX)} rows as {query.format}", address=addresses.address(request),
    )  # fmt: skip
    return response
