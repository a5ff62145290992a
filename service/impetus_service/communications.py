"""What the members of a company write to each other."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from impetus_service.company import period
from impetus_service.kit.api import Api, Id, Identified
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.db import Change
from impetus_service.kit.idempotency import IdempotencyHeaders, once
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import Problem, not_found
from impetus_service.kit.statements import containing
from impetus_service.kit.validation import Input, Instant, Moment, Zone
from impetus_service.queries import communications as queries

Subject = Annotated[str, msgspec.Meta(min_length=1, max_length=500, examples=["Order 7"])]
Body = Annotated[str, msgspec.Meta(max_length=100_000, examples=["It was sent today."])]
Kind = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z][a-z0-9_-]{0,49}$",
        description="up to 50 characters of a-z, 0-9, _ and -, starting with a letter",
        examples=["message"],
    ),
]

api = Api("communications")


class Communication(Identified):
    author_id: int | None
    kind: Kind
    subject: Subject
    body: Body
    created_at: Moment
    updated_at: Moment | None


class NewCommunication(Input):
    subject: Subject
    body: Body
    kind: Kind = "message"


class CommunicationChange(Input):
    """What is missing, or null, stays as it is."""

    subject: Subject | None = None
    body: Body | None = None
    kind: Kind | None = None


class CommunicationPath(Input):
    id: Id


class CommunicationsQuery(Input, rename={"from_": "from"}):
    """`from` is included, `to` is not, unless it is a date: then that day is. `text` is looked for in subject and body."""

    author: Id | None = None
    kind: str | None = None
    from_: Instant | None = None
    to: Instant | None = None
    text: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    time_zone: Zone | UnsetType = UNSET  # of dates; else the company's


@api.post("/api/communications", status=201, entity="communication", raises=(409,), headers=("Idempotent-Replayed",))
async def create_communication(
    request: web.Request, me: Caller, body: NewCommunication, headers: IdempotencyHeaders
) -> Communication | web.Response:
    """Write to the own company. Sent twice with the same Idempotency-Key it is written once, and answered alike."""

    async def add(change: Change) -> Communication:
        row = await change.fetchrow(queries.ADD, me.user_id, body.kind, body.subject, body.body)
        change.record(row["id"], f"kind {body.kind}")
        return Communication(**row)

    return await once(request, me, headers.key, body, add)


@api.get("/api/communications", entity="communication")
async def list_communications(me: Caller, query: CommunicationsQuery, page: Page) -> Paged[Communication]:
    """What was written in the own company."""
    given = {
        "author": query.author,
        "kind": query.kind,
        **await period(me.company, query.from_, query.to, query.time_zone),
        "text": containing(query.text) if query.text else None,
    }
    return await listed(me.company, queries.LISTING, given, page, Communication)


@api.get("/api/communications/{id}", entity="communication", raises=(404,))
async def get_communication(me: Caller, path: CommunicationPath) -> Communication:
    """One communication of the own company."""
    row = await me.company.fetchrow(queries.GET, path.id)
    if row is None:
        raise not_found("communication")
    return Communication(**row)


@api.patch("/api/communications/{id}", entity="communication", raises=(404,))
async def update_communication(me: Caller, path: CommunicationPath, body: CommunicationChange) -> Communication:
    """Change what one has written oneself."""
    async with me.company.transaction() as change:
        before = await change.fetchrow(queries.LOCK, path.id)
        if before is None:
            raise not_found("communication")
        if before["author_id"] != me.user_id:
            raise Problem(403, "only its author can change it", "not_the_author")
        wanted = {"kind": body.kind, "subject": body.subject, "body": body.body}
        row = before
        if any(value not in {None, before[name]} for name, value in wanted.items()):
            row = await change.fetchrow(queries.UPDATE, path.id, *wanted.values())
        what = [f"{name} {before[name]} → {row[name]}" for name in ("kind", "subject") if row[name] != before[name]]
        if row["body"] != before["body"]:
            what.append(f"body changed, {len(before['body'])} → {len(row['body'])} characters")
        change.record(path.id, "; ".join(what) or "nothing changed")
    return Communication(**row)


@api.delete("/api/communications/{id}", status=204, entity="communication", raises=(404,))
async def delete_communication(me: Caller, path: CommunicationPath) -> None:
    """Delete what one has written oneself; administrators also what others have."""
    async with me.company.transaction() as change:
        row = await change.fetchrow(queries.LOCK, path.id)
        if row is None:
            raise not_found("communication")
        if row["author_id"] != me.user_id and me.level < Rank.ADMINISTRATOR:
            raise Problem(403, "only its author can change it", "not_the_author")
        await change.execute(queries.DELETE, path.id)
        of = "" if row["author_id"] == me.user_id else f" of user {row['author_id']}"
        change.record(path.id, f"kind {row['kind']}{of}: {row['subject']}", severity="warning")
