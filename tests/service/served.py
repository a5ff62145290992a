"""The real application on a real server, and people of companies who ask it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from aiohttp.test_utils import TestClient, TestServer
from waiting import until

from impetus_service import passwords
from impetus_service.administrators import create_administrator
from impetus_service.app import create_app
from impetus_service.kit import logs
from impetus_service.kit.db import DATABASE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PASSWORD = "correct horse battery"
_numbers = count(1)


class PoolServer(TestServer):
    """Serves as the pool's worker does: a client that leaves ends no handler, and aiohttp's own access log is off."""

    async def _make_runner(self, **options: Any) -> Any:
        return await super()._make_runner(**options | {"handler_cancellation": False, "access_log": None})


@dataclass
class Person:
    """Somebody in a session."""

    served: Served
    email: str
    token: str
    id: int = 0

    async def __call__(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """The status and the decoded body of a request."""
        return await self.served(method, path, self.token, **options)


class Served:
    """A running application."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.app = client.server.app

    async def __call__(self, method: str, path: str, token: str = "", **options: Any) -> tuple[int, Any]:
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        async with self.client.request(method, path, headers=headers, **options) as response:
            known = response.content_type in {"application/json", "application/problem+json"}
            return response.status, await (response.json() if known else response.read())

    async def log_in(self, email: str, password: str = PASSWORD) -> Person:
        status, body = await self("POST", "/api/auth/login", json={"email": email, "password": password})
        assert status == 201, body
        person = Person(self, email, body["token"])
        person.id = (await person("GET", "/api/auth/me"))[1]["id"]
        return person

    async def administrator(self) -> Person:
        """The administrator of a new company."""
        email = f"admin{next(_numbers)}-{uuid4().hex[:8]}@example.com"
        await create_administrator(self.app[DATABASE], f"Company of {email}", email, "Ada", PASSWORD)
        return await self.log_in(email)

    async def colleague(self, of: Person, role: str = "member") -> Person:
        """Somebody else in the company of `of`."""
        email = f"user{next(_numbers)}-{uuid4().hex[:8]}@example.com"
        body = {"email": email, "name": "Bob", "role": role, "password": PASSWORD}
        status, answer = await of("POST", "/api/users", json=body)
        assert status == 201, answer
        return await self.log_in(email)


@asynccontextmanager
async def served(url: str, **settings: str) -> AsyncIterator[Served]:
    """The application on the database at `url`, its schema up to date. Passwords cost next to nothing."""
    os.environ.update(settings, DATABASE_URL=url)
    cost, passwords.N, passwords.P = (passwords.N, passwords.P), 2, 1
    try:
        async with TestClient(PoolServer(create_app())) as client:
            await until(lambda: client.server.app[DATABASE].migrated)
            yield Served(client)
    finally:
        logs.stop()  # else lines come when pytest no longer takes them
        passwords.N, passwords.P = cost
        for name in (*settings, "DATABASE_URL"):
            os.environ.pop(name, None)
