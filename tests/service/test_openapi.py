"""The description says what the service does: everything that schemathesis makes of it is answered, and as described."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.request import urlopen

import hypothesis
import pytest
import schemathesis
from conftest import run
from fake_provider import KEY, FakeProvider
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from served import served

from impetus_service.app import APIS
from impetus_service.kit import openapi

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = [operation for api in APIS for operation in api.operations]
EXAMPLES = 8  # of each operation
CHECKS = (
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
SCHEMA = schemathesis.openapi.from_dict(openapi.describe("Impetus", "1", APIS))


@dataclass
class Running:
    url: str
    tokens: dict[str, str]  # operation to a session of its own: some of them end it


@pytest.fixture(scope="module")
def running(shared_postgres) -> Iterator[Running]:
    """The application in a thread, since schemathesis asks in blocking calls."""
    with _serving(shared_postgres.url) as service:
        yield service


@contextmanager
def _serving(url: str) -> Iterator[Running]:
    ready, loops, found = threading.Event(), [], []

    async def main() -> None:
        async with (
            FakeProvider() as provider,
            served(
                url, LOGIN_ATTEMPTS="1000", SESSIONS_PER_USER="1000", OPENAI_BASE_URL=provider.url, OPENAI_API_KEY=KEY
            ) as service,
        ):
            admin = await service.administrator()
            tokens = {each.name: (await service.log_in(admin.email)).token for each in OPERATIONS}
            # A stream of a job that waits has no end: here somebody without jobs asks, and test_job_events.py reads one.
            tokens["watch_job"] = (await service.administrator()).token
            found.append(Running(str(service.client.make_url("")).rstrip("/"), tokens))
            stop = asyncio.Event()
            loops.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: run(main()))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        for loop, stop in loops:
            loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_whatever_is_asked_is_answered_as_described(running, operation):
    described = SCHEMA[operation.path][operation.method]
    valid = described.as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE)
    rubbish = described.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        phases=[hypothesis.Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(valid | rubbish)
    def ask(case: schemathesis.Case) -> None:
        headers = {"Authorization": f"Bearer {running.tokens[operation.name]}"} if operation.authenticated else {}
        response = case.call(base_url=running.url, headers=headers, timeout=30)
        case.validate_response(response, checks=CHECKS, headers=headers)

    ask()


def test_it_is_served_and_names_every_route(running):
    with urlopen(f"{running.url}/openapi.json") as response:
        paths = json.load(response)["paths"]
    assert {(method.upper(), path) for path in paths for method in paths[path]} == {
        (operation.method, operation.path) for operation in OPERATIONS
    }
