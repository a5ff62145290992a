"""The company that a session belongs to."""

from __future__ import annotations

from datetime import datetime

import msgspec
from aiohttp import web

from impetus_service.kit.api import Api, Identified
from impetus_service.kit.cache import CACHE
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.validation import Input
from impetus_service.queries import accounts as queries
from impetus_service.users import Name

SUMMARY_TTL = 30.0  # seconds

api = Api("company")


class CompanyBody(Identified):
    name: str
    created_at: datetime


class CompanyChange(Input):
    name: Name


class Summary(msgspec.Struct):
    """Up to half a minute old."""

    users: int
    communications: int
    latest_communication: datetime | None


@api.get("/api/company")
async def get_company(me: Caller) -> CompanyBody:
    """The own company."""
    return CompanyBody(**await me.company.fetchrow(queries.COMPANY))


@api.patch("/api/company", rank=Rank.ADMINISTRATOR, entity="company")
async def rename_company(me: Caller, body: CompanyChange) -> CompanyBody:
    """Rename the own company."""
    async with me.company.transaction() as change:
        before = await change.fetchrow(queries.LOCK_COMPANY)
        row = await change.fetchrow(queries.RENAME_COMPANY, body.name)
        change.record(row["id"], f"name {before['name']} → {row['name']}")
    return CompanyBody(**row)


@api.get("/api/company/summary")
async def get_summary(request: web.Request, me: Caller) -> Summary:
    """The own company in numbers."""

    async def make() -> Summary:
        return Summary(**await me.company.fetchrow(queries.SUMMARY))

    return await request.app[CACHE].fetch(f"company:{me.company.id}:summary", make, SUMMARY_TTL)
