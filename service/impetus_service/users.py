"""Users of the own company. Who stands higher manages who stands lower; administrators manage each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web

from impetus_service.kit.api import Api, Id, Identified
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.db import Change, Company
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import Fault, Problem, not_found
from impetus_service.kit.statements import containing
from impetus_service.kit.validation import Input, Moment, refusal
from impetus_service.passwords import PASSWORDS
from impetus_service.queries import accounts as queries

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["Ada"])]
RoleName = Annotated[str, msgspec.Meta(min_length=1, max_length=200, examples=["manager"])]
# One @ with something before it and a host after it: whether mail arrives there, only mail can tell.
Email = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[^@\s\x00]{1,64}@[^@\s\x00]{1,255}$",
        max_length=320,
        description="an address like ada@example.com",
        examples=["ada@example.com"],
    ),
]
NewPassword = Annotated[str, msgspec.Meta(min_length=12, max_length=1024, examples=["correct horse battery"])]
Level = Annotated[int, msgspec.Meta(ge=1, le=100, examples=[50])]
Sort = Literal["name", "-name", "email", "-email", "created_at", "-created_at"]

api = Api("users")


class User(Identified):
    email: Email
    name: Name
    role: RoleName
    level: Level
    active: bool
    created_at: Moment


class NewUser(Input):
    email: Email
    name: Name
    role: RoleName
    password: NewPassword

    def __repr__(self) -> str:
        return f"NewUser(email={self.email!r})"


class UserChange(Input):
    """What is missing, or null, stays as it is. A new password, and active = false, end the user's sessions."""

    name: Name | None = None
    role: RoleName | None = None
    active: bool | None = None
    password: NewPassword | None = None

    def __repr__(self) -> str:
        return "UserChange()"


class ById(Input):
    id: Id


class UsersQuery(Input):
    """`text` is looked for in names and addresses; `sort` with a minus is downwards."""

    active: bool | None = None
    role: RoleName | None = None
    text: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    sort: Sort = "-created_at"


@api.get("/api/users", rank=Rank.MANAGER, entity="user")
async def list_users(me: Caller, query: UsersQuery, page: Page) -> Paged[User]:
    """The users of the own company."""
    given = {"active": query.active, "role": query.role, "text": containing(query.text) if query.text else None}
    order = "" if query.sort == "-created_at" else query.sort
    return await listed(me.company, queries.USERS, given, page, User, order=order)


@api.post("/api/users", status=201, rank=Rank.MANAGER, entity="user", raises=(409,))
async def create_user(request: web.Request, me: Caller, body: NewUser) -> User:
    """Add a user, with a role below the own one."""
    await _role_below(me, body.role)
    password = await request.app[PASSWORDS].hashed(body.password)
    async with me.company.transaction() as change:
        me = await lock_levels(change, me, Rank.MANAGER)
        role_id = await _role_below(me, body.role, change)
        added = await change.fetchval(queries.ADD_USER, role_id, body.email.lower(), body.name, password)
        if added is None:
            raise Problem(409, "an account with this address already exists", "account_exists")
        user = await find_user(change, added)
        change.record(user.id, f"{user.email}, role {_role(user)}")
    return user


@api.get("/api/users/{id}", entity="user", raises=(404,))
async def get_user(me: Caller, path: ById) -> User:
    """One user of the own company; members see only themselves."""
    if me.level < Rank.MANAGER and path.id != me.user_id:
        raise not_found("user")
    return await find_user(me.company, path.id)


