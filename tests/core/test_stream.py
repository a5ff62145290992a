"""What `watch` sends: the ring of numbered lines, what is resumed and what is not, and what a watcher makes of it."""

from __future__ import annotations

import json

import pytest

from impetusd.core import protocol, stream
from impetusd.core.stream import Mirror, OutOfStep
from impetusd.supervisor.api.ring import Ring


class TestTheRing:
    def test_gives_what_follows_a_number(self):
        ring = Ring(1000)
        for line in (b"one\n", b"two\n", b"three\n"):
            ring.add(line)
        assert (ring.first, ring.last) == (0, 3)
        assert ring.after(0, 1000) == (b"one\ntwo\nthree\n", 3)
        assert ring.after(1, 1000) == (b"two\nthree\n", 3)
        assert ring.after(3, 1000) == (b"", 3)

    def test_gives_a_portion_at_a_time_and_one_line_at_least(self):
        ring = Ring(1000)
        for line in (b"1234567\n", b"2234567\n", b"3234567\n"):
            ring.add(line)
        assert ring.after(0, 9) == (b"1234567\n2234567\n", 2)
        assert ring.after(2, 1) == (b"3234567\n", 3)

    def test_is_bounded_in_bytes_and_who_is_too_late_is_told(self):
        ring = Ring(30)
        for number in range(100):
            ring.add(b"%09d\n" % number)
        assert (ring.first, ring.last) == (97, 100)
        assert ring.after(97, 1000) == (b"".join(b"%09d\n" % number for number in (97, 98, 99)), 100)
        assert ring.after(96, 1000) is None
        assert ring.after(101, 1000) is None
        ring.add(b"x" * 50)
        assert ring.after(100, 1000) == (b"x" * 50, 101)

    def test_those_who_came_equally_far_get_the_same_bytes(self):
        ring = Ring(1000)
        ring.add(b"one\n")
        ring.add(b"two\n")
        assert ring.after(0, 1000)[0] is ring.after(0, 1000)[0]
        ring.add(b"three\n")
        assert ring.after(0, 1000) == (b"one\ntwo\nthree\n", 3)

    def test_forgets_so_that_nobody_goes_on_over_it(self):
        ring = Ring(1000)
        ring.add(b"one\n")
        ring.clear()
        assert ring.after(1, 1000) is None
        assert ring.after(ring.last, 1000) == (b"", 2)


def heard(mirror, line):
    answer = protocol.parse_answer(line.rstrip(b"\n"))
    return mirror.take(*answer.notice)


def unit(at, key, **fields):
    return stream.body(at, stream.UNIT, key, json.dumps(fields))


@pytest.fixture
def mirror():
    """One that has the snapshot number 7, of two units."""
    made = Mirror()
    made.begin({"life": "a", "n": 7, "resumed": False})
    assert heard(made, stream.row_line(unit(1.0, "web:0", state="RUNNING", memory_bytes=1, cpu_percent=0.0))) is None
    assert heard(made, stream.row_line(unit(2.0, "db", state="FATAL", memory_bytes=None, cpu_percent=None))) is None
    assert made.rows == {}
    first = heard(made, stream.mark_line(stream.COMPLETE, 7))
    assert (first.kind, first.value, made.n) == ("snapshot", False, 7)
    return made


class TestAMirror:
    def test_has_the_rows_of_the_snapshot(self, mirror):
        assert mirror.rows["unit"]["db"] == {"state": "FATAL", "memory_bytes": None, "cpu_percent": None, "at": 2.0}

    def test_follows_the_changes(self, mirror):
        change = heard(mirror, stream.change_line(8, unit(3.0, "db", state="RUNNING")))
        assert (change.n, change.at, change.kind, change.key, change.value) == (
            8,
            3.0,
            "unit",
            "db",
            {"state": "RUNNING"},
        )
        heard(mirror, stream.change_line(9, stream.body(3.0, stream.UNIT, "web:0", "null")))
        assert mirror.rows["unit"] == {"db": {"state": "RUNNING", "at": 3.0}}
        record = heard(mirror, stream.change_line(10, stream.body(3.0, stream.LEDGER, "", '{"n":4}')))
        assert (record.value, "ledger" in mirror.rows) == ({"n": 4}, False)
        assert heard(mirror, stream.mark_line(stream.ALIVE, 10)) is None
        assert mirror.n == 10

    def test_has_memory_and_cpu_in_the_rows(self, mirror):
        usage = {"web:0": [5 << 20, 1.5], "gone": [1, 1.0]}
        heard(mirror, stream.change_line(8, stream.body(3.0, stream.USAGE, "", json.dumps(usage))))
        assert (mirror.rows["unit"]["web:0"]["memory_bytes"], mirror.rows["unit"]["web:0"]["cpu_percent"]) == (
            5 << 20,
            1.5,
        )

    @pytest.mark.parametrize("number", [7, 9, 0])
    def test_notices_a_number_that_is_missing_or_comes_twice(self, mirror, number):
        with pytest.raises(OutOfStep):
            heard(mirror, stream.change_line(number, unit(3.0, "db", state="RUNNING")))

    def test_goes_on_where_it_was(self, mirror):
        mirror.begin({"life": "a", "n": 7, "resumed": True})
        assert heard(mirror, stream.change_line(8, unit(3.0, "db", state="RUNNING"))).n == 8

    def test_says_that_changes_may_have_been_missed(self, mirror):
        mirror.begin({"life": "b", "n": 3, "resumed": False})
        heard(mirror, stream.row_line(unit(1.0, "db", state="RUNNING")))
        assert set(mirror.rows["unit"]) == {"web:0", "db"}  # until the new one is complete
        again = heard(mirror, stream.mark_line(stream.COMPLETE, 3))
        assert (again.kind, again.value, mirror.n, set(mirror.rows["unit"])) == ("snapshot", True, 3, {"db"})

    def test_whose_snapshot_was_not_complete_goes_on_in_the_life_before(self, mirror):
        mirror.begin({"life": "b", "n": 9, "resumed": False})
        heard(mirror, stream.row_line(unit(1.0, "db", state="RUNNING")))
        assert (mirror.life, mirror.n) == ("a", 7)

    @pytest.mark.parametrize("resumed", [{"life": "b", "n": 7}, {"life": "a", "n": 6}])
    def test_takes_no_stream_that_goes_on_elsewhere(self, mirror, resumed):
        with pytest.raises(OutOfStep):
            mirror.begin({**resumed, "resumed": True})

    @pytest.mark.parametrize(
        ("method", "params"),
        [
            ("row", {"at": 1.0, "kind": "unit", "key": "x", "value": {}}),
            ("complete", {"n": 9}),
            ("change", {"n": 8}),
            ("change", {"n": 8, "at": 1.0, "kind": "usage", "key": "", "value": [1]}),
            ("else", {}),
        ],
    )
    def test_takes_nothing_that_is_not_to_be_there(self, mirror, method, params):
        with pytest.raises(OutOfStep):
            mirror.take(method, params)
