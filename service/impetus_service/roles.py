"""The roles of the own company. A role is a level; what changes it changes what everybody may who has it."""

from __future__ import annotations

import asyncpg

from impetus_service.kit.api import Api, Identified
from impetus_service.kit.caller import Caller, Rank
from impetus_service.kit.listing import listed
from impetus_service.kit.paging import Page, Paged
from impetus_service.kit.problems import Problem, not_found
from impetus_service.kit.validation import Input, Moment
from impetus_service.queries import accounts as queries
from impetus_service.users import ById, Level, RoleName, lock_levels, refuse_without_administrator

api = Api("roles")


class Role(Identified):
    name: RoleName
    level: Level
    created_at: Moment


class NewRole(Input):
    name: RoleName
    level: Level


class RoleChange(Input):
    """What is missing, or null, stays as it is."""

    name: RoleName | None = None
    level: Level | None = None


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
            raise Problem(409, f"a role {body.name} already exists", "role_exists")
        change.record(row["id"], f"{body.name}, level {body.level}")
    return Role(**row)


@api.delete("/api/roles/{id}", status=204, rank=Rank.ADMINISTRATOR, entity="role", raises=(404,))
async def delete_role(me: Caller, path: ById) -> None:
    """Delete a role that nobody has and that is below the administrators'."""
    async with me.company.transaction() as change:
        await lock_levels(change, me, Rank.ADMINISTRATOR)  # while a user is given that role, it is not nobody's
        row = await change.fetchrow(queries.DELETE_ROLE, path.id, int(Rank.ADMINISTRATOR))
        if row is None:
            raise Problem(404, "the role does not exist, is in use, or is the administrators' role")
        change.record(path.id, f"{row['name']}, level {row['level']}", severity="warning")


@api.patch("/api/roles/{id}", rank=Rank.ADMINISTRATOR, entity="role", raises=(404, 409))
async def update_role(me: Caller, path: ById, body: RoleChange) -> Role:
    """Rename a role, or change its level: at once for everybody who has it. One administrator remains in any case."""
    try:
        async with me.company.transaction() as change:
            me = await lock_levels(change, me, Rank.ADMINISTRATOR)
            before = await change.fetchrow(queries.LOCK_ROLE, path.id)
            if before is None:
                raise not_found("role")
            highest = max(before["level"], body.level or 0)
            if highest > me.level:
                raise Problem(
                    403, f"the role has, or would have, level {highest}; yours is {me.level}", "level_too_low"
                )
            row = await change.fetchrow(queries.UPDATE_ROLE, path.id, body.name, body.level)
            await refuse_without_administrator(change)
            what = []
            if row["name"] != before["name"]:
                what.append(f"name {before['name']} → {row['name']}")
            if row["level"] != before["level"]:
                users = await change.fetchval(queries.USERS_OF_ROLE, path.id)
                what.append(f"level {before['level']} → {row['level']} of {users} users")
            change.record(path.id, f"{row['name']}: {'; '.join(what) or 'nothing changed'}", severity="warning")
    except asyncpg.UniqueViolationError:
        raise Problem(409, f"a role {body.name} already exists", "role_exists") from None
    return Role(**row)
