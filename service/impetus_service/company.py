"""The company that a session belongs to."""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from impetus_service.kit.api import Api, Identified
from impetus_service.kit.cache import CACHE
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.db import Company
from impetus_service.kit.validation import Input, Moment, TimeText, Zone, ZoneText
from impetus_service.queries import accounts as queries
from impetus_service.users import Name

SUMMARY_TTL = 30.0  # seconds

api = Api("company")


class CompanyBody(Identified):
    """`time_zone` is where its days begin and end, wherever a request names no other."""

    name: Name
    time_zone: Annotated[str, msgspec.Meta(examples=["America/Sao_Paulo"])]
    created_at: Moment


class CompanyChange(Input):
    """What is missing, or null, stays as it is."""

    name: Name | None = None
    time_zone: Zone | None = None


class Summary(msgspec.Struct):
    """Up to half a minute old."""

    users: int
    communications: int
    latest_communication: Moment | None


@api.get("/api/company")
async def get_company(me: Caller) -> CompanyBody:
    """The own company."""
    return CompanyBody(**await me.company.fetchrow(queries.COMPANY))


@api.patch("/api/company", rank=Rank.ADMINISTRATOR, entity="company")
async def update_company(me: Caller, body: CompanyChange) -> CompanyBody:
    """Change the own company's name, or its time zone."""
    async with me.company.transaction() as change:
        before = await change.fetchrow(queries.LOCK_COMPANY)
        row = await change.fetchrow(queries.UPDATE_COMPANY, body.name, body.time_zone and str(body.time_zone))
        names = [name for name in ("name", "time_zone") if row[name] != before[name]]
        what = "; ".join(f"{name} {before[name]} → {row[name]}" for name in names)
        change.record(row["id"], what or "nothing changed")
    return CompanyBody(**row)


async def zone_of(company: Company, named: ZoneText | UnsetType) -> tzinfo:
    """The time zone that a request names, or else the company's."""
    if named is UNSET:
        named = ZoneText(await company.fetchval(queries.TIME_ZONE))
    return named.zone


@api.get("/api/company/summary")
async def get_summary(request: web.Request, me: Caller) -> Summary:
    """The own company in numbers."""

    async def make() -> Summary:
        return Summary(**await me.company.fetchrow(queries.SUMMARY))

    return await request.app[CACHE].fetch(f"company:{me.company.id}:summary", make, SUMMARY_TTL)


async def period(
    company: Company, begin: TimeText | None, end: TimeText | None, named: ZoneText | UnsetType
) -> dict[str, datetime | None]:
    """The conditions `from` and `to` of a listing: `begin` is included, `end` is not, unless it is a date: then that day is."""
    if begin is None and end is None:
        return {}
    zone = await zone_of(company, named)
    return {"from": begin.within(zone)[0] if begin else None, "to": end.within(zone)[1] if end else None}
