"""When a process has become old, by either clock."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.rules.ageing import expires, turn
from impetusd.core.rules.schedule import LATE, Cron

NIGHTLY = Cron("0 3 * * *", UTC)
MINUTELY = Cron("* * * * *", UTC)
DAY = 86400.0


def when(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


THREE = when("2026-03-10 03:00:00")


@given(st.text(min_size=1), st.floats(0, 1e8), st.floats(0.001, 1e7))
def test_max_age_is_spread_by_a_tenth_either_way_and_always_the_same(name, started, max_age):
    at = expires(name, started, max_age)
    assert started + 0.9 * max_age - 1e-6 <= at <= started + 1.1 * max_age + 1e-6
    assert at == expires(name, started, max_age)


def test_workers_that_were_started_together_are_not_old_together():
    ages = [expires(f"web:{index}", 1000.0, 3600.0) for index in range(20)]
    assert max(ages) - min(ages) > 360
    assert len(set(ages)) == 20


def test_nothing_happens_before_the_time():
    assert turn(NIGHTLY, 0.0, THREE - DAY / 2, THREE - 1) == (False, THREE - 1, THREE)


def test_at_the_time_it_happens_once():
    fire, seen, following = turn(NIGHTLY, 0.0, THREE - DAY / 2, THREE + 0.01)
    assert (fire, following) == (True, THREE + DAY)
    # The process is still there, or has a successor, or another supervisor's word for it is a moment old.
    for since in (THREE - DAY / 2, THREE + 1):
        assert not turn(NIGHTLY, seen, since, THREE + 2).fire


def test_a_clock_that_steps_back_brings_no_second_time():
    seen = turn(NIGHTLY, 0.0, THREE - DAY / 2, THREE + 0.01).seen
    for back in (0.5, 3600.0, 2 * 3600.0):
        fire, _, following = turn(NIGHTLY, seen, THREE - DAY / 2, THREE - back)
        assert (fire, following) == (False, THREE + DAY)


def test_a_clock_that_had_been_wrong_is_believed_once_it_is_right():
    seen = turn(NIGHTLY, 0.0, THREE, THREE + 365 * DAY).seen
    assert turn(NIGHTLY, seen, THREE - DAY / 2, THREE - 60).following == THREE


def test_a_clock_that_is_a_year_ahead_all_at_once_restarts_nothing():
    later = when("2027-03-10 12:00:00")
    assert turn(NIGHTLY, 0.0, later - 3600, later) == (False, later, when("2027-03-11 03:00:00"))


def test_a_time_that_the_host_slept_through_is_left_out():
    assert turn(NIGHTLY, 0.0, THREE - DAY / 2, THREE + LATE + 1).following == THREE + DAY
    assert turn(NIGHTLY, 0.0, THREE - DAY / 2, THREE + LATE - 1).fire  # a busy host is late, too


def test_a_supervisor_that_was_away_at_the_time_makes_up_for_it():
    assert turn(NIGHTLY, 0.0, THREE - DAY / 2, THREE + 5).fire


def test_a_process_that_was_started_meanwhile_is_young():
    assert not turn(NIGHTLY, 0.0, THREE + 1, THREE + 5).fire


def test_an_expression_without_a_time_left_never_comes():
    never = SimpleNamespace(resume=NIGHTLY.resume, following=lambda after: None)
    assert turn(never, 0.0, THREE - 1, THREE) == (False, THREE, None)


@given(st.lists(st.floats(0.001, 90.0), min_size=1, max_size=200))
def test_however_one_looks_each_time_comes_at_most_once(steps):
    now, seen, fired = THREE, THREE, []
    for step in steps:
        now += step
        fire, seen, _ = turn(MINUTELY, seen, THREE - DAY, now)
        if fire:
            fired.append(now // 60)
    assert len(fired) == len(set(fired))
    assert len(fired) <= sum(steps) / 60 + 1
