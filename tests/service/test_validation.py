"""Whatever is wrong with a request is told in one answer: each mistake with its place, a code for programs and words for people."""

from __future__ import annotations

import math
from datetime import UTC
from typing import Any

import pytest
from msgspec import inspect
from served import PASSWORD, Served, served
from server import run

from impetus_service.app import APIS
from impetus_service.kit.application import BODY_MAX
from impetus_service.kit.validation import FAULTS_MAX, Input, TimeText

OPERATIONS = [operation for api in APIS for operation in api.operations]


async def faults(ask: Any, method: str, path: str, **options: Any) -> list[tuple[str, str, str]]:
    status, problem = await ask(method, path, **options)
    assert status == 422, problem
    assert problem["detail"].startswith("the request has ")
    return [(each["at"], each["code"], each["message"]) for each in problem["errors"]]


def test_all_mistakes_of_a_request_come_in_one_answer(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            body = {"email": "nobody", "name": "", "role": 7, "password": "short", "nam\u00e9": 1}
            known = "email, name, role, password"
            assert await faults(admin, "POST", "/api/users?dry_run=1", json=body) == [
                ("query.dry_run", "unknown", "is unknown; no parameters are allowed"),
                ("body.nam\u00e9", "unknown", f"is unknown; allowed: {known}"),
                ("body.email", "bad_format", "must be an address like ada@example.com"),
                ("body.name", "too_short", "must not be empty"),
                ("body.role", "wrong_type", "must be a text, not a number"),
                ("body.password", "too_short", "must have at least 12 characters; it has 5"),
            ]
            filters = "user=0&severity=bad&from=yesterday&to=2026-13-01&cursor=x&page=2&limit=nonsense"
            found = await faults(admin, "GET", f"/api/admin/logs/audit?{filters}")
            assert [(at, code) for at, code, _ in found] == [
                ("query.cursor", "bad_format"),
                ("query.page", "unknown"),
                ("query.user", "too_small"),
                ("query.severity", "not_allowed"),
                ("query.from", "bad_format"),
                ("query.to", "bad_format"),
            ]
            report = {"of": "users", "by": "day", "from": "2026-01-01", "to": ""}
            headers = {"Idempotency-Key": "k" * 201}
            found = await faults(admin, "POST", "/api/jobs/reports", json=report, headers=headers)
            assert [(at, code) for at, code, _ in found] == [
                ("headers.Idempotency-Key", "bad_format"),
                ("body.of", "not_allowed"),
                ("body.to", "bad_format"),
            ]

    run(main())


CASES = [
    ({"texts": []}, ("body.texts", "too_short", "must not be empty")),
    ({"texts": ["a", 5, ""]}, ("body.texts[1]", "wrong_type", "must be a text, not a number")),
    ({"texts": "a"}, ("body.texts", "wrong_type", "must be a list, not a text")),
    ({"texts": ["a\0"]}, ("body.texts[0]", "bad_character", "must not contain the character U+0000, which cannot be stored")),
    ({"texts": ["a"], "model": 5}, ("body.model", "wrong_type", "must be a text or null, not a number")),
    ({"texts": None}, ("body.texts", "wrong_type", "must be a list, not null")),
    ([], ("body", "wrong_type", "must be an object, not a list")),
    ({}, ("body.texts", "missing", "is required")),
]  # fmt: skip


def test_each_mistake_has_its_place_a_code_and_words(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            for body, fault in CASES:
                assert fault in await faults(admin, "POST", "/api/jobs/embeddings", json=body)
            assert await faults(admin, "GET", "/api/users/abc") == [("path.id", "wrong_type", "must be a whole number")]
            found = await faults(admin, "GET", "/api/users?active=maybe")
            assert found == [("query.active", "wrong_type", "must be true or false")]
            found = await faults(admin, "GET", f"/api/users/{2**63}")
            assert found == [("path.id", "too_large", f"must be at most {2**63 - 1}")]
            found = await faults(admin, "GET", "/api/communications?kind=%00")
            assert [code for _, code, _ in found] == ["bad_character"]
            body = {"email": "x@example.com", "name": "X", "role": "king", "password": PASSWORD}
            found = await faults(admin, "POST", "/api/users", json=body)
            assert found == [("body.role", "no_such_role", "must be the name of a role of your company")]

    run(main())


def test_an_answer_names_a_bounded_number_of_mistakes(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            body: dict[str, Any] = {"texts": [1] * 10_000}
            assert len(await faults(admin, "POST", "/api/jobs/embeddings", json=body)) == FAULTS_MAX
            body = {"x" * 9000 + str(number): 1 for number in range(100)}
            found = await faults(admin, "POST", "/api/jobs/embeddings", json=body)
            assert len(found) == FAULTS_MAX
            assert max(len(at) for at, _, _ in found) < 200

    run(main())


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_every_route_refuses_what_it_does_not_know(operation):
    for part in ("path", "query", "headers", "body"):
        if part in operation.hints:
            assert issubclass(operation.hints[part], Input)
    # A probe's cache-buster, and what of a completion only the provider knows, are let through.
    open_body = "body" in operation.hints and not operation.hints["body"].__struct_config__.forbid_unknown_fields
    assert open_body == (operation.tag == "chat")
    assert operation.any_query == (operation.tag in {"service", "metrics"})


def test_an_unknown_parameter_is_refused_by_every_route(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            for operation in OPERATIONS:
                path = operation.path.format(id=1, session=1) + "?impetus=1"
                status, problem = await admin(operation.method, path, json={"impetus": 1})
                if operation.any_query:
                    assert status == 200, operation.name
                    continue
                assert status == 422, (operation.name, problem)
                if operation.tag == "chat":
                    assert problem["error"]["param"] == "query.impetus"
                    continue
                at = [each["at"] for each in problem["errors"] if each["code"] == "unknown"]
                body = ["body.impetus"] if "body" in operation.hints else []
                assert at == ["query.impetus", *body], operation.name

    run(main())


def test_an_empty_parameter_counts_as_not_given(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            await _write(service, admin)
            for path in (
                "communications?author=&kind=&cursor=",
                "users?active=&limit=",
                "admin/logs/audit?from=&severity=",
            ):
                status, answer = await admin("GET", f"/api/{path}")
                assert (status, answer["pagination"]["total"] > 0) == (200, True)

    run(main())


async def _write(service: Served, who: Any) -> None:
    assert (await who("POST", "/api/communications", json={"subject": "s", "body": "b"}))[0] == 201


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2026-01-31", "2026-01-31T00:00:00+00:00", "2026-02-01T00:00:00+00:00"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00+00:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00:00 02:00", "2026-01-31T10:00:00+00:00", "2026-01-31T10:00:00+00:00"),
    ],
)
def test_an_instant_is_understood(text, begin, end):
    instant = TimeText(text)
    assert tuple(each.isoformat() for each in instant.within(UTC)) == (begin, end)


def longest(kind: inspect.Type) -> float:
    """Bytes of the longest JSON that a type takes, with each character beyond the BMP escaped: 12 bytes."""
    match kind:
        case inspect.Metadata():
            return longest(kind.type)
        case inspect.UnionType():
            return max(longest(each) for each in kind.types)
        case inspect.StructType():
            return sum(len(each.encode_name) + 6 + longest(each.type) for each in kind.fields)
        case inspect.StrType() if kind.pattern is not None:
            return 1000  # each of ours has an end
        case inspect.StrType():
            return math.inf if kind.max_length is None else kind.max_length * 12
        case inspect.CustomType() | inspect.LiteralType():
            return 100
        case inspect.IntType() | inspect.BoolType() | inspect.NoneType():
            return 20
    return math.inf


def test_the_body_of_a_route_holds_the_longest_texts_that_it_takes():
    """Else a text that is allowed is refused for its bytes. A list of long texts has a limit in bytes of its own, stated."""
    for operation in OPERATIONS:
        if "body" in operation.hints and operation.tag != "chat" and operation.body_max is None:
            length = longest(inspect.type_info(operation.hints["body"]))
            assert length < BODY_MAX, (operation.name, length)
