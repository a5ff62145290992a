"""The description says what the service does: everything that schemathesis makes of it is answered, and as described."""

from __future__ import annotations

import asyncio
import functools
import importlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import hypothesis
import jsonschema_rs
import msgspec
import pytest
from fake_provider import KEY, FakeProvider
from served import served
from server import run

from impetus_service.app import APIS
from impetus_service.kit import openapi
from impetus_service.kit.api import Api, Id
from impetus_service.kit.caller import Caller
from impetus_service.kit.problems import CODES
from impetus_service.kit.validation import Input
from impetus_service.sessions import COOKIE

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = [operation for api in APIS for operation in api.operations]
EXAMPLES = 8  # of each operation
DESCRIPTION = openapi.describe("Impetus", "1", APIS, cookie=COOKIE)


@functools.cache
def checked() -> tuple[Any, tuple[Any, ...], Any]:
    """The description as schemathesis reads it, what it checks, and what it makes: 0.5 s of CPU, which each process would take
    that collects this and runs other tests.
    """
    schemathesis = importlib.import_module("schemathesis")
    checks = importlib.import_module("schemathesis.specs.openapi.checks")
    named = ("status_code", "content_type", "response_headers", "response_schema")
    conformances = [getattr(checks, f"{name}_conformance") for name in named]
    return (
        schemathesis.openapi.from_dict(DESCRIPTION),
        (schemathesis.checks.not_a_server_error, *conformances),
        schemathesis.GenerationMode,
    )


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
            for name in ("end_my_session", "end_my_other_sessions"):  # else the others would have none any more
                tokens[name] = (await service.administrator()).token
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
    schema, checks, mode = checked()
    described = schema[operation.path][operation.method]
    valid = described.as_strategy(generation_mode=mode.POSITIVE)
    rubbish = described.as_strategy(generation_mode=mode.NEGATIVE)

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES,
        phases=[hypothesis.Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(valid | rubbish)
    def ask(case: Any) -> None:
        headers = {"Authorization": f"Bearer {running.tokens[operation.name]}"} if operation.authenticated else {}
        response = case.call(base_url=running.url, headers=headers, timeout=30)
        case.validate_response(response, checks=checks, headers=headers)

    ask()


def test_it_is_served_and_names_every_route(running):
    with urlopen(f"{running.url}/openapi.json") as response:
        paths = json.load(response)["paths"]
    assert {(method.upper(), path) for path in paths for method in paths[path]} == {
        (operation.method, operation.path) for operation in OPERATIONS
    }


def contents() -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, schema with an example) of all bodies and parameters."""
    for path, methods in DESCRIPTION["paths"].items():
        for method, described in methods.items():
            where = f"{method} {path}"
            for parameter in described["parameters"]:
                yield f"{where} {parameter['name']}", parameter
            for content in described.get("requestBody", {}).get("content", {}).values():
                yield f"{where} body", content
            for status, response in described["responses"].items():
                for content in response.get("content", {}).values():
                    yield f"{where} {status}", content
    for name, response in DESCRIPTION["components"]["responses"].items():
        for content in response["content"].values():
            yield name, content


CONTENTS = dict(contents())


def test_an_example_is_what_its_schema_allows():
    for where, content in CONTENTS.items():
        if "example" in content:
            schema = content["schema"] | {"components": DESCRIPTION["components"]}
            errors = [error.message for error in jsonschema_rs.validator_for(schema).iter_errors(content["example"])]
            assert errors == [], where


def test_every_body_that_is_ours_has_an_example():
    for where, content in CONTENTS.items():
        if content["schema"] != {}:
            assert "example" in content or " " in where.split(" ", 2)[-1] or "/" not in where or content.get("in"), (
                where
            )


def test_an_example_is_taken(running):
    """Of a body that names nothing that would have to be there."""
    for path, method in (
        ("/api/communications", "post"),
        ("/api/users", "post"),
        ("/api/roles", "post"),
        ("/api/jobs/reports", "post"),
    ):
        content = DESCRIPTION["paths"][path][method]["requestBody"]["content"]["application/json"]
        request = Request(f"{running.url}{path}", json.dumps(content["example"]).encode(), method=method.upper())
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {running.tokens['get_me']}")
        try:
            with urlopen(request) as response:
                status = response.status
        except HTTPError as error:
            status = error.code
        assert status in {201, 202, 409}, path  # 409: another has that name already


def test_it_says_where_it_is_served_how_to_log_in_and_what_codes_there_are():
    assert DESCRIPTION["servers"] == [{"url": "/"}]
    assert openapi.describe("x", "1", APIS, server="https://api.shop.example")["servers"] == [
        {"url": "https://api.shop.example"}
    ]
    schemes = DESCRIPTION["components"]["securitySchemes"]
    assert (schemes["session"]["scheme"], schemes["cookie"]["in"], schemes["cookie"]["name"]) == (
        "bearer",
        "cookie",
        COOKIE,
    )
    for operation in OPERATIONS:
        described = DESCRIPTION["paths"][operation.path][operation.method.lower()]
        assert described.get("security", []) == ([{"session": []}, {"cookie": []}] if operation.authenticated else [])
        for status, response in described["responses"].items():
            if "$ref" not in response:
                assert response["headers"]["X-Request-ID"], (operation.name, status)
    told = set()
    for name, response in DESCRIPTION["components"]["responses"].items():
        assert "X-Request-ID" in response["headers"]
        if name.startswith("ProblemBody"):
            told |= set(
                response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"]["enum"]
            )
    # These are of no operation, as nothing is declared there.
    assert set(CODES) - told == {"method_not_allowed", "expectation_failed", "provider_failed"}


def test_times_are_described_as_such():
    schemas = DESCRIPTION["components"]["schemas"]
    for schema in schemas.values():
        for name, each in schema.get("properties", {}).items():
            if name.endswith("_at"):
                kinds = [kind for kind in each.get("anyOf", [each]) if kind["type"] != "null"]
                assert [kind.get("format") for kind in kinds] == ["date-time"], (schema["title"], name)
    query = DESCRIPTION["paths"]["/api/communications"]["get"]["parameters"]
    begin = next(each["schema"] for each in query if each["name"] == "from")
    assert "date-time" in str(begin)


def test_two_subjects_may_have_types_of_one_name():
    """As whoever copies the first one has."""

    def subject(name):
        async def get(me, path):
            """One of them."""

        by_id = msgspec.defstruct("ById", [("id", Id)], bases=(Input,), module=f"shop.{name}")
        get.__annotations__ = {"me": Caller, "path": by_id, "return": None}
        api = Api(name)
        api.get(f"/api/{name}/{{id}}", status=204, entity=name)(get)
        return api

    described = openapi.describe("Two", "1", [subject("bread"), subject("milk")])
    for name in ("bread", "milk"):
        (parameter,) = described["paths"][f"/api/{name}/{{id}}"]["get"]["parameters"]
        assert (parameter["name"], parameter["in"]) == ("id", "path")
