"""Samples and marks in one bounded file, which survives kills, full disks and damage, and is read while it is written."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3

import pytest
from smalldisk import small_disk

from impetusd.observer import history
from impetusd.observer.history import COARSE, FINE, KEPT, Writer, read
from impetusd.observer.outbox import Damaged

T0 = 1_800_000_000 - 1_800_000_000 % COARSE


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / history.NAME)


def minutes(path, count, *, first=0, slots=("web:0",), value=float, writer=None):
    """A writer that has written so many minutes from T0 on."""
    made = writer or Writer(path, T0 + first * FINE)
    for at in range(first, first + count):
        made.write({slot: {"memory": value(at), "cpu": value(at)} for slot in slots}, [], T0 + at * FINE + 0.5)
    return made


def points(path, series="memory", unit="web", since=0, until=T0 * 2):
    return read(path, unit, [series], since, until)["series"][series]


def test_samples_are_read_by_unit_and_slot_and_time_while_they_are_written(path):
    writer = minutes(path, 130, slots=("web:0", "web:1", "db"))
    found = read(path, "web", ["memory", "lag"], T0, T0 + 130 * FINE)
    assert (found["step"], found["from"]) == (FINE, T0)
    assert found["series"]["memory"]["web:1"] == [[T0 + at * FINE, float(at)] for at in range(130)]
    assert set(found["series"]["memory"]) == {"web:0", "web:1"}
    assert found["series"]["lag"] == {}
    assert list(points(path, unit="web:1")) == ["web:1"]
    assert sorted(points(path, unit="")) == ["db", "web:0", "web:1"]
    assert points(path, since=T0 + 5 * FINE, until=T0 + 6 * FINE)["web:0"] == [[T0 + 300, 5.0], [T0 + 360, 6.0]]
    writer.close()
    assert len(points(path)["web:0"]) == 130


def test_a_gap_stays_one(path):
    writer = minutes(path, 2)
    minutes(path, 2, first=10, writer=writer)
    assert [at for at, _ in points(path)["web:0"]] == [T0 + each * FINE for each in (0, 1, 10, 11)]
    writer.close()


def test_a_new_writer_goes_on_in_the_same_block(path):
    minutes(path, 3).close()
    minutes(path, 3, first=3).close()
    assert [value for _, value in points(path)["web:0"]] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_what_is_older_than_two_days_is_there_by_the_quarter_of_an_hour(path):
    writer = minutes(path, 31)
    later = T0 + KEPT[FINE] + 5 * 3600
    writer.write({}, [], later)
    assert read(path, "web", ["memory"], T0, later)["step"] == COARSE
    assert points(path, until=later)["web:0"] == [[T0, 14.0], [T0 + COARSE, 29.0], [T0 + 2 * COARSE, 30.0]]  # the most
    assert points(path, "cpu", until=later)["web:0"] == [
        [T0, 7.0],
        [T0 + COARSE, 22.0],
        [T0 + 2 * COARSE, 30.0],
    ]  # the mean
    writer.write({}, [], T0 + KEPT[COARSE] + 2 * COARSE * history.BLOCK)
    assert points(path) == {}
    writer.close()


def test_marks_come_with_it_once_each(path):
    writer = minutes(path, 1)
    marks = [
        (T0 + 1.5, 7, "restart", "web", "exit 1"),
        (T0 + 2.5, 8, "deploy", "", "all"),
        (T0 + 3.5, 9, "exit", "db", "x"),
    ]
    writer.write({}, marks, T0 + 60)
    writer.write({}, marks, T0 + 120)
    assert [(each["kind"], each["unit"]) for each in read(path, "web:0", [], T0, T0 + 9)["marks"]] == [
        ("restart", "web"),
        ("deploy", ""),
    ]
    assert len(read(path, "", [], T0, T0 + 9)["marks"]) == 3
    writer.close()


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        ({"kind": "exit", "unit": "web", "slot": "web", "code": 1, "asked": False, "decision": "x"}, "restart"),
        ({"kind": "exit", "unit": "web", "slot": "web", "code": 0, "asked": True, "decision": "x"}, "exit"),
        ({"kind": "reload", "unit": "web", "what": "done", "generation": 2, "reason": ""}, "deploy"),
        ({"kind": "command", "method": "restart", "names": ["web"], "outcome": "done", "uid": 0}, "command"),
        ({"kind": "command", "method": "restart", "names": ["web"], "outcome": "refused", "uid": 0}, None),
        ({"kind": "ready", "unit": "web", "slot": "web"}, None),
    ],
)
def test_what_is_worth_a_mark(record, kind):
    made = history.mark({"n": 1, "at": T0, **record})
    assert (made and made[:2]) == (kind and (kind, "web"))


def measured(requests, durations, lags=(0.0, [0]), connections=6, workers=2):
    named = [{"sum": total, "counts": counts} for total, counts in (durations, lags)]
    own = {"requests": requests, "durations": named[0], "lags": named[1]}
    return {"web": {"workers": workers, "connections": connections, **own}}


def test_of_a_pool_two_answers_make_a_sample():
    before = measured({"200": 10}, (1.0, [10, 0]), (0.5, [5]))
    after = measured({"200": 60, "500": 10}, (4.0, [50, 20]), (0.5, [5]))
    assert history.of_pools(after, before, 60.0) == {"web": {"connections": 3.0, "requests": 1.0, "latency": 0.05}}
    assert history.of_pools(after, {}, 60.0) == {"web": {"connections": 3.0}}
    assert history.of_pools(before, after, 60.0) == {"web": {"connections": 3.0}}  # begun anew
    assert history.of_pools(measured({}, (0.0, []), connections=0, workers=0), {}, 0.0) == {"web": {"connections": 0.0}}


def test_the_file_is_bounded_and_the_oldest_go_first(path, monkeypatch):
    monkeypatch.setattr(history, "MOST", 1 << 20)
    slots = [f"web:{each}" for each in range(40)]
    writer = Writer(path, T0)
    for hour in range(40):
        writer.write({slot: dict.fromkeys(history.SERIES, 1.0) for slot in slots}, [], T0 + hour * 3600)
    assert os.path.getsize(path) <= 1 << 20
    kept = [at for at, _ in points(path, since=T0 + 37 * 3600)["web:0"]]
    assert kept == [T0 + hour * 3600 for hour in (37, 38, 39)]
    assert writer._connection.execute("SELECT min(start) FROM samples WHERE step = ?", (FINE,)).fetchone()[0] > T0
    writer.close()


def test_a_damaged_file_is_named(path):
    minutes(path, 3).close()
    with open(path, "r+b") as file:
        file.seek(0)
        file.write(os.urandom(4096))
    with pytest.raises(Damaged):
        Writer(path, T0)


def test_nothing_is_read_of_what_is_not_there(path):
    with pytest.raises(sqlite3.OperationalError):
        read(path, "web", ["memory"], 0, 1)
    assert not os.path.exists(path)


class Counting:
    """A connection, over whose n-th statement its process is killed."""

    def __init__(self, connection, last):
        self.connection, self.left = connection, last
        self.in_transaction = False

    def execute(self, *args):
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.connection.execute(*args)

    def executemany(self, *args):
        self.execute("SELECT 1")
        return self.connection.executemany(*args)


def test_killed_at_any_point_it_goes_on_with_whole_minutes(path):
    for last in range(1, 12):
        pid = os.fork()
        if pid == 0:
            try:
                writer = Writer(path, T0)
                writer._connection = Counting(writer._connection, last)
                minutes(path, 100, writer=writer)
            finally:
                os._exit(1)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        writer = minutes(path, 1, first=last * 100)
        assert all(len(each) >= 1 for each in points(path).values())
        of_cpu, of_memory = points(path, "cpu"), points(path)
        assert of_cpu == of_memory  # what was written together is there together
        writer.close()


def test_a_full_disk_fails_the_minute_and_the_next_one_is_taken(tmp_path):
    with small_disk(tmp_path / "small", "1m") as folder:
        path = str(folder / history.NAME)
        writer = minutes(path, 2)
        with contextlib.closing(writer):
            with open(folder / "filler", "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"x" * 4096)
                except OSError:
                    pass
            with pytest.raises(sqlite3.OperationalError, match="full"):
                for at in range(2, 400):
                    many = {f"web:{each}": {"memory": 1.0} for each in range(400)}
                    writer.write(many, [], T0 + at * 3600)
            os.unlink(folder / "filler")
            writer.write({"web:0": {"memory": 9.0}}, [], T0 + 5000 * FINE)
            assert points(path, since=T0 + 5000 * FINE)["web:0"] == [[T0 + 5000 * FINE, 9.0]]
