"""The first administrator of a company, whom no other can have made: `impetusd-service create-admin`."""

from __future__ import annotations

import asyncpg

from impetus_service.kit.caller import Rank
from impetus_service.kit.db import Database
from impetus_service.kit.validation import Input, read_texts
from impetus_service.passwords import Passwords
from impetus_service.queries import accounts as queries
from impetus_service.users import Email, Name, NewPassword


class AdministratorError(Exception):
    """There cannot be such an administrator, and why, in words for the operator."""


class _Given(Input):
    company: Name
    email: Email
    name: Name
    password: NewPassword


async def create_administrator(database: Database, company: str, email: str, name: str, password: str) -> bool:
    """Add an administrator of the company of that name; whether the company is new, too, with the usual roles.

    `database` is started. Raises AdministratorError, and Unavailable when the database is away.
    """
    given = {"company": company, "email": email, "name": name, "password": password}
    _, faults = read_texts(given, _Given, "")
    if faults:
        raise AdministratorError("; ".join(f"{each.at[1:]} {each.message}" for each in faults))
    passwords = Passwords()
    try:
        hashed = await passwords.hashed(password)
    finally:
        passwords.close()
    roles = [rank.name.lower() for rank in Rank], [int(rank) for rank in Rank]
    try:
        if await database.fetchrow(queries.ADD_ADMINISTRATOR, company, email.lower(), name, hashed) is not None:
            return False
        await database.fetchrow(queries.ADD_COMPANY, company, email.lower(), name, hashed, *roles)
    except asyncpg.UniqueViolationError:
        raise AdministratorError(f"an account with the address {email} already exists") from None
    return True
