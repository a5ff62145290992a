"""The ledger's file: nothing is lost or doubled over kills, it is bounded, a torn line is cut off, a full disk is outlasted."""

from __future__ import annotations

import asyncio
import errno
import json
import os

import pytest
from waiting import until

from impetusd.supervisor.disk import ledger
from impetusd.supervisor.disk.ledger import Ledger


class Bench:
    """Ledgers of one file, one after the other, and what the shim remembers of them."""

    def __init__(self, path):
        self.path = str(path / "ledger.jsonl")
        self.blobs: dict[str, str] = {}
        self.told: list[str] = []

    def open(self):
        return Ledger(self.path, self.blobs, asyncio.get_running_loop().call_soon_threadsafe, self.told.append)

    def round(self, made):
        """The end of a round: its puts reach the shim."""
        for key, text in made.puts().items():
            if text is None:
                self.blobs.pop(key, None)
            else:
                self.blobs[key] = text
        made.sent()

    def write(self, data):
        with open(self.path, "wb") as file:
            file.write(data)

    def records(self):
        lines = []
        for name in (f"{self.path}.1", self.path):
            if os.path.exists(name):
                with open(name, encoding="ascii") as file:
                    lines += file.read().splitlines()
        return [json.loads(line) for line in lines]

    def numbers(self):
        return [record["n"] for record in self.records()]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def run(test):
    asyncio.run(test())


def test_records_are_numbered_dated_and_on_the_disk_at_the_end(bench):
    async def test():
        made = bench.open()
        made.add("start", slot="web:0", pid=7)
        made.add("exit", slot="web:0", text="ü\n")
        bench.round(made)
        made.close()
        first, second = bench.records()
        assert (first["n"], first["kind"], first["pid"]) == (1, "start", 7)
        assert (second["n"], second["text"]) == (2, "ü\n")
        assert second["at"] >= first["at"] > 1.6e9

    run(test)


def test_what_is_on_the_disk_is_forgotten_by_the_shim(bench):
    async def test():
        made = bench.open()
        made.add("a")
        bench.round(made)
        assert list(bench.blobs) == ["ledger:1"]

        def forgotten():
            bench.round(made)
            return not bench.blobs

        await until(forgotten)
        made.close()

    run(test)


def test_a_supervisor_killed_before_the_disk_had_it_loses_nothing_and_doubles_nothing(bench, monkeypatch):
    async def test():
        first = bench.open()
        first.add("a")
        bench.round(first)
        first.close()
        kept = dict(bench.blobs)  # as if it had died before it could say that this is written
        bench.blobs.update({"ledger:3": '{"n":2,"at":1,"kind":"b"}\n{"n":3,"at":1,"kind":"c"}\n', **kept})
        second = bench.open()
        second.add("d")
        bench.round(second)
        second.close()
        assert bench.numbers() == [1, 2, 3, 4]

    run(test)


@pytest.mark.parametrize("torn", [b'{"n":3,"at', b"\0\0\0", b"}"])
def test_a_line_that_a_power_cut_tore_is_cut_off(bench, torn):
    async def test():
        bench.write(b'{"n":1,"at":1,"kind":"a"}\n{"n":2,"at":1,"kind":"a"}\n' + torn)
        made = bench.open()
        made.add("b")
        bench.round(made)
        made.close()
        assert bench.numbers() == [1, 2, 3]

    run(test)


def test_it_is_bounded_and_numbers_go_on_over_files_and_lives(bench, monkeypatch):
    monkeypatch.setattr(ledger, "BYTES", 1000)

    async def test():
        for life in range(3):
            made = bench.open()
            for number in range(20):
                made.add("x", text="y" * 50, life=life, number=number)
                bench.round(made)
            made.close()
        numbers = bench.numbers()
        assert numbers == list(range(numbers[0], 61))
        assert len(numbers) < 60
        assert os.path.getsize(bench.path) < 1200
        assert os.path.getsize(f"{bench.path}.1") < 1200

    run(test)


def test_a_file_that_was_taken_away_is_made_again(bench):
    async def test():
        made = bench.open()
        made.add("a")
        bench.round(made)
        await until(lambda: os.path.exists(bench.path) and bench.numbers() == [1])
        os.unlink(bench.path)
        made.add("b")
        bench.round(made)
        made.close()
        assert bench.numbers() == [2]

    run(test)


def test_a_disk_that_takes_nothing_is_told_once_and_outlasted(bench, monkeypatch):
    monkeypatch.setattr(ledger, "AGAIN", 0.01)
    monkeypatch.setattr(ledger, "WAITING", 5)
    full = [True]
    append = ledger._append

    def sometimes(fd, data):
        if full[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(fd, data)

    monkeypatch.setattr(ledger, "_append", sometimes)

    async def test():
        made = bench.open()
        for _ in range(8):
            made.add("a")
            bench.round(made)
        await until(lambda: len(bench.told) == 1)
        assert "No space left on device" in bench.told[0]
        full[0] = False
        await until(lambda: bench.numbers()[-1:] == [5])
        await until(lambda: len(bench.told) == 2)
        made.add("b")
        bench.round(made)
        made.close()
        lost, last = bench.records()[-2:]
        assert (lost["n"], lost["kind"], lost["records"]) == (6, "lost", 3)
        assert (last["n"], last["kind"]) == (7, "b")

    run(test)


def test_no_half_a_batch_stays_on_a_disk_that_fills_up(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"one\n")
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    write, taken = os.write, []

    def half(to, data):
        if taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken.append(write(to, data[:2]))
        return taken[0]

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        ledger._append(fd, b"two\n")
    os.close(fd)
    assert path.read_bytes() == b"one\n"


def test_a_link_in_its_place_is_not_followed(bench, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    os.symlink(other, bench.path)

    async def test():
        made = bench.open()
        made.add("a")
        bench.round(made)
        await until(lambda: bool(bench.told))
        made.close()

    run(test)
    assert other.read_bytes() == b"mine"
