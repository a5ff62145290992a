"""What the members of a company write to each other."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from impetus_service.kit.api import Api, Id, Identified
from impetus_service.kit.caller import Caller
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import not_found
from impetus_service.kit.validation import Input
from impetus_service.queries import communications as queries

api = Api("communications")


class Communication(Identified):
    author_id: int | None
    kind: str
    subject: str
    body: str
    created_at: datetime


class NewCommunication(Input):
    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    body: Annotated[str, msgspec.Meta(max_length=100_000)]
    kind: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^[a-z][a-z0-9_-]{0,49}$", description="a word of up to 50 of a-z, 0-9, _ and -, a letter first"
        ),
    ] = "message"


class CommunicationPath(Input):
    id: Id


class CommunicationsQuery(Input):
    author: Id | None = None
    kind: str | None = None


@api.post("/api/communications", status=201, entity="communication")
async def create_communication(me: Caller, body: NewCommunication) -> Communication:
    """Write to the own company."""
    async with me.company.transaction() as change:
        row = await change.fetchrow(queries.ADD, me.user_id, body.kind, body.subject, body.body)
        change.record(row["id"], f"kind {body.kind}")
    return Communication(**row)


@api.get("/api/communications", entity="communication")
async def list_communications(me: Caller, query: CommunicationsQuery, page: Page) -> Paged[Communication]:
    """What was written in the own company."""
    return await listed(me.company, queries.LISTING, {"author": query.author, "kind": query.kind}, page, Communication)


@api.get("/api/communications/{id}", entity="communication", raises=(404,))
async def get_communication(me: Caller, path: CommunicationPath) -> Communication:
    """One communication of the own company."""
    row = await me.company.fetchrow(queries.GET, path.id)
    if row is None:
        raise not_found("communication")
    return Communication(**row)
