"""Standard output in the place of log files: whole lines behind a name, and what happens when nobody reads."""

from __future__ import annotations

import os
import pty

import pytest

from impetusd.supervisor.logs import logfile, stream
from impetusd.supervisor.logs.lines import Options, dress
from impetusd.supervisor.logs.stream import STDOUT, Prefix, Stream


@pytest.mark.parametrize(
    ("options", "said", "written"),
    [
        (Options(prefix="web:0 | "), b"one\ntwo", b"web:0 | one\nweb:0 | two\n"),
        (Options(prefix="web:0 | "), b"\n", b"web:0 | \n"),
        (Options(prefix="web:0 | ", time=True), b"x\n", b"web:0 | 1970-01-01T00:00:01.500+0000 x\n"),
    ],
)
def test_each_line_has_its_name_before_it(options, said, written, monkeypatch):
    monkeypatch.setenv("TZ", "UTC0")
    assert options.by_lines
    assert dress(said, options, 1.5) == written


@pytest.fixture
def pipe(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setitem(stream.STREAMS, STDOUT, writer)
    yield reader
    os.close(reader)
    os.close(writer)


def test_a_stream_that_nobody_reads_costs_lines_which_are_counted_and_no_time(pipe, monkeypatch):
    monkeypatch.setattr(stream, "STUCK", 0.01)
    monkeypatch.setattr(logfile, "RETRY", 0.0)
    file = Stream(STDOUT)
    line = b"x" * 99 + b"\n"
    told, count = [], 0
    while not told:
        told = file.write(line)
        count += 1
    assert told == ["writing to standard output failed: no data was accepted for 0.01 s; dropping output"]
    assert (file.lost.bytes, file.lost.lines) == (100, 1)
    got = os.read(pipe, 1 << 20)
    assert got == line * (count - 1)
    assert file.write(b"again\n") == ["writing to standard output works again; 100 bytes, 1 line was dropped"]
    marker, again = os.read(pipe, 1 << 20).splitlines()
    assert marker.startswith(b"impetusd: 100 bytes, 1 lines of output were dropped here")
    assert again == b"again"
    file.close()


def test_a_line_that_is_longer_than_the_pipe_takes_at_once_is_whole(pipe):
    file = Stream(STDOUT)
    assert file.write(b"y" * 20_000 + b"\n") == []
    assert os.read(pipe, 1 << 20) == b"y" * 20_000 + b"\n"
    file.close()


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({}, ["\033[31mdb    |\033[0m ", "\033[33mweb:0 |\033[0m "]),
        ({"NO_COLOR": "1"}, ["db    | ", "web:0 | "]),
        ({"TERM": "dumb"}, ["db    | ", "web:0 | "]),
    ],
)
def test_on_a_terminal_names_are_aligned_and_coloured(environ, shown, monkeypatch):
    main, terminal = pty.openpty()
    monkeypatch.setitem(stream.STREAMS, STDOUT, terminal)
    prefix = Prefix(environ)
    prefix.width = 5
    assert [prefix.of("db"), prefix.of("web:0")] == shown
    os.close(main)
    os.close(terminal)


def test_elsewhere_they_are_plain(pipe):
    prefix = Prefix({})
    prefix.width = 5
    assert prefix.of("db") == "db | "
