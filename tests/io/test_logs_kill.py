"""The writer is killed at every step of its work: its successor loses nothing and writes nothing twice."""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import random
import re
import subprocess
import termios
import threading
from pathlib import Path

import commanding
import pytest
from waiting import wait_for
from writer_harness import read

from impetusd.supervisor.logs.journal import Journal
from impetusd.supervisor.logs.lines import stamp
from impetusd.supervisor.logs.lost import Losses
from impetusd.supervisor.logs.unfinished import Unfinished

POINTS = [
    "before take",
    "before read",
    "after read",
    "after take",
    "after mark",
    "within write",
    "after write",
    "before done",
    "after done",
]
HOLDING = ["before hold", "after hold", "after read", "after write", "before done"]  # of a line that is not whole yet
LINES = b"".join(b"line %d\n" % number for number in range(3000))
STAMPED = len(f"{stamp(0.0)} ")


class Forked(commanding.Forked):
    host = commanding.Host(Path(__file__).with_name("writer_host.py"))


class Supervisors:
    """One after the other, with the pipes and the journal that the shim would hold."""

    def __init__(self, root, **options):
        self.root = root
        self.journal, self.losses, self.unfinished = Journal(), Losses(), Unfinished()
        self.options = options
        self.readers, self.writers, self.pipes = [], [], []
        self.process = None

    def pipe(self, file="o"):
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.readers.append(reader)
        self.writers.append(writer)
        self.pipes.append([f"{len(self.pipes)}:out", reader, f"{self.root}/{file}", self.options])
        return writer

    def start(self, fault="", skip=0):
        told = {
            "log": f"{self.root}/impetusd.log",
            "held": {"journal:0": self.journal.fd, "lost": self.losses.fd, "lines": self.unfinished.fd},
            "pipes": self.pipes,
            "fault": fault,
            "skip": skip,
        }
        self.process = Forked(
            ["writer_host", json.dumps(told)],
            stdin=subprocess.PIPE,
            pass_fds=[self.journal.fd, self.losses.fd, self.unfinished.fd, *self.readers],
            cwd=self.root,
            env={"PATH": os.environ["PATH"]},
        )

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def was_killed(self):
        """Wait for it to be killed, by itself."""
        assert self.process.wait(60) == -9
        self.process.communicate()

    def end(self):
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for fd in self.readers + self.writers:
            os.close(fd)
        for memory in (self.journal, self.losses, self.unfinished):
            memory.close()


@pytest.fixture
def supervisors(tmp_path):
    made = []

    def make(**options):
        made.append(Supervisors(tmp_path, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def unread(fd):
    waiting = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, waiting)
    return waiting[0]


def plain(data, options):
    """What the program wrote, from what is in the file."""
    if options.get("json"):
        return b"".join(json.loads(line)["line"].encode() + b"\n" for line in data.splitlines())
    if options.get("time"):
        assert all(re.match(rb"\d{4}-", line) for line in data.splitlines())
        return b"".join(line[STAMPED:] + b"\n" for line in data.splitlines())
    return data


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("options", "text"), [({}, b"x\n"), ({}, LINES), ({"json": True}, LINES)], ids=["short", "long", "json"]
)
def test_killed_at_each_step(supervisors, tmp_path, point, options, text):
    made = supervisors(**options)
    end = made.pipe()
    made.start(point, skip=1)
    os.write(end, text)
    wait_for(lambda: read(tmp_path / "o").count(b"\n") == text.count(b"\n"), "the first chunk")
    os.write(end, text.replace(b"line", b"next"))
    made.was_killed()
    os.write(end, b"the end\n")
    made.start()
    made.end()
    assert plain(read(tmp_path / "o"), options) == text + text.replace(b"line", b"next") + b"the end\n"


@pytest.mark.parametrize("point", HOLDING)
@pytest.mark.parametrize(("skip", "options"), [(1, {"json": True}), (2, {"time": True})], ids=["json", "time"])
def test_killed_while_the_beginning_of_a_line_is_held(supervisors, tmp_path, point, skip, options):
    """Each write ends within a line, and one has no line's end at all."""
    made = supervisors(**options)
    end = made.pipe()
    text = LINES[:30_001] + b"x" * 3000 + LINES[30_001:]
    made.start(point, skip)
    for at in range(0, len(text), 1501):
        os.write(end, text[at : at + 1501])
        wait_for(lambda: made.process.poll() is not None or not unread(made.readers[0]), "it to be read")
    os.write(end, b"the end\n")
    made.was_killed()
    made.start()
    wait_for(lambda: b"the end" in read(tmp_path / "o"), "the last line")
    made.end()
    assert plain(read(tmp_path / "o"), options) == text + b"the end\n"


