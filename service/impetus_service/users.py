"""Users and roles of the own company. Who stands higher manages who stands lower; administrators manage each other."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web

from impetus_service.kit.api import Api, Id, Identified
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.db import Change, Company
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import Fault, Problem, not_found
from impetus_service.kit.validation import Input, refusal
from impetus_service.passwords import PASSWORDS
from impetus_service.queries import accounts as queries

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
# One @ with something before it and a host after it: whether mail arrives there, only mail can tell.
Email = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[^@\s\x00]{1,64}@[^@\s\x00]{1,255}$", max_length=320, description="an address like ada@example.com"
    ),
]
NewPassword = Annotated[str, msgspec.Meta(min_length=12, max_length=1024)]
Level = Annotated[int, msgspec.Meta(ge=1, le=100)]

api = Api("users")


class User(Identified):
    email: str
    name: str
    role: str
    level: int
    active: bool
    created_at: datetime


class NewUser(Input):
    email: Email
    name: Name
    role: Name
    password: NewPassword

    def __repr__(self) -> str:
        return f"NewUser(email={self.email!r})"


class UserChange(Input):
    """What is missing, or null, stays as it is. A new password, and active = false, end the user's sessions."""

    name: Name | None = None
    role: Name | None = None
    active: bool | None = None
    password: NewPassword | None = None

    def __repr__(self) -> str:
        return "UserChange()"


class ById(Input):
    id: Id


class UsersQuery(Input):
    active: bool | None = None


class Role(Identified):
    name: str
    level: int
    created_at: datetime


class NewRole(Input):
    name: Name
    level: Level


@api.get("/api/users", rank=Rank.MANAGER, entity="user")
async def list_users(me: Caller, query: UsersQuery, page: Page) -> Paged[User]:
    """The users of the own company."""
    return await listed(me.company, queries.USERS, {"active": query.active}, page, User)


@api.post("/api/users", status=201, rank=Rank.MANAGER, entity="user", raises=(409,))
async def create_user(request: web.Request, me: Caller, body: NewUser) -> User:
    """Add a user, with a role below the own one."""
    role_id = await _role_below(me, body.role)
    password = await request.app[PASSWORDS].hashed(body.password)
    async with me.company.transaction() as change:
        added = await change.fetchval(queries.ADD_USER, role_id, body.email.lower(), body.name, password)
        if added is None:
            raise Problem(409, "there is an account with this address", "account_exists")
        user = await _user(change, added)
        change.record(user.id, f"{user.email}, role {_role(user)}")
    return user


@api.get("/api/users/{id}", entity="user", raises=(404,))
async def get_user(me: Caller, path: ById) -> User:
    """One user of the own company; members see only themselves."""
    if me.level < Rank.MANAGER and path.id != me.user_id:
        raise not_found("user")
    return await _user(me.company, path.id)


@api.patch("/api/users/{id}", rank=Rank.MANAGER, entity="user", raises=(404,))
async def update_user(request: web.Request, me: Caller, path: ById, body: UserChange) -> User:
    """Change a user who stands lower."""
    _refuse_unless_managed(me, await _user(me.company, path.id))
    role_id = None if body.role is None else await _role_below(me, body.role)
    password = None if body.password is None else await request.app[PASSWORDS].hashed(body.password)
    async with me.company.transaction() as change:
        await change.fetchrow(queries.LOCK_USER, path.id)
        before = await _user(change, path.id)
        if not await change.execute(
            queries.UPDATE_USER, path.id, _reach(me), body.name, role_id, body.active, password
        ):
            raise not_found("user")
        if password is not None or body.active is False:
            await change.execute(queries.END_SESSIONS, path.id)
        user = await _user(change, path.id)
        change.record(user.id, _differences(before, user, password=password is not None))
    return user


@api.delete("/api/users/{id}", status=204, rank=Rank.MANAGER, entity="user", raises=(404,))
async def delete_user(me: Caller, path: ById) -> None:
    """Delete a user who stands lower, with all sessions; what the user wrote stays."""
    _refuse_unless_managed(me, await _user(me.company, path.id))
    async with me.company.transaction() as change:
        await change.fetchrow(queries.LOCK_USER, path.id)
        user = await _user(change, path.id)
        if not await change.execute(queries.DELETE_USER, path.id, _reach(me)):
            raise not_found("user")
        change.record(user.id, f"{user.email}, role {_role(user)}", severity="warning")


@api.get("/api/roles")
async def list_roles(me: Caller, page: Page) -> Paged[Role]:
    """The roles of the own company."""
    return await listed(me.company, queries.ROLES, {}, page, Role)


@api.post("/api/roles", status=201, rank=Rank.ADMINISTRATOR, entity="role", raises=(409,))
async def create_role(me: Caller, body: NewRole) -> Role:
    """Add a role."""
    async with me.company.transaction() as change:
        row = await change.fetchrow(queries.ADD_ROLE, body.name, body.level)
        if row is None:
            raise Problem(409, f"there is a role {body.name}", "role_exists")
        change.record(row["id"], f"{body.name}, level {body.level}")
    return Role(**row)


@api.delete("/api/roles/{id}", status=204, rank=Rank.ADMINISTRATOR, entity="role", raises=(404,))
async def delete_role(me: Caller, path: ById) -> None:
    """Delete a role that nobody has and that is below the administrators'."""
    async with me.company.transaction() as change:
        row = await change.fetchrow(queries.DELETE_ROLE, path.id, int(Rank.ADMINISTRATOR))
        if row is None:
            raise Problem(404, "there is no such role, or it is in use, or it is the administrators'")
        change.record(path.id, f"{row['name']}, level {row['level']}", severity="warning")


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


async def _user(rows: Company | Change, user_id: int) -> User:
    row: Any = await rows.fetchrow(queries.USER, user_id)
    if row is None:
        raise not_found("user")
    return User(**row)


def _reach(me: Caller) -> int:
    """The level that the caller manages whoever is below of."""
    return me.level + 1 if me.level >= Rank.ADMINISTRATOR else me.level


def _refuse_unless_managed(me: Caller, user: User) -> None:
    if user.id == me.user_id:
        raise Problem(403, "nobody manages himself: another one of a higher level has to", "yourself")
    if user.level >= _reach(me):
        raise Problem(403, f"the user's role is of level {user.level}, yours of level {me.level}", "level_too_low")


async def _role_below(me: Caller, name: str) -> int:
    row: Any = await me.company.fetchrow(queries.ROLE, name)
    if row is None:
        raise refusal([Fault("body.role", "no_such_role", "must be the name of a role of your company")])
    if row["level"] >= _reach(me):
        raise Problem(403, f"the role {name} is of level {row['level']}, yours of level {me.level}", "level_too_low")
    return int(row["id"])
