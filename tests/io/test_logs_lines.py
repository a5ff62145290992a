"""What becomes of bytes on their way into a file: a table, and properties. Nothing is read or written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.supervisor.logs.lines import Options, Piece, dress, offset_after, split, stamp

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


MOST = 8


@pytest.mark.parametrize(
    ("data", "ended", "pieces", "rest"),
    [
        (b"", False, [], b""),
        (b"half", False, [], b"half"),
        (b"half", True, [Piece(b"half")], b""),
        (b"one\ntwo\nhalf", False, [Piece(b"one\ntwo\n")], b"half"),
        (b"one\ntwo\nhalf", True, [Piece(b"one\ntwo\nhalf")], b""),
        (b"x" * MOST, False, [], b"x" * MOST),
        (b"x" * MOST + b"\n", False, [Piece(b"x" * MOST + b"\n")], b""),
        (b"x" * MOST + b"y", False, [Piece(b"x" * MOST, goes_on=True)], b"y"),
        (b"x" * MOST + b"y\nz", False, [Piece(b"x" * MOST, goes_on=True), Piece(b"y\n")], b"z"),
        (b"1\n" + b"x" * MOST + b"y", True, [Piece(b"1\n"), Piece(b"x" * MOST, goes_on=True), Piece(b"y")], b""),
        ("€€€".encode(), False, [Piece("€€".encode(), goes_on=True)], "€".encode()),
        ("xx😀😀".encode(), False, [Piece("xx😀".encode(), goes_on=True)], "😀".encode()),
        (b"\x80" * 9, False, [Piece(b"\x80" * 8, goes_on=True)], b"\x80"),
    ],
)
def test_where_lines_are_cut(data, ended, pieces, rest):
    assert split(data, MOST, ended=ended) == (pieces, rest)


@given(st.text(alphabet="a€😀\n").map(str.encode) | st.binary(max_size=60), st.integers(4, 20), st.booleans())
def test_nothing_is_lost_where_lines_are_cut(data, most, ended):
    pieces, rest = split(data, most, ended=ended)
    assert b"".join(piece.data for piece in pieces) + rest == data
    assert b"\n" not in rest
    assert len(rest) <= most
    assert all(len(line) <= most for piece in pieces for line in piece.data.split(b"\n"))
    assert all(piece.data.endswith(b"\n") or piece.goes_on for piece in pieces[: None if not ended else -1])
    if data.decode("utf-8", "ignore").encode() == data:
        assert all(piece.data.decode() for piece in pieces)


def test_a_part_of_a_line_says_that_it_goes_on():
    assert dress(b"half", Options(merged=True), 0.0, goes_on=True) == "half…\n".encode()
    assert json.loads(dress(b"half", Options(json=True), 0.0, goes_on=True))["partial"] is True
    assert "partial" not in json.loads(dress(b"half", Options(json=True), 0.0))


@given(st.lists(st.binary(max_size=4).filter(lambda line: b"\n" not in line)), st.integers(0, 6))
def test_the_offset_of_a_line(lines, number):
    data = b"".join(line + b"\n" for line in lines)
    assert data[offset_after(data, number) :] == b"".join(line + b"\n" for line in lines[number:])
