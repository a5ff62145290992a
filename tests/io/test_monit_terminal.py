"""`impetusd monit` on a terminal: what it writes, how it begins and ends. The daemon is a fake that says what the test wants."""

from __future__ import annotations

import queue
import re
import subprocess
import termios

import pytest
from fake_supervisor import FakeSupervisor, failed_row, paths_in, row
from monit_terminal import COMMAND, Terminal

from impetusd.core import protocol, stream

ROWS = {f"p{n}": row(f"p{n}") for n in range(500)}


def lines_of(rows, at=100.0):
    import json

    return [stream.body(at, kind, key, json.dumps(value)) for kind, each in rows.items() for key, value in each.items()]


class Feed:
    """What `watch` says: everything, then each change that is put."""

    def __init__(self, rows, attention=()):
        self.rows = {"unit": rows, "daemon": {"": {"attention": list(attention)}}}
        self.changes = queue.SimpleQueue()
        self.n = 0

    def __call__(self, params, send):
        send(protocol.result_line(2, {"life": "a", "n": self.n, "resumed": False}))
        send(b"".join(map(stream.row_line, lines_of(self.rows))) + stream.mark_line(stream.COMPLETE, self.n))
        while (change := self.changes.get()) is not None:
            self.n += 1
            (body,) = lines_of(change)
            send(stream.change_line(self.n, body))
        raise ConnectionError


@pytest.fixture
def feed(tmp_path):
    found = Feed(dict(ROWS))
    yield found
    found.changes.put(None)


@pytest.fixture
def daemon(paths, feed):
    with FakeSupervisor(paths, watch=feed, status=lambda *_: {}) as fake:
        yield fake
        feed.changes.put(None)


WORDS = ("QWERTY", "ZXCVBN", "MLKJHG", "poiuyt", "asdfgh", "nbvcxz")


def test_less_than_a_kilobyte_a_second_where_everything_changes(daemon, feed):
    """500 rows; memory and CPU of each change in every second. It draws that once a second, so one drawing is a second's."""
    with Terminal(daemon.paths.conf, TERM="xterm") as terminal:
        at = terminal.until("500 up")
        terminal.until("p16", 0)
        spent = []
        for turn, word in enumerate(WORDS):
            usage = {name: [(48 << 20) + (turn * 7 + n << 20), 0.3 + turn * 1.1 + n % 9] for n, name in enumerate(ROWS)}
            before = len(terminal.read())
            feed.changes.put({"usage": {"": usage}})
            feed.changes.put({"daemon": {"": {"attention": [word]}}})  # which shows that it was drawn
            at = terminal.until(word, before)
            spent.append(at - before)
        assert max(spent[1:]) < 1000, spent  # the first one has the table move down
        terminal.press("q")
        assert terminal.end() == (0, "")


def test_what_is_as_before_is_not_written_again(daemon, feed):
    with Terminal(daemon.paths.conf, TERM="xterm") as terminal:
        terminal.until("500 up")
        terminal.until("p16", 0)
        before = len(terminal.read())
        feed.changes.put({"unit": {"p3": failed_row("p3")}})
        at = terminal.until("BACKOFF", before)
        assert b"p16" not in terminal.written[before:at]
        terminal.press("q")
        assert terminal.end()[0] == 0


@pytest.mark.parametrize("keys", ["q", "\x03"])
def test_the_terminal_is_given_back_as_it_was(daemon, keys):
    with Terminal(daemon.paths.conf) as terminal:
        terminal.until("500 up")
        assert termios.tcgetattr(terminal.slave) != terminal.before
        terminal.press(keys)
        code, err = terminal.end()
        assert (code, err) == (0 if keys == "q" else 130, "")
        assert termios.tcgetattr(terminal.slave) == terminal.before
        terminal.until("\x1b[?1049l")  # the kernel may pass on what a process has written after its end
        assert terminal.written.startswith(b"\x1b[?1049h")


def test_a_signal_that_ends_it_gives_the_terminal_back(daemon):
    with Terminal(daemon.paths.conf) as terminal:
        terminal.until("500 up")
        terminal.process.terminate()
        assert terminal.end() == (143, "")
        assert termios.tcgetattr(terminal.slave) == terminal.before