def test_what_was_held_of_a_line_ends_with_its_run_and_is_there_once(supervisors, tmp_path):
    """The supervisor is killed when it has written the last line, which has no end, and has not noted that yet."""
    made = supervisors(time=True)
    end = made.pipe()
    made.start("before hold", skip=2)
    os.write(end, b"whole\nhalf")
    wait_for(lambda: b"whole" in read(tmp_path / "o"), "the first line")
    made.process.stdin.close()  # it ends in order: what it holds is the last
    made.was_killed()
    assert plain(read(tmp_path / "o"), {"time": True}) == b"whole\nhalf\n"
    made.start()
    made.end()
    assert plain(read(tmp_path / "o"), {"time": True}) == b"whole\nhalf\n"


def test_killed_while_it_rotates(supervisors, tmp_path):
    made = supervisors(max_size=1000, keep=100, compress=False)
    end = made.pipe()
    text = LINES
    os.write(end, text)
    for skip in (3, 4, 5):
        made.start("after write", skip)
        made.was_killed()
    made.start()
    made.end()
    files = [tmp_path / "o", *(tmp_path / f"o.{n}" for n in range(1, 101))]
    parts = [read(file) for file in files if file.exists()]
    assert b"".join(reversed(parts)) == text
    assert all(part.endswith(b"\n") for part in parts)


@pytest.mark.parametrize("point", ["after read", "after take", "before count", "after count", "before done"])
@pytest.mark.parametrize("options", [{}, {"json": True}], ids=["plain", "json"])
def test_killed_while_lines_are_dropped_each_is_counted_once(supervisors, tmp_path, point, options):
    made = supervisors(**options)
    path = tmp_path / "o"
    end = made.pipe()
    path.mkdir()  # in the way
    text = b"".join(b"line %d\n" % number for number in range(30))
    for at in range(0, len(text), 50):  # lines are torn at odd places
        os.write(end, text[at : at + 50])
        made.start(point)
        made.was_killed()
    path.rmdir()
    made.start()
    os.write(end, b"the end\n")
    made.end()
    told, kept = (0, 0), b""
    for line in plain(read(path), options).splitlines(keepends=True):
        marker = re.match(rb"impetusd: (\d+) bytes, (\d+) lines of output were dropped here", line)
        if marker:
            told = int(marker[1]), int(marker[2])
        else:
            kept += line
    losses = Losses(os.dup(made.losses.fd))
    lost = losses.of(str(path))
    assert kept.endswith(b"the end\n")
    assert (text + b"the end\n").endswith(kept)
    assert lost.since == 0.0
    assert told == (lost.bytes, lost.lines) == (len(text) - len(kept) + 8, text.count(b"\n") - kept.count(b"\n") + 1)
    assert (lost.bytes > 0) is (point != "before count")  # there, each died before it had counted anything
    losses.close()


@pytest.mark.parametrize("options", [{}, {"time": True}, {"merged": True}], ids=["plain", "time", "merged"])
def test_killed_at_any_moment(supervisors, tmp_path, options):
    made = supervisors(**options)
    ends = [made.pipe("o"), made.pipe("o" if options.get("merged") else "p")]
    chance = random.Random(1)
    enough = threading.Event()
    counts = {}

    def flood(end, word):
        number = 0
        with open(end, "wb", closefd=False, buffering=777) as file:  # lines are torn at odd places
            while not enough.is_set():
                file.write(b"%s %d\n" % (word, number))
                number += 1
        counts[word] = number

    threads = [threading.Thread(target=flood, args=pair) for pair in zip(ends, (b"one", b"two"), strict=True)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        made.start()
        size = sum(len(read(tmp_path / file)) for file in "op")
        more = chance.randrange(1, 100_000)
        wait_for(lambda: sum(len(read(tmp_path / file)) for file in "op") > size + more, "more lines")  # noqa: B023
        made.kill()
    made.start()
    enough.set()
    for thread in threads:
        thread.join(60)
    made.end()
    text = plain(read(tmp_path / "o"), options) + plain(read(tmp_path / "p"), options)
    for word, count in counts.items():
        found = [line for line in text.splitlines() if line.startswith(word)]
        assert found == [b"%s %d" % (word, number) for number in range(count)]
    assert text.count(b"\n") == sum(counts.values())


def test_the_journal_tells_a_successor_what_was_under_way():
    journal = Journal()
    reader, writer = os.pipe2(os.O_NONBLOCK)

    def found():
        with contextlib.closing(Journal(os.dup(journal.fd))) as successor:
            return successor.pending()

    try:
        os.write(writer, b"abc")
        assert bytes(journal.take(reader, b"p", 1.5)) == b"abc"
        pending = found()
        assert (pending.pipe, pending.at, pending.data, pending.inode, pending.ended) == ("p", 1.5, b"abc", 0, False)
        journal.mark(1, 2, 3, 0)
        journal.mark(1, 9, 4, 2)
        assert found()[3:7] == (1, 9, 4, 2)
        journal.done()
        assert found() is None
        with pytest.raises(BlockingIOError):
            journal.take(reader, b"p", 1.5)
        assert journal.pending() is None
        os.close(writer)
        assert bytes(journal.take(reader, b"p", 1.5)) == b""
        assert journal.pending() is None
    finally:
        os.close(reader)
        journal.close()
