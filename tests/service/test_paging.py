"""limit and offset are never an error, whatever they are; a cursor goes through a list and sees each row once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import MultiDict
from served import served
from server import run

from impetus_service.app import APIS
from impetus_service.kit.paging import OFFSET_MAX, Cursor, Page, clamp
from impetus_service.kit.problems import Problem


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (None, 100), ("", 100), ("abc", 100), ("nan", 100), ("0x10", 100), ("1;DROP", 100), (" ", 100),
        ("1", 1), ("500", 500), (" 7 ", 7), ("7.9", 7),
        ("0", 1), ("-5", 1), ("-inf", 1),
        ("501", 500), ("1e9", 500), ("inf", 500), ("9" * 400, 500),
    ],
)  # fmt: skip
def test_a_limit_is_moved_to_what_is_allowed(text, limit):
    query = {} if text is None else {"limit": text}
    assert Page.of(query).limit == limit


def test_given_twice_the_first_counts():
    assert Page.of(MultiDict([("limit", "5"), ("limit", "7"), ("offset", "x"), ("offset", "3")])) == Page(5, 0)


@given(st.text())
def test_no_text_is_an_error(text):
    assert 0 <= clamp(text, 0, 0, OFFSET_MAX) <= OFFSET_MAX


@given(st.datetimes(datetime(1970, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC)), st.integers(1, 2**63 - 1))
def test_a_cursor_is_read_as_it_was_written(created_at, number):
    cursor = Cursor(created_at, number)
    assert Page.of({"cursor": str(cursor)}).after == cursor


@pytest.mark.parametrize(
    "text", ["x", "é", "AAAA", "=" * 9, "MjAyNi0wMS0wMS8x", str(Cursor(datetime(2026, 1, 1, tzinfo=UTC), 1)) + "x"]
)
def test_what_is_no_cursor_is_told(text):
    with pytest.raises(Problem) as told:
        Page.of({"cursor": text})
    assert (told.value.status, told.value.errors[0].at) == (422, "query.cursor")


NONSENSE = [
    "", "limit=abc&offset=abc", "limit=1e9&offset=1e9", "limit=-1&offset=-1", "limit=&offset=", "limit=9&limit=x&offset=1&offset=2",
]  # fmt: skip


def test_every_list_takes_nonsense(shared_postgres):
    async def main() -> None:
        async with served(shared_postgres.url) as service:
            admin = await service.administrator()
            member = await service.colleague(admin)
            lists = [each for api in APIS for each in api.operations if "page" in each.hints]
            assert len(lists) >= 5
            for operation in lists:
                for query in NONSENSE:
                    status, answer = await admin("GET", f"{operation.path.format(id=member.id)}?{query}")
                    assert status == 200, (operation.name, query, answer)
                    assert set(answer) == {"items", "pagination"}
                    assert 1 <= answer["pagination"]["limit"] <= 500
                    assert answer["pagination"]["offset"] >= 0

    run(main())
