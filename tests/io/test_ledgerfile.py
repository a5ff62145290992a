"""Reading the ledger: every record once and in order, from the end or from a number, while files are written and renamed."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from impetusd.files import ledgerfile
from impetusd.files.ledgerfile import Query


def record(n, unit="web", **fields):
    return {"n": n, "at": 1000.0 + n, "kind": "start", "unit": unit, "slot": f"{unit}:0", **fields}


def line(n, **fields):
    return json.dumps(record(n, **fields), separators=(",", ":")).encode()


def fill(path, lines):
    with open(path, "wb") as file:
        file.writelines(each + b"\n" for each in lines)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / ledgerfile.NAME)


def numbers(page):
    return [each["n"] for each in page.records]


def every(path, query, waiting=()):
    """All pages, one after the other."""
    found = []
    while True:
        page = ledgerfile.page(path, query, waiting)
        found += numbers(page)
        if not page.more:
            return found
        query = query._replace(after=page.last)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([0, 10, 3000, 100_000]), max_size=30),
    cut=st.integers(0, 30),
    after=st.integers(0, 31),
    last=st.integers(1, 31),
    late=st.integers(0, 3),
)
@example(sizes=[0, 100_000, 100_000], cut=0, after=0, last=3, late=0)  # only what stands around the texts is over PAGE
def test_every_record_comes_once_and_in_order(tmp_path_factory, sizes, cut, after, last, late):
    path = str(tmp_path_factory.mktemp("ledger") / ledgerfile.NAME)
    lines = [line(n, why="x" * size) for n, size in enumerate(sizes, 1)]
    count = len(lines)
    fill(f"{path}.1", lines[:cut])
    fill(path, lines[cut : count - late] if count - late > cut else [])
    waiting = lines[max(cut, count - late - 1) :]  # one of them has come into the file meanwhile
    assert every(path, Query(after=after), waiting) == list(range(after + 1, count + 1))
    since = 1000.0 + after
    assert every(path, Query(since=since), waiting) == list(range(max(after, 1), count + 1))
    page = ledgerfile.page(path, Query(last=last), waiting)
    assert numbers(page) == list(range(1, count + 1))[-last:][-len(page.records) or count :]
    assert page.last == count
    assert len(page.records) == min(last, count) or sum(map(len, lines)) > ledgerfile.PAGE


def test_of_some_names_only_what_concerns_them_comes_whatever_lies_between(path):
    lines = [line(n, unit="rare" if n in {3, 900} else "often", why="rare" if n == 5 else "") for n in range(1, 2000)]
    fill(path, lines)
    for names in (["rare"], ["rare:0"], ["r*"], ["[r]are"]):
        assert numbers(ledgerfile.page(path, Query(names, last=10))) == [3, 900]
        assert every(path, Query(names)) == [3, 900]
    page = ledgerfile.page(path, Query(["rare"], last=1))
    assert (numbers(page), page.last) == ([900], 1999)


def test_what_is_torn_or_no_record_is_passed_over(path):
    fill(path, [line(1), b"", b"{]", b'{"n": 2}', line(3)])
    with open(path, "ab") as file:
        file.write(line(4)[:-9])
    assert numbers(ledgerfile.page(path, Query())) == [1, 3]
    assert numbers(ledgerfile.page(path, Query(last=9))) == [1, 3]


def test_where_there_is_no_ledger_there_are_no_records(path):
    assert ledgerfile.page(path, Query()) == ([], 0, False, 0)
    assert ledgerfile.page(path, Query(last=3), [line(1)]).last == 1


def test_a_rename_between_the_two_opens_loses_nothing(path, monkeypatch):
    fill(path, [line(2)])
    fill(f"{path}.1", [line(1)])
    really = os.open

    def renaming(name, *how):
        fd = really(name, *how)
        if name == path:
            os.replace(path, f"{path}.1")
        return fd

    monkeypatch.setattr(ledgerfile.os, "open", renaming)
    assert numbers(ledgerfile.page(path, Query())) == [2]


def test_a_link_in_its_place_is_not_followed(path, tmp_path):
    fill(tmp_path / "secret", [line(1)])
    os.symlink(tmp_path / "secret", path)
    with pytest.raises(OSError, match="symbolic links"):
        ledgerfile.page(path, Query())


@pytest.mark.parametrize(
    "damage",
    [
        b'{"n":-5,"at":1001.0,"kind":"start"}',
        b'{"n":1e9,"at":1.0,"kind":"start"}',
        b'{"n":2,"at":NaN,"kind":"start"}',
        b'{"n":2,"at":1e300,"kind":"start"}',
        b'{"n":true,"at":1.0,"kind":"start"}',
        b'{"n":2,"at":1.0,"kind":7}',
        b'{"n":2,"at":1.0,"kind":"start","slot":{}}',
        b"[1]",
        b"[" * 100_000,
        b"\xff\0",
        b"17",
        b"",
    ],
)
def test_a_line_that_is_no_record_is_skipped_and_counted(path, damage):
    fill(path, [line(1), damage, line(2), line(3, why="x" * 70_000), damage, line(4)])
    for query in (Query(), Query(last=10), Query(["web"], last=10)):
        page = ledgerfile.page(path, query)
        assert numbers(page) == [1, 2, 3, 4]
        assert page.last == 4
        assert page.damaged == (2 if damage and not query.names else page.damaged)


def test_a_line_that_is_being_written_is_no_damage(path):
    fill(path, [line(1), line(2)])
    with open(path, "ab") as file:
        file.write(line(3)[:20])
    for query in (Query(), Query(last=10)):
        assert (numbers(ledgerfile.page(path, query)), ledgerfile.page(path, query).damaged) == ([1, 2], 0)


def test_thousands_of_names_cost_little(path):
    fill(path, [line(n, unit=f"u{n}") for n in range(1, 2001)])
    names = [f"u{n}" for n in range(1000, 11_000)]
    assert len(ledgerfile.page(path, Query(names, last=5000)).records) == 1001
    assert len(ledgerfile.page(path, Query(names)).records) == 1001
