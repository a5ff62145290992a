"""What becomes of bytes on their way into a file: a table, and properties. Nothing is read or written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.supervisor.lines import LONGEST, Options, dress, offset_after, stamp, whole

TEXT = st.binary(max_size=60)


@given(TEXT)
def test_merged_lines_are_themselves_and_end(data):
    assert dress(data, Options(merged=True), 0.0) == (data if data.endswith(b"\n") or not data else data + b"\n")


@given(TEXT, st.floats(0, 4e9))
def test_each_line_gets_the_time(data, at):
    out = dress(data, Options(time=True), at)
    lines = [line.removeprefix(f"{stamp(at)} ".encode()) for line in out.split(b"\n")[:-1]]
    assert b"".join(line + b"\n" for line in lines) == dress(data, Options(merged=True), at)


@given(TEXT)
def test_a_json_line_holds_what_can_be_had_back(data):
    out = dress(data, Options(name='a"b', stream="error", json=True), 0.0)
    fields = [json.loads(line) for line in out.split(b"\n")[:-1]]
    expected = dress(data, Options(merged=True), 0.0).split(b"\n")[:-1]
    assert [each["line"] for each in fields] == [line.decode("utf-8", "backslashreplace") for line in expected]
    assert all((each["name"], each["stream"], each["time"]) == ('a"b', "error", stamp(0.0)) for each in fields)


@pytest.mark.parametrize(
    ("data", "forced", "count"),
    [
        (b"", False, 0),
        (b"half", False, 0),
        (b"half", True, 4),
        (b"one\ntwo\nhalf", False, 8),
        (b"one\ntwo\nhalf", True, 12),
        (b"x" * (LONGEST - 1), False, 0),
        (b"x" * LONGEST, False, LONGEST),
        (b"\n" + b"x" * LONGEST, False, 1),
    ],
)
def test_where_lines_are_cut(data, forced, count):
    assert whole(data, forced=forced) == count


@given(st.lists(st.binary(max_size=4).filter(lambda line: b"\n" not in line)), st.integers(0, 6))
def test_the_offset_of_a_line(lines, number):
    data = b"".join(line + b"\n" for line in lines)
    assert data[offset_after(data, number) :] == b"".join(line + b"\n" for line in lines[number:])
