"""Whatever a program writes, at whatever size and time: it is never held up, and every line arrives, whole and in order."""

from __future__ import annotations

import json
import os
import random
import threading
import time

import pytest
from waiting import wait_for
from writer_harness import DEADLINE, Bench, read

from impetusd.supervisor.logs import holds, loglane, stream
from impetusd.supervisor.logs.lines import GOES_ON, Options, stamp
from impetusd.supervisor.logs.stream import STDOUT

STAMPED = len(f"{stamp(0.0)} ")
MIB = 1 << 20
LONG = 3600.0  # seconds that do not pass by themselves
MODES = {
    "plain": {},
    "time": {"time": True},
    "json": {"json": True},
    "merged": {"merged": True},
    "stdout": {"merged": True},
}


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


def lines_of(chance, word, most):
    """Numbered lines, most of them short, `most` bytes together; the last has its end."""
    lines, size = [], 0
    while size < most:
        length = int(10 ** chance.uniform(0, 5 if chance.random() < 0.02 else 3))
        lines.append(b"%s %d %s\n" % (word, len(lines), b"x" * length))
        size += len(lines[-1])
    return lines


def write_in_pieces(end, data, chance):
    view = memoryview(data)
    while view:
        size = int(10 ** chance.uniform(0, 7))
        piece, view = view[:size], view[size:]
        while piece:
            piece = piece[os.write(end, piece) :]
        if chance.random() < 0.2:
            time.sleep(chance.random() / 1000)  # a timing of its own, that nothing depends on