def test_another_size_is_another_picture(daemon):
    with Terminal(daemon.paths.conf) as terminal:
        terminal.until("q quit")
        before = len(terminal.read())
        assert b"p30" not in terminal.written
        terminal.resize(120, 50)
        terminal.until("p45", before)
        before = len(terminal.read())
        terminal.resize(30, 5)
        terminal.until("monit needs 40 x 8", before)
        terminal.press("q")
        assert terminal.end() == (0, "")


COLOUR = re.compile(rb"\x1b\[[0-9;]*3[1-7][;m]")


@pytest.mark.parametrize(
    ("environ", "coloured", "ascii_only"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"TERM": "vt100"}, False, False),
        ({"LC_ALL": "C"}, True, True),
        ({"LC_ALL": "POSIX", "TERM": "xterm-mono"}, False, True),
    ],
)
def test_terminals_without_colours_and_locales_without_utf8(daemon, feed, environ, coloured, ascii_only):
    feed.rows["unit"] = {"web": failed_row("web", reason="é\x1b]0;owned\x07漢\udc80 " * 9), "db": row("db")}
    with Terminal(daemon.paths.conf, **environ) as terminal:
        terminal.until("1 of 2 not OK")
        terminal.until("q quit")
        assert bool(COLOUR.search(terminal.written)) is coloured
        assert terminal.written.isascii() is ascii_only
        assert b"\x1b]" not in terminal.written
        terminal.press("q")
        assert terminal.end() == (0, "")


def test_what_is_asked_is_what_was_confirmed(daemon, feed):
    daemon.handlers["stop"] = {"ok": True, "units": []}
    daemon.handlers["reload"] = {"ok": False, "units": [], "reloads": [{"reason": "it\x1b[2J ended"}]}
    with Terminal(daemon.paths.conf) as terminal:
        terminal.until("500 up")
        terminal.press("jSy")
        at = terminal.until("stop p1: done")
        terminal.press("R")
        at = terminal.until("Reload p1?", at)
        terminal.press("n")
        at = terminal.until("nothing was done", at)
        terminal.press("Ry")
        terminal.until("the old version keeps serving: it ended", at)
        terminal.press("q")
        assert terminal.end() == (0, "")
    asked = [each for each in daemon.asked if each[0] != "watch"]
    assert [method for method, _ in asked] == ["stop", "reload"]
    assert asked[0][1]["names"] == asked[1][1]["names"] == ["p1"]


def test_a_log_and_what_refuses_it(daemon):
    page = {"path": "/l", "offset": 0, "next": 9, "file": "1:1", "anew": False, "more": False}

    def tail(params, send):
        if params["stream"] == "error":
            raise protocol.ProtocolError(protocol.FAILED, "tail takes the role operator")
        send(protocol.result_line(1, {**page, "lines": ["first"]}))
        send(stream.lines_line({**page, "lines": ["\x1b[31msecond"]}))
        raise ConnectionError

    daemon.handlers["tail"] = tail
    with Terminal(daemon.paths.conf) as terminal:
        terminal.until("500 up")
        terminal.press("l")
        terminal.until("second")
        at = terminal.until("stdout of p0")
        terminal.press("\t")
        terminal.until("tail takes the role operator", at)
        terminal.press("q")
        terminal.press("q")
        assert terminal.end() == (0, "")
    asked = [params for method, params in daemon.asked if method == "tail"]
    assert asked[0]["follow"] is True


def test_it_says_what_it_needs(tmp_path, daemon):
    conf = daemon.paths.conf
    piped = subprocess.run(
        [*COMMAND, "-c", conf, "monit"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (piped.returncode, piped.stdout) == (2, "")
    assert "use: impetusd status --watch" in piped.stderr
    with Terminal(conf, TERM="no-such-terminal") as terminal:
        code, err = terminal.end()
        assert (code, terminal.written) == (2, b"")
        assert "TERM='no-such-terminal'" in err
    (tmp_path / "other").mkdir()
    with Terminal(paths_in(tmp_path / "other").conf) as terminal:
        code, err = terminal.end()
        assert code == 3
        assert "is not running" in err
