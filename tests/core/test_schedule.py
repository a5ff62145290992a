"""When timers run: over clock changes, clocks set by hand, sleep and reboots, with a number for a clock."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from impetusd.core.config.model import Overlap
from impetusd.core.rules.schedule import (
    ALIASES,
    RETRY_AT_MOST,
    Cron,
    Every,
    OverlapDecision,
    check,
    decide_overlap,
    due,
    retry_in,
    words,
)
from impetusd.core.units import ago, ahead, span

LISBON = "Europe/Lisbon"  # 2026: 29 March 01:00 becomes 02:00, 25 October 02:00 becomes 01:00
SAO_PAULO = "America/Sao_Paulo"  # 4 November 2018 00:00 became 01:00, 17 February 2019 00:00 became 16 February 23:00
LORD_HOWE = (
    "Australia/Lord_Howe"  # by half an hour: 5 October 2025 02:00 becomes 02:30, 5 April 2026 02:00 becomes 01:30
)
APIA = "Pacific/Apia"  # there was no 30 December 2011


def at(text, zone, *, fold=0):
    """Unix seconds of a local time."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def runs(expression, zone, begin, count):
    """The first `count` runs after the local time `begin`, as local times with their offset from UTC in hours."""
    schedule = Cron(expression, ZoneInfo(zone))
    now = at(begin, zone)
    found = []
    for _ in range(count):
        now = schedule.following(now)
        local = datetime.fromtimestamp(now, ZoneInfo(zone))
        found.append(f"{local:%m-%d %H:%M:%S} {local.utcoffset().total_seconds() / 3600:+g}")
    return found


class TestClockChanges:
    @pytest.mark.parametrize(
        ("expression", "zone", "begin", "expected"),
        [
            pytest.param(
                "30 1 * * *",
                LISBON,
                "2026-03-28 00:00",
                ["03-28 01:30:00 +0", "03-29 02:00:00 +1", "03-30 01:30:00 +1"],
                id="spring: a fixed time in the gap runs at its end",
            ),
            pytest.param(
                "0 30 1 * * *",
                LISBON,
                "2026-03-28 00:00",
                ["03-28 01:30:00 +0", "03-29 02:00:00 +1", "03-30 01:30:00 +1"],
                id="spring: the same with seconds",
            ),
            pytest.param(
                "0,30 1 * * *",
                LISBON,
                "2026-03-28 12:00",
                ["03-29 02:00:00 +1", "03-30 01:00:00 +1"],
                id="spring: two times in the gap are one run",
            ),
            pytest.param(
                "30 1,2 * * *",
                LISBON,
                "2026-03-28 12:00",
                ["03-29 02:00:00 +1", "03-29 02:30:00 +1"],
                id="spring: the time after the gap is its own",
            ),
            pytest.param(
                "*/30 * * * *",
                LISBON,
                "2026-03-29 00:10",
                ["03-29 00:30:00 +0", "03-29 02:00:00 +1", "03-29 02:30:00 +1"],
                id="spring: a wildcard goes by real time",
            ),
            pytest.param(
                "*/30 1 * * *",
                LISBON,
                "2026-03-28 12:00",
                ["03-30 01:00:00 +1"],
                id="spring: a wildcard within the hour that is not there has nothing to run at",
            ),
            pytest.param(
                "30 1 * * *",
                LISBON,
                "2026-10-24 12:00",
                ["10-25 01:30:00 +1", "10-26 01:30:00 +0"],
                id="autumn: a fixed time that comes twice runs the first time",
            ),
            pytest.param(
                "*/30 * * * *",
                LISBON,
                "2026-10-25 00:40",
                [
                    "10-25 01:00:00 +1",
                    "10-25 01:30:00 +1",
                    "10-25 01:00:00 +0",
                    "10-25 01:30:00 +0",
                    "10-25 02:00:00 +0",
                ],
                id="autumn: a wildcard goes by real time",
            ),
            pytest.param(
                "0 0 * * *",
                SAO_PAULO,
                "2018-11-02 12:00",
                ["11-03 00:00:00 -3", "11-04 01:00:00 -2", "11-05 00:00:00 -2"],
                id="spring at midnight: the day has a run",
            ),
            pytest.param(
                "0 0 4 11 *", SAO_PAULO, "2018-11-02 12:00", ["11-04 01:00:00 -2"], id="spring at midnight, by date"
            ),
            pytest.param(
                "30 23 * * *",
                SAO_PAULO,
                "2019-02-15 12:00",
                ["02-15 23:30:00 -2", "02-16 23:30:00 -2", "02-17 23:30:00 -3"],
                id="autumn at midnight: 23:30 comes twice and runs once",
            ),
            pytest.param(
                "0 * * * *",
                SAO_PAULO,
                "2019-02-16 22:30",
                ["02-16 23:00:00 -2", "02-16 23:00:00 -3", "02-17 00:00:00 -3"],
                id="autumn at midnight: every hour is every hour",
            ),
            pytest.param(
                "15 2 * * *",
                LORD_HOWE,
                "2025-10-04 12:00",
                ["10-05 02:30:00 +11", "10-06 02:15:00 +11"],
                id="a gap of half an hour",
            ),
            pytest.param(
                "45 1 * * *",
                LORD_HOWE,
                "2026-04-04 12:00",
                ["04-05 01:45:00 +11", "04-06 01:45:00 +10.5"],
                id="half an hour that comes twice",
            ),
            pytest.param(
                "30 2 * * *",
                APIA,
                "2011-12-29 00:00",
                ["12-29 02:30:00 -10", "12-31 00:00:00 +14", "12-31 02:30:00 +14"],
                id="a day that is not there",
            ),
        ],
    )
    def test_runs(self, expression, zone, begin, expected):
        assert runs(expression, zone, begin, len(expected)) == expected

    def test_asked_in_the_second_pass_of_an_hour_a_fixed_time_has_had_its_run(self):
        schedule = Cron("50 1 * * *", ZoneInfo(LISBON))
        assert schedule.following(at("2026-10-25 01:45", LISBON, fold=1)) == at("2026-10-26 01:50", LISBON)

    @pytest.mark.parametrize("zone", [LISBON, SAO_PAULO, "UTC", "Asia/Kathmandu"])
    @pytest.mark.parametrize("expression", ["30 2 * * *", "59 23 * * *", "0 0 * * *", "0 1 * * *"])
    def test_a_daily_job_runs_once_on_each_of_800_days(self, zone, expression):
        schedule = Cron(expression, ZoneInfo(zone))
        now, days = at("2017-12-31 23:59:30", zone), []
        for _ in range(800):
            now = schedule.following(now)
            days.append(datetime.fromtimestamp(now, ZoneInfo(zone)).toordinal())
        assert days == list(range(days[0], days[0] + 800))

    @given(
        after=st.floats(1.5e9, 1.9e9),
        zone=st.sampled_from([LISBON, SAO_PAULO, LORD_HOWE, "UTC"]),
        expression=st.sampled_from(
            ["30 1 * * *", "*/7 * * * *", "0 */2 * * *", "5 5 5 * * *", "* * * * * *", "0 0 1 * 1"]
        ),
    )
    def test_what_follows_is_later_and_nothing_lies_between(self, after, zone, expression):
        schedule = Cron(expression, ZoneInfo(zone))
        found = schedule.following(after)
        assert found > after
        assert schedule.following((after + found) / 2) == found