@api.patch("/api/users/{id}", rank=Rank.MANAGER, entity="user", raises=(404,))
async def update_user(request: web.Request, me: Caller, path: ById, body: UserChange) -> User:
    """Change a user who stands lower."""
    _refuse_unless_managed(me, await find_user(me.company, path.id))
    if body.role is not None:
        await _role_below(me, body.role)
    password = None if body.password is None else await request.app[PASSWORDS].hashed(body.password)
    async with me.company.transaction() as change:
        me = await lock_levels(change, me, Rank.MANAGER)
        await change.fetchrow(queries.LOCK_USER, path.id)
        before = await find_user(change, path.id)
        _refuse_unless_managed(me, before)
        role_id = None if body.role is None else await _role_below(me, body.role, change)
        if not await change.execute(
            queries.UPDATE_USER, path.id, _reach(me), body.name, role_id, body.active, password
        ):
            raise not_found("user")
        if password is not None or body.active is False:
            await change.execute(queries.END_SESSIONS, path.id)
        await refuse_without_administrator(change)
        user = await find_user(change, path.id)
        change.record(user.id, _differences(before, user, password=password is not None))
    return user


@api.delete("/api/users/{id}", status=204, rank=Rank.MANAGER, entity="user", raises=(404,))
async def delete_user(me: Caller, path: ById) -> None:
    """Delete a user who stands lower, with all sessions; what the user wrote stays."""
    async with me.company.transaction() as change:
        me = await lock_levels(change, me, Rank.MANAGER)
        await change.fetchrow(queries.LOCK_USER, path.id)
        user = await find_user(change, path.id)
        _refuse_unless_managed(me, user)
        if not await change.execute(queries.DELETE_USER, path.id, _reach(me)):
            raise not_found("user")
        await refuse_without_administrator(change)
        change.record(user.id, f"{user.email}, role {_role(user)}", severity="warning")


async def lock_levels(change: Change, me: Caller, rank: int) -> Caller:
    """The caller as he is now, with every user's and role's level as it is until the transaction ends.

    One who has been deactivated or demoted a moment ago is refused: else two administrators could demote each other.
    """
    await change.fetchrow(queries.LOCK_COMPANY)
    level = await change.fetchval(queries.LEVEL, me.user_id)
    if level is None or level < rank:
        raise Problem(403, f"this requires a role of level {rank}; yours now has level {level or 0}", "level_too_low")
    return replace(me, level=level)


async def refuse_without_administrator(change: Change) -> None:
    """Raises Problem 403, and with it undoes the change, that leaves no active administrator."""
    if not await change.fetchval(queries.HAS_ADMINISTRATOR, int(Rank.ADMINISTRATOR)):
        raise Problem(403, "this would leave the company without an administrator", "last_administrator")


def _role(user: User) -> str:
    return f"{user.role} ({user.level})"


def _differences(before: User, after: User, *, password: bool) -> str:
    """What of a user has changed, for the audit log."""
    found = []
    if before.name != after.name:
        found.append(f"name {before.name} → {after.name}")
    if before.role != after.role:
        found.append(f"role {_role(before)} → {_role(after)}")
    if before.active != after.active:
        found.append("activated" if after.active else "deactivated")
    if password:
        found.append("another password")
    return "; ".join(found) or "nothing changed"


async def find_user(rows: Company | Change, user_id: int) -> User:
    """The user of that id. Raises Problem 404."""
    row: Any = await rows.fetchrow(queries.USER, user_id)
    if row is None:
        raise not_found("user")
    return User(**row)


def _reach(me: Caller) -> int:
    """The level that the caller manages whoever is below of."""
    return me.level + 1 if me.level >= Rank.ADMINISTRATOR else me.level


def _refuse_unless_managed(me: Caller, user: User) -> None:
    if user.id == me.user_id:
        raise Problem(403, "you cannot manage your own account; a user with a higher level must do it", "yourself")
    if user.level >= _reach(me):
        raise Problem(403, f"the user's role has level {user.level}, yours has level {me.level}", "level_too_low")


async def _role_below(me: Caller, name: str, rows: Change | None = None) -> int:
    row: Any = await (rows or me.company).fetchrow(queries.ROLE, name)
    if row is None:
        raise refusal([Fault("body.role", "no_such_role", "must be the name of a role of your company")])
    if row["level"] >= _reach(me):
        raise Problem(403, f"the role {name} has level {row['level']}, yours has level {me.level}", "level_too_low")
    return int(row["id"])
