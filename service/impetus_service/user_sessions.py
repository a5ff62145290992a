"""The sessions that are open: a user's own, and for an administrator those of users of a lower level."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from impetus_service.kit.api import Api, Id, Identified
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import Problem, not_found
from impetus_service.kit.validation import Input, Moment
from impetus_service.queries import accounts as queries
from impetus_service.users import ById, find_user

api = Api("sessions")


class OpenSession(Identified):
    """`current` is the one that asks. `address` and `user_agent` are of its login."""

    current: bool
    address: Annotated[str, msgspec.Meta(examples=["192.0.2.1"])] | None
    user_agent: Annotated[str, msgspec.Meta(examples=["Mozilla/5.0"])] | None
    created_at: Moment
    expires_at: Moment


class Ended(msgspec.Struct):
    """How many sessions were ended."""

    ended: int


class OfUser(Input):
    id: Id
    session: Id


@api.get("/api/auth/sessions")
async def list_my_sessions(me: Caller, page: Page) -> Paged[OpenSession]:
    """The own sessions."""
    return await _sessions(me, me.user_id, page)


@api.delete("/api/auth/sessions", entity="user", action="user.end_sessions")
async def end_my_other_sessions(me: Caller) -> Ended:
    """End all own sessions but the one that asks."""
    async with me.company.transaction() as change:
        ended = await change.execute(queries.END_OTHER_SESSIONS, me.user_id, me.session_id)
        change.record(me.user_id, f"{ended} other sessions", severity="warning")
    return Ended(ended)


@api.delete("/api/auth/sessions/{id}", status=204, entity="session", action="session.end", raises=(404,))
async def end_my_session(me: Caller, path: ById) -> None:
    """End an own session."""
    await _end(me, me.user_id, path.id)


@api.get("/api/users/{id}/sessions", rank=Rank.ADMINISTRATOR, entity="session", raises=(404,))
async def list_sessions(me: Caller, path: ById, page: Page) -> Paged[OpenSession]:
    """The sessions of a user of a lower level."""
    await _refuse_unless_lower(me, path.id)
    return await _sessions(me, path.id, page)


@api.delete(
    "/api/users/{id}/sessions", rank=Rank.ADMINISTRATOR, entity="user", action="user.end_sessions", raises=(404,)
)
async def end_sessions(me: Caller, path: ById) -> Ended:
    """End all sessions of a user of a lower level."""
    await _refuse_unless_lower(me, path.id)
    async with me.company.transaction() as change:
        ended = await change.execute(queries.END_SESSIONS, path.id)
        change.record(path.id, f"{ended} sessions", severity="warning")
    return Ended(ended)


@api.delete(
    "/api/users/{id}/sessions/{session}", status=204, rank=Rank.ADMINISTRATOR,
    entity="session", action="session.end", raises=(404,),
)  # fmt: skip
async def end_session(me: Caller, path: OfUser) -> None:
    """End a session of a user of a lower level."""
    await _refuse_unless_lower(me, path.id)
    await _end(me, path.id, path.session)


async def _sessions(me: Caller, user_id: int, page: Page) -> Paged[OpenSession]:
    given: dict[str, Any] = {"user": user_id, "live": True}
    found = await listed(me.company, queries.SESSIONS, given, page, OpenSession)
    for each in found.items:
        each.current = each.id == me.session_id
    return found


async def _end(me: Caller, user_id: int, session_id: int) -> None:
    async with me.company.transaction() as change:
        if not await change.execute(queries.END_SESSION_OF, user_id, session_id):
            raise not_found("session")
        change.record(session_id, f"of user {user_id}", severity="warning")


async def _refuse_unless_lower(me: Caller, user_id: int) -> None:
    user = await find_user(me.company, user_id)
    if user.level >= me.level:
        raise Problem(403, f"the user's role has level {user.level}, yours has level {me.level}", "level_too_low")