class TestExpressions:
    @pytest.mark.parametrize(
        ("expression", "problem"),
        [
            ("0 3 * * *", ""),
            ("*/10 * * * * *", ""),
            ("0 0 L * *", ""),
            ("0 0 * * MON#1", ""),
            ("@Daily", ""),
            *((alias, "") for alias in ALIASES),
            ("@reboot", "@reboot is not one of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly"),
            ("* * * *", "a cron expression has 5 fields, or 6 with seconds first; this one has 4"),
            ("", "a cron expression has 5 fields, or 6 with seconds first; this one has 0"),
            ("60 * * * *", "its minute field is invalid, or names a day that does not exist"),
            ("0 0 30 2 *", "its day-of-month field is invalid, or names a day that does not exist"),
        ],
    )
    def test_check(self, expression, problem):
        assert check(expression) == problem

    @given(st.text(alphabet="0123456789*/-,#LWMONJAN @²", max_size=20))
    @settings(max_examples=300)
    def test_check_has_an_answer_to_anything(self, expression):
        if not check(expression):
            assert Cron(expression, UTC).following(0.0) is not None

    def test_seconds_come_first(self):
        assert Cron("15 30 2 * * *", UTC).following(0.0) == 2 * 3600 + 30 * 60 + 15

    def test_a_day_that_never_comes(self):
        never = "0 0 */29 2 MON#5"  # the fifth Monday of February, if that is the 1st or the 30th
        assert Cron(never, UTC).following(0.0) is None
        assert due(Cron(never, UTC), "a", 10.0, 0.0) is None
        assert check(never) == "it matches no day in the next 50 years"

    @pytest.mark.parametrize(
        ("expression", "zone", "expected"),
        [
            ("0 3 * * *", "", "at 03:00 every day"),
            ("0 3 * * *", LISBON, "at 03:00 every day, Europe/Lisbon"),
            ("@hourly", "", "at the start of every hour"),
            ("*/5 * * * *", "", "every fifth minute of every hour"),
        ],
    )
    def test_words(self, expression, zone, expected):
        assert words(expression, 0.0, zone) == expected

    def test_words_of_a_period(self):
        assert words("", 5400.0, "") == "every 1 h 30 min"