def flood(ends, texts, seed):
    """Write all of it, each with a thread; fails if one is held up for ever."""
    threads = [
        threading.Thread(target=write_in_pieces, args=(end, text, random.Random(seed + n)), daemon=True)
        for n, (end, text) in enumerate(zip(ends, texts, strict=True))
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + DEADLINE
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    held = sum(thread.is_alive() for thread in threads)
    assert not held, f"{held} of {len(threads)} programs are held up"


def undressed(data, options):
    if options.get("json"):
        return [json.loads(line)["line"].encode() for line in data.splitlines()]
    lines = data.split(b"\n")
    assert lines.pop() == b""
    return [line[STAMPED:] for line in lines] if options.get("time") else lines


@pytest.fixture
def standard_output(monkeypatch):
    """What was written there so far, read by a thread as slow as it likes."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    monkeypatch.setitem(stream.STREAMS, STDOUT, writer)
    parts = []

    def collect():
        while not (data := os.read(reader, 50_000)).endswith(b"\0"):
            parts.append(data)

    thread = threading.Thread(target=collect)
    thread.start()
    yield parts
    os.write(writer, b"\0")
    thread.join()
    os.close(writer)
    os.close(reader)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("programs", "most"), [(1, 8 * MIB), (50, MIB // 4)], ids=["one", "fifty"])
def test_every_line_arrives(bench, tmp_path, standard_output, mode, programs, most):
    options = MODES[mode]
    shared = mode in {"merged", "stdout"}
    chance = random.Random(programs)
    texts = [lines_of(chance, b"program%d" % n, most) for n in range(programs)]
    paths = [STDOUT if mode == "stdout" else tmp_path / ("o" if shared else f"o{n}") for n in range(programs)]
    ends = [
        bench.pipe(f"{n}:out", path, Options(name=f"p{n}", prefix="| " if mode == "stdout" else "", **options))
        for n, path in enumerate(paths)
    ]
    flood(ends, [b"".join(lines) for lines in texts], programs)
    bench.settle()
    if mode == "stdout":
        size = sum(len(line) + 2 for lines in texts for line in lines)
        wait_for(lambda: sum(map(len, standard_output)) == size, "all of it")
        found = [line.removeprefix(b"| ") for line in b"".join(standard_output).splitlines()]
    else:
        found = [line for path in dict.fromkeys(paths) for line in undressed(read(path), options)]
    assert sorted(found) == sorted(line[:-1] for lines in texts for line in lines)
    by_program = {}
    for line in found:
        word, number, _ = line.split(b" ", 2)
        by_program.setdefault(word, []).append(int(number))
    assert all(numbers == list(range(len(numbers))) for numbers in by_program.values())


def test_of_a_write_larger_than_the_pipe_the_unfinished_end_holds_up_nobody(bench, tmp_path):
    """The kernel wakes a reader only when the pipe was empty: 887 of 300,000 lines came once."""
    end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
    line = b"an ordinary line of a program, number %d\n"
    flood([end], [b"".join(line % n for n in range(100_000))], 1)
    bench.settle()
    assert undressed(read(tmp_path / "o"), {"time": True})[-1] == (line % 99_999)[:-1]


def test_what_is_written_byte_by_byte_is_read_now_and_then(bench, tmp_path, monkeypatch):
    """A read costs us more than a write of a byte costs its writer."""
    monkeypatch.setattr(loglane, "NAP", DEADLINE)
    end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
    pipe = bench.writer._pipes["1:out"]
    for number in range(loglane.OFTEN + 2):
        os.write(end, b"x")
        wait_for(lambda number=number: pipe.total > number, "the byte")
    wait_for(lambda: pipe.parked, "a rest")
    os.write(end, b"x\n")
    bench.settle()  # who asks does not wait for it
    assert undressed(read(tmp_path / "o"), {"time": True}) == [b"x" * (loglane.OFTEN + 3)]
    monkeypatch.setattr(loglane, "NAP", 0.001)


def test_after_a_rest_it_is_read_again(bench, tmp_path):
    end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
    for _ in range(1000):
        os.write(end, b"x")
        os.write(end, b"\n")
    wait_for(lambda: read(tmp_path / "o").count(b"\n") == 1000, "all lines")


class TestTooLong:
    """One line has more bytes than max_line."""

    MOST = 4096

    @pytest.mark.parametrize("pieces", [1, 7, 1000], ids=["at once", "7 bytes", "1000 bytes"])
    @pytest.mark.parametrize("options", [{"time": True}, {"json": True}], ids=["time", "json"])
    def test_its_parts_are_marked_and_no_character_is_torn(self, bench, tmp_path, options, pieces):
        end = bench.pipe("1:out", tmp_path / "o", Options(max_line=self.MOST, **options))
        text = ("a" + "€" * 5000 + "\nshort\n").encode()
        size = len(text) if pieces == 1 else pieces
        for at in range(0, len(text), size):
            os.write(end, text[at : at + size])
        bench.settle()
        lines = undressed(read(tmp_path / "o"), options)
        assert all(len(line.decode().removesuffix(GOES_ON).encode()) <= self.MOST for line in lines)
        if "json" in options:
            objects = [json.loads(line) for line in read(tmp_path / "o").splitlines()]
            parts = [each.get("partial", False) for each in objects]
        else:
            parts = [line.decode().endswith(GOES_ON) for line in lines]
            lines = [line.decode().removesuffix(GOES_ON).encode() for line in lines]
        assert parts == [True] * 3 + [False, False]
        assert b"".join(lines[:4]) + b"\n" == text.partition(b"short")[0]
        assert lines[4] == b"short"

    def test_its_parts_are_together_where_others_write_into_the_same_file(self, bench, tmp_path):
        ends = [bench.pipe(f"{n}:out", tmp_path / "o", Options(merged=True, max_line=self.MOST)) for n in range(2)]
        pipe = bench.writer._pipes["0:out"]
        for at in range(1, 6):
            os.write(ends[0], b"x" * 3000)
            wait_for(lambda at=at: pipe.total == 3000 * at, "the part")
            os.write(ends[1], b"other\n" * 100)
        os.write(ends[0], b"the end\n")
        wait_for(lambda: read(tmp_path / "o").count(b"other\n") == 500, "the others")
        bench.settle()
        lines = read(tmp_path / "o").decode().splitlines()
        first = next(n for n, line in enumerate(lines) if line.startswith("x"))
        assert "".join(line.removesuffix(GOES_ON) for line in lines[first : first + 4]) == "x" * 15_000 + "the end"
        assert set(lines[:first] + lines[first + 4 :]) == {"other"}

    def test_others_do_not_wait_for_its_end_for_ever_and_not_at_all_the_next_time(self, bench, tmp_path, monkeypatch):
        """The time that they wait passes when the test says so."""
        monkeypatch.setattr(holds, "HOLD", LONG)
        path = tmp_path / "o"
        ends = [bench.pipe(f"{n}:out", path, Options(json=True, max_line=self.MOST)) for n in range(2)]
        pipe = bench.writer._pipes["0:out"]
        lane = bench.writer._lane(pipe.place)
        os.write(ends[0], b"x" * 5000)
        hold = wait_for(lambda: lane._holds.by_path.get(str(path)), "its first part")
        os.write(ends[1], b"other\n")
        wait_for(lambda: hold.waiting, "the other to wait")

        def pass_time():
            hold.since -= 2 * LONG
            hold.until -= 2 * LONG

        lane.call(pass_time)
        wait_for(lambda: read(path).endswith(b'other"}\n'), "the other's line")
        os.write(ends[0], b"x" * 5000)
        wait_for(lambda: pipe.total == 10_000, "as much again")
        os.write(ends[1], b"another\n")
        wait_for(lambda: read(path).endswith(b'another"}\n'), "the other's next line")
        bench.settle()
        objects = [json.loads(line) for line in read(path).splitlines()]
        found = [(each["line"][0], len(each["line"]), each.get("partial", False)) for each in objects]
        assert found[:3] == [("x", self.MOST, True), ("x", 5000 - self.MOST, False), ("o", len("other"), False)]
        assert all(not partial for _, _, partial in found[3:])
        assert sum(length for first, length, _ in found if first == "x") == 10_000