class TestClockSetByHand:
    FIXED, WILD = Cron("30 2 * * *", UTC), Cron("*/5 * * * *", UTC)

    @pytest.mark.parametrize(
        ("schedule", "back", "kept"),
        [
            (FIXED, 0.0, True),
            (FIXED, 0.3, True),
            (FIXED, 3600.0, True),
            (FIXED, 3 * 3600.0, True),
            (FIXED, 3 * 3600.0 + 1, False),
            (FIXED, 365 * 86400.0, False),
            (WILD, 0.3, True),
            (WILD, 60.0, True),
            (WILD, 3600.0, False),
        ],
    )
    def test_what_has_run_is_not_run_again_unless_the_clock_was_corrected(self, schedule, back, kept):
        seen = 1_000_000_000.0
        assert schedule.resume(seen, seen - back) == (seen if kept else seen - back)

    def test_forward_nothing_is_forgotten(self):
        assert self.FIXED.resume(100.0, 1e9) == 100.0

    @pytest.mark.parametrize(
        ("expression", "fixed"),
        [
            ("0 3 * * *", True),
            ("@daily", True),
            ("@hourly", False),
            ("0 */2 * * *", False),
            ("1 30 2 * * *", True),
            ("* 30 2 * * *", True),
        ],
    )
    def test_which_are_for_certain_times_of_the_day(self, expression, fixed):
        assert Cron(expression, UTC).fixed is fixed


class TestEvery:
    def test_the_grid_does_not_drift(self):
        schedule = Every(30.0, 100.0)
        assert [schedule.following(now) for now in (100.0, 129.9, 130.0, 159.99, 1000.1)] == [130, 130, 160, 160, 1030]

    @given(st.floats(0.1, 1e6), st.floats(0, 1e7), st.floats(0, 1e9))
    @example(0.1, 0.0, 4.3)  # 4.3 / 0.1 is less than 43
    def test_what_follows_is_later_and_at_most_a_period(self, period, anchor, after):
        found = Every(period, anchor).following(after)
        assert after < found
        assert found - after <= period * 1.001 + 1e-6


class TestJitter:
    EVERY = Every(60.0, 0.0)

    def test_it_is_the_same_when_asked_again_and_another_for_another_run_or_timer(self):
        assert due(self.EVERY, "a", 30.0, 0.0) == due(self.EVERY, "a", 30.0, 59.0)
        assert len({due(self.EVERY, name, 30.0, 0.0) for name in "abc"}) == 3
        assert len({due(self.EVERY, "a", 30.0, 60.0 * n) % 60 for n in range(20)}) == 20

    def test_it_is_spread_over_the_whole(self):
        offsets = [due(self.EVERY, f"timer{n}", 40.0, 0.0) - 60 for n in range(400)]
        assert all(0 <= offset < 40 for offset in offsets)
        assert all(60 < sum(10 * part <= offset < 10 * part + 10 for offset in offsets) < 140 for part in range(4))

    def test_it_never_reaches_the_next_run(self):
        for n in range(200):
            begin = due(self.EVERY, "a", 1e9, 60.0 * n) - 60 * n
            assert 60 <= begin < 120

    def test_without_it_the_time_is_the_schedules(self):
        assert due(self.EVERY, "a", 0.0, 0.0) == 60.0


class TestOverlap:
    @pytest.mark.parametrize(
        ("overlap", "running", "queued", "expected"),
        [
            *((overlap, False, False, OverlapDecision.START) for overlap in Overlap),
            (Overlap.SKIP, True, False, OverlapDecision.SKIP),
            (Overlap.QUEUE, True, False, OverlapDecision.QUEUE),
            (Overlap.QUEUE, True, True, OverlapDecision.SKIP),
            (Overlap.REPLACE, True, False, OverlapDecision.REPLACE),
            (Overlap.REPLACE, True, True, OverlapDecision.SKIP),
        ],
    )
    def test_meeting(self, overlap, running, queued, expected):
        assert decide_overlap(overlap, running=running, queued=queued) is expected


class TestRetries:
    def test_the_wait_doubles_and_the_attempts_end(self):
        assert [retry_in(3, 10.0, attempt) for attempt in (1, 2, 3, 4)] == [10.0, 20.0, 40.0, None]
        assert retry_in(0, 10.0, 1) is None

    def test_it_doubles_to_an_hour_or_to_itself(self):
        assert retry_in(5000, 10.0, 4000) == RETRY_AT_MOST
        assert retry_in(5000, 7200.0, 4000) == 7200.0
        assert retry_in(3, 0.0, 3) == 0.0


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [
            (0, "0 s"),
            (0.0002, "1 ms"),
            (0.25, "250 ms"),
            (1.26, "1.2 s"),
            (9.99, "9.9 s"),
            (45.9, "45 s"),
            (60, "1 min"),
            (90, "1 min 30 s"),
            (720, "12 min"),
            (11520, "3 h 12 min"),
            (7200, "2 h"),
            (187200, "2 d 4 h"),
            (86400 * 365, "365 d"),
        ],
    )
    def test_span(self, seconds, expected):
        assert span(seconds) == expected

    def test_ahead_and_ago(self):
        assert [ahead(11530.0), ahead(1.9), ahead(0.3), ahead(-5.0)] == ["in 3 h 12 min", "in 1 s", "now", "now"]
        assert [ago(125.0), ago(0.3), ago(-5.0)] == ["2 min ago", "just now", "just now"]


def test_a_schedule_is_not_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Every(1.0, 0.0).period = 2.0
