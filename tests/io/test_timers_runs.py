"""Timers over clocks that are numbers and slots that are the real machine: due, overlap, retries, jumps, deaths."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import datetime
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timer_section import timer
from timer_world import BEGIN, NO_PROGRAM, World, brief, job_changed
from waiting import turns

from impetusd.core.config.model import Overlap
from impetusd.core.protocol import ProtocolError
from impetusd.core.reasons import because, read
from impetusd.core.rules import timer as rules
from impetusd.core.rules.lifecycle import Exited, Gone, Slot, State
from impetusd.core.rules.policy import Exit
from impetusd.linux.timezone import zone
from impetusd.supervisor.faults import Faults
from impetusd.supervisor.rules.timer_job import Job

pytestmark = pytest.mark.noise

HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0


def failed(ago_s, cause, again_s=None):
    return because("timer_failed", name="job", ago_s=ago_s, cause=cause, again_s=again_s)


class TestSchedule:
    def test_every_runs_on_its_grid_whatever_a_run_takes(self):
        world = World(timer(every=60.0))
        for took in (5.0, 59.0, 0.5):
            world.advance(60.0 - world.run % 60.0 + 20.0)  # past the next start: the grid is at 500, which is 20 mod 60
            world.advance(took)
            world.exit()
        assert [at % 60 for at in world.times] == [0.0] * len(world.times)
        assert len(world.times) >= 3

    def test_nothing_runs_before_its_time(self):
        world = World(timer(every=60.0))
        world.advance(59.999)
        assert world.starts == []
        world.advance(0.001)
        assert world.times == [60.0]

    def test_cron_runs_at_its_time_and_sleeps_in_between(self):
        world = World(timer(cron="30 2 * * *"))
        for _ in range(3):
            world.advance(DAY)
            world.exit()
        assert world.times == [2.5 * HOUR, 2.5 * HOUR + DAY, 2.5 * HOUR + 2 * DAY]
        assert world.rings < 10

    def test_jitter_moves_a_run_and_not_the_grid(self):
        world = World(timer(cron="0 * * * *", jitter=600.0))
        for _ in range(5):
            world.advance(HOUR)
            world.exit()
        offsets = [at % HOUR for at in world.times]
        assert all(0 <= each < 600 for each in offsets)
        assert len(set(offsets)) == len(offsets)
        assert [int(at // HOUR) for at in world.times][:4] == [1, 2, 3, 4]

    def test_a_timer_that_is_switched_off_waits_for_nothing(self):
        world = World(timer(enabled=False))
        world.advance(DAY)
        assert world.starts == []
        assert (world.row()["next"], world.row()["enabled"]) == (None, False)


class TestResults:
    @pytest.mark.parametrize(
        ("end", "ok", "result", "code"),
        [
            (lambda world: world.exit(0), True, "exit 0", 0),
            (lambda world: world.exit(3), False, "exit 3", 3),
        ],
    )
    def test_of_an_exit(self, end, ok, result, code):
        world = World(timer())
        world.advance(60.0)
        world.advance(2.5)
        end(world)
        run = world.row()["runs"][0]
        assert (run["ok"], brief(read(run["cause"])), run["code"], run["duration_s"], run["why"]) == (
            ok,
            result,
            code,
            2.5,
            "schedule",
        )
        assert datetime.fromisoformat(run["at"]).timestamp() == BEGIN + 60

    def test_of_what_cannot_be_started(self):
        world = World(timer())
        world.unstartable = True
        world.advance(60.0)
        assert world.results == [("schedule", brief(NO_PROGRAM))]
        assert world.timers.attention() == [("job", failed(0.0, NO_PROGRAM))]

    def test_ten_are_kept_newest_first(self):
        world = World(timer(every=1.0))
        for code in range(14):
            world.advance(1.0)
            world.exit(code)
        assert [run["code"] for run in world.row()["runs"]] == list(range(13, 3, -1))

    def test_a_timeout_stops_the_job(self):
        world = World(timer(timeout=5.0))
        world.advance(64.9)
        assert world.row()["state"] == "running"
        world.advance(0.1)
        assert world.results == [("schedule", "timed_out 5.0")]
        assert world.told == ["job: not finished within 5 s; stopping it"]

    def test_a_job_that_ignores_sigterm_is_killed_and_has_timed_out(self):
        world = World(timer(every=3600.0, timeout=5.0))
        world.stubborn = True
        world.advance(3605.0)
        assert world.slots["job"].state is State.STOPPING
        world.advance(10.0)
        assert world.results == [("schedule", "timed_out 5.0")]
        assert world.row()["runs"][0]["duration_s"] == 15.0

    def test_ending_what_a_job_left_behind_is_no_part_of_it(self):
        world = World(timer(every=3600.0, timeout=5.0))
        world.advance(3602.0)
        world.post("job", Exited(Exit(code=0, at=world.wall), left=True))
        world.advance(5.0)
        assert world.slots["job"].state is State.STOPPING
        world.post("job", Gone())
        assert world.results == [("schedule", "exit 0")]

    def test_sleep_of_the_host_is_no_part_of_a_timeout(self):
        world = World(timer(every=3600.0, timeout=5.0))
        world.advance(3601.0)
        world.suspend(1000.0)
        assert world.row()["state"] == "running"
        world.advance(4.0)
        assert world.results == [("schedule", "timed_out 5.0")]

    def test_an_operators_stop_is_no_failure(self):
        world = World(timer(retries=3))
        world.advance(60.0)
        world.stop()
        assert world.results == [("schedule", "stopped killed SIGTERM  False")]
        assert (world.row()["state"], world.timers.attention()) == ("waiting", [])

    def test_attention_lasts_until_a_run_is_well(self):
        world = World(timer(cron="0 * * * *"))
        world.advance(HOUR)
        world.exit(3)
        world.advance(HOUR)
        assert world.timers.attention() == [("job", failed(3600.0, because("exit", code=3)))]
        world.exit(0)
        assert world.timers.attention() == []


class TestRetries:
    def test_the_wait_doubles_and_the_end_is_told(self):
        world = World(timer(every=DAY, retries=2, retry_delay=10.0))
        world.advance(DAY)
        world.exit(1)
        assert (world.row()["state"], world.row()["next_in_s"]) == ("retrying", 10.0)
        assert world.timers.attention() == [("job", failed(0.0, because("exit", code=1), 10.0))]
        world.advance(10.0)
        world.exit(1)
        world.advance(20.0)
        world.exit(1)
        assert world.row()["state"] == "waiting"
        assert world.times == [DAY, DAY + 10, DAY + 30]
        assert world.results == [("schedule", "exit 1"), ("retry", "exit 1"), ("retry", "exit 1")]
        end = because("exit", code=1)
        assert world.told == [f"job: {end}; retrying in {wait} s ({n} of 2)" for n, wait in ((1, 10), (2, 20))]

    def test_success_ends_them(self):
        world = World(timer(every=DAY, retries=5))
        world.advance(DAY)
        world.exit(1)
        world.advance(10.0)
        world.exit(0)
        world.advance(1000.0)
        assert world.times == [DAY, DAY + 10]

    def test_a_run_on_schedule_takes_the_place_of_a_retry(self):
        world = World(timer(every=60.0, retries=1, retry_delay=61.0))
        world.advance(60.0)
        world.exit(1)
        world.advance(60.0)
        world.exit(0)
        world.advance(59.0)
        assert world.times == [60.0, 120.0]

    def test_a_timeout_is_retried(self):
        world = World(timer(every=DAY, retries=1, timeout=5.0, retry_delay=10.0))
        world.advance(DAY + 5.0 + 10.0)
        assert world.row()["state"] == "running"
        assert world.times == [DAY, DAY + 15]


class TestOverlap:
    def test_skip_is_noted_once_for_a_row(self):
        world = World(timer(every=10.0))
        world.advance(45.0)
        assert world.times == [10.0]
        world.exit()
        world.advance(5.0)
        assert world.times == [10.0, 50.0]
        assert world.results == [("schedule", "skipped_running"), ("schedule", "exit 0")]
        assert world.timers.attention() == []

    def test_queue_holds_one(self):
        world = World(timer(every=10.0, overlap=Overlap.QUEUE))
        world.advance(35.0)
        assert world.row()["state"] == "queued"
        world.exit()
        assert world.times == [10.0, 35.0]
        world.advance(1.0)
        world.exit()
        assert world.row()["state"] == "waiting"
        assert [result for _, result in world.results] == [
            "skipped_queued",
            "exit 0",
            "exit 0",
        ]

    def test_replace_ends_the_one_that_runs(self):
        world = World(timer(every=10.0, overlap=Overlap.REPLACE))
        world.advance(20.0)
        assert world.times == [10.0, 20.0]
        assert world.results == [("schedule", "stopped_for_next")]
        assert world.timers.attention() == []

    def test_replace_of_a_job_that_ignores_sigterm_waits_until_it_is_killed(self):
        world = World(timer(every=100.0, overlap=Overlap.REPLACE))
        world.stubborn = True
        world.advance(209.0)
        assert world.times == [100.0]
        world.advance(1.0)
        assert world.times == [100.0, 210.0]

    def test_an_operators_stop_ends_what_is_queued_as_well(self):
        world = World(timer(every=10.0, overlap=Overlap.QUEUE))
        world.advance(25.0)
        world.stop()
        assert (world.row()["state"], world.times) == ("waiting", [10.0])


class TestClockJumps:
    @pytest.mark.parametrize("catch_up", [False, True])
    def test_a_year_ahead_makes_up_one_run_or_none(self, catch_up):
        world = World(timer(cron="30 2 * * *", catch_up=catch_up))
        world.set_clock(YEAR)
        assert len(world.starts) == catch_up
        assert [why for why, _ in world.results] == ([] if catch_up else ["schedule"])
        if catch_up:
            world.exit()
            assert world.results == [("catch-up", "exit 0")]
            assert world.told == ["job: a run was missed; running it now"]
        else:
            assert world.results[0][1] == "skipped_missed"
        world.advance(2 * HOUR)
        assert len(world.starts) == catch_up
        world.advance(HOUR)
        assert len(world.starts) == catch_up + 1

    def test_and_back_again_it_goes_on_as_if_nothing_had_been(self):
        world = World(timer(cron="30 2 * * *"))
        world.set_clock(YEAR)
        world.set_clock(-YEAR)
        world.advance(DAY)
        assert world.times == [2.5 * HOUR]

    def test_an_hour_back_repeats_no_daily_run(self):
        world = World(timer(cron="30 2 * * *"))
        world.advance(2.6 * HOUR)
        world.exit()
        world.set_clock(-HOUR)
        world.advance(20 * HOUR)
        assert len(world.starts) == 1
        world.advance(5 * HOUR)
        assert len(world.starts) == 2

    def test_an_hour_back_a_frequent_job_goes_by_the_new_time_at_once(self):
        world = World(timer(cron="*/5 * * * *"))
        world.advance(2 * HOUR + 60.0)
        world.exit()
        ran = len(world.starts)
        world.set_clock(-HOUR)
        assert len(world.starts) == ran
        world.advance(240.0)
        assert len(world.starts) == ran + 1

    def test_a_step_of_a_moment_back_runs_nothing_twice(self):
        world = World(timer(cron="* * * * *"))
        world.advance(60.0)
        world.exit()
        world.set_clock(-1.5)
        world.advance(59.0)
        assert len(world.starts) == 1
        world.advance(3.0)
        assert len(world.starts) == 2

    @pytest.mark.parametrize("seconds", [-HOUR, YEAR, -YEAR])
    def test_a_period_does_not_hear_of_it(self, seconds):
        world = World(timer(every=60.0))
        world.advance(30.0)
        world.set_clock(seconds)
        assert world.starts == []
        world.advance(29.0)
        assert world.starts == []
        world.advance(1.0)
        assert len(world.starts) == 1

    @pytest.mark.parametrize("keys", [{"cron": "*/5 * * * *"}, {"every": 300.0}])
    @pytest.mark.parametrize("catch_up", [False, True])
    def test_after_sleep_one_run_is_made_up_or_none(self, keys, catch_up):
        world = World(timer(catch_up=catch_up, **keys))
        world.suspend(8 * HOUR + 120.0)
        assert len(world.starts) == catch_up
        if catch_up:
            world.exit()
            assert world.results == [("catch-up", "exit 0")]
        world.advance(180.0)
        assert world.times[catch_up:] == [8 * HOUR + 300.0]

    def test_a_little_late_is_in_time(self):
        world = World(timer(every=300.0))
        world.suspend(359.0)
        assert world.times == [359.0]
        world.exit()
        assert world.results == [("schedule", "exit 0")]


class TestDeathOfTheSupervisor:
    def test_a_job_that_runs_on_is_taken_over(self):
        world = World(timer(every=100.0, timeout=50.0))
        world.advance(110.0)
        world.die()
        world.advance(10.0)
        world.succeed()
        assert (world.row()["state"], world.row()["running_s"]) == ("running", 20.0)
        world.advance(30.0)
        assert world.results == [("schedule", "timed_out 50.0")]
        assert world.times == [100.0]

    def test_what_it_was_stopped_for_is_known_to_the_next(self):
        world = World(timer(every=100.0, timeout=50.0))
        world.stubborn = True
        world.advance(155.0)
        world.die()
        world.succeed()
        world.advance(10.0)
        assert world.results == [("schedule", "timed_out 50.0")]

    def test_skips_are_known_to_the_next(self):
        world = World(timer(every=100.0))
        world.advance(250.0)
        world.die()
        world.succeed()
        assert world.results == [("schedule", "skipped_running")]

    def test_a_start_by_hand_is_known_to_the_next(self):
        world = World(timer(every=DAY))
        world.start()
        world.advance(5.0)
        world.die()
        world.succeed()
        assert world.row()["running_s"] == 5.0

    def test_the_result_of_one_that_ended_meanwhile_is_noted(self):
        world = World(timer(every=100.0))
        world.advance(110.0)
        world.die()
        world.exit(3)
        world.advance(1.0)
        world.succeed()
        assert world.results == [("schedule", "exit 3")]

    @pytest.mark.parametrize("took", [0.0, 10.0])
    def test_it_is_noted_also_when_only_the_slot_had_been_written_down(self, took):
        world = World(timer(every=100.0004))  # an exit is known to the millisecond
        world.advance(100.00041 + took)
        records = dict(world.records)
        world.exit(3)
        world.die()
        world.records.update(records)
        world.succeed()
        assert world.results == [("schedule", "exit 3")]
        assert len(world.starts) == 1

    def test_a_run_that_was_noted_and_had_not_begun_begins(self):
        world = World(timer(every=100.0))
        world.advance(110.0)
        world.exit(0)
        ended = world.slots["job"]
        world.advance(90.0)
        world.die()
        world.slots["job"] = ended  # as if the start had never reached the shim
        world.succeed()
        assert world.times == [100.0, 200.0, 200.0]
        world.exit(0)
        assert [why for why, _ in world.results] == ["schedule", "schedule"]

    def test_the_grid_and_a_retry_are_kept(self):
        world = World(timer(every=100.0, retries=1, retry_delay=30.0))
        world.advance(110.0)
        world.exit(1)
        world.advance(7.0)
        world.die()
        world.advance(3.0)
        world.succeed()
        assert world.row()["state"] == "retrying"
        world.advance(20.0)
        assert world.times == [100.0, 140.0]
        world.exit(0)
        world.advance(60.0)
        assert world.times == [100.0, 140.0, 200.0]
        assert [why for why, _ in world.results] == ["schedule", "retry"]

    def test_deaths_before_the_first_run_do_not_put_it_off(self):
        world = World(timer(every=100.0))
        for _ in range(9):
            world.advance(10.0)
            world.die()
            world.succeed()
        world.advance(10.0)
        assert world.times == [100.0]

    @pytest.mark.parametrize("catch_up", [False, True])
    def test_what_is_missed_meanwhile_is_made_up_for_once_or_not(self, catch_up):
        world = World(timer(cron="0 * * * *", catch_up=catch_up))
        world.die()
        world.advance(5.5 * HOUR)
        world.succeed()
        assert world.times == [5.5 * HOUR] * catch_up
        world.advance(0.4 * HOUR)
        assert len(world.starts) == catch_up

    def test_a_queued_run_is_kept(self):
        world = World(timer(every=100.0, overlap=Overlap.QUEUE))
        world.advance(210.0)
        world.die()
        world.succeed()
        world.exit()
        assert world.times == [100.0, 210.0]

    def test_one_that_was_queued_behind_a_run_that_ended_meanwhile_begins(self):
        world = World(timer(every=100.0, overlap=Overlap.QUEUE))
        world.advance(210.0)
        world.die()
        world.exit()
        world.advance(5.0)
        world.succeed()
        assert world.times == [100.0, 215.0]
        assert (world.results, world.row()["state"]) == ([("schedule", "exit 0")], "running")

    def test_until_it_begins_nothing_is_started(self):
        """A supervisor that takes over while everything is being stopped never calls `begin`."""
        world = World(timer(every=100.0, overlap=Overlap.QUEUE, retries=1))
        world.advance(210.0)
        world.die()
        world.exit(1)
        world.timers = world.supervisor()
        world.timers.load(dict(world.records), anew=False)
        world.pump()
        world.advance(1000.0)
        assert world.times == [100.0]
        assert "is stopping" in ask(world)

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "null", '{"version": 2}', '{"version": 1}', '{"version":1,"now":[1],"enabled":true}']
    )
    def test_a_record_that_cannot_be_read_is_told_and_left(self, text):
        world = World(timer(every=100.0))
        world.die()
        world.records["job"] = text
        world.records["gone"] = "of a timer that is no more"
        world.succeed()
        assert len(world.told) == 1
        assert world.told[0].startswith("timer job: its saved state cannot be read")
        world.advance(100.0)
        assert world.times == [100.0]

    def test_another_kind_of_schedule_misses_nothing(self):
        world = World(timer(every=100.0, catch_up=True))
        world.die()
        world.configured["job"] = timer(cron="0 * * * *", catch_up=True)
        world.succeed()
        assert world.starts == []
        assert world.row()["next_in_s"] == HOUR

    def test_what_was_switched_off_misses_nothing(self):
        world = World(timer(cron="0 * * * *", catch_up=True, enabled=False))
        world.die()
        world.advance(5.5 * HOUR)
        world.configured["job"] = timer(cron="0 * * * *", catch_up=True)
        world.succeed()
        assert world.starts == []


class TestReboot:
    @pytest.mark.parametrize("catch_up", [False, True])
    @pytest.mark.parametrize("keys", [{"cron": "0 * * * *"}, {"every": HOUR}])
    def test_one_missed_run_is_made_up_or_none(self, keys, catch_up):
        world = World(timer(catch_up=catch_up, **keys))
        world.advance(600.0)
        world.reboot(5 * HOUR)
        assert len(world.starts) == catch_up
        if catch_up:
            world.exit()
        world.advance(HOUR - 600.0)
        assert world.times[catch_up:] == [6 * HOUR]

    def test_a_run_that_went_down_with_the_host_is_lost_and_retried(self):
        world = World(timer(every=DAY, retries=1, retry_delay=10.0))
        world.advance(DAY + 5)
        world.reboot(60.0)
        assert world.results == [("schedule", "lost_run")]
        assert world.timers.attention()[0][1].find("lost_run")
        world.advance(10.0)
        assert world.times == [DAY, DAY + 75]

    @pytest.mark.parametrize("ended", [True, False])
    def test_what_was_switched_off_meanwhile_is_not_tried_again(self, ended):
        world = World(timer(retries=1))
        world.advance(60.0)
        if ended:
            world.exit(1)
        world.configured["job"] = timer(retries=1, enabled=False)
        world.reboot(60.0)
        world.advance(DAY)
        assert (world.times, world.row()["state"]) == ([60.0], "waiting")

    def test_the_history_is_kept(self):
        world = World(timer())
        world.advance(60.0)
        world.exit(3)
        world.reboot(10.0)
        assert world.results == [("schedule", "exit 3")]

    def test_a_clock_that_fell_back_over_the_reboot_stops_no_period(self):
        world = World(timer(every=100.0))
        world.reboot(-YEAR)
        world.advance(99.0)
        assert world.starts == []
        world.advance(1.0)
        assert len(world.starts) == 1


def ask(world, *happens, wait=True):
    """Trigger `job`, and have each of `happens` happen meanwhile; the result, or the refusal's sentence."""

    async def run():
        asked = asyncio.ensure_future(world.timers.trigger("job", wait=wait))
        await turns()
        for each in happens:
            each()
        try:
            return await asked
        except ProtocolError as error:
            return error.message

    return asyncio.run(run())


class TestTrigger:
    def test_it_runs_now_and_answers_at_its_end(self):
        world = World(timer(every=DAY))
        world.advance(5.0)
        run = ask(world, lambda: world.advance(2.0), lambda: world.exit(3))
        assert (run["ok"], brief(read(run["cause"])), run["why"], run["code"], run["duration_s"]) == (
            False,
            "exit 3",
            "trigger",
            3,
            2.0,
        )
        assert world.times == [5.0]

    def test_the_schedule_stays_as_it_is(self):
        world = World(timer(every=100.0))
        world.advance(95.0)
        ask(world, world.exit)
        world.advance(5.0)
        assert world.times == [95.0, 100.0]

    def test_without_waiting(self):
        world = World(timer(every=DAY))
        assert ask(world, wait=False) is None
        assert world.times == [0.0]
        world.exit()
        assert world.results == [("trigger", "exit 0")]

    def test_skip_refuses(self):
        world = World(timer())
        world.advance(60.0)
        assert ask(world) == "job was not run: it is still running; wait, or stop it: impetusd stop job"
        assert world.times == [60.0]

    def test_queue_waits_for_the_end_of_what_runs(self):
        world = World(timer(every=DAY, overlap=Overlap.QUEUE))
        world.advance(DAY)
        run = ask(world, lambda: world.exit(1), lambda: world.advance(1.0), lambda: world.exit(2))
        assert (run["why"], brief(read(run["cause"]))) == ("trigger", "exit 2")

    def test_replace_ends_what_runs(self):
        world = World(timer(every=DAY, overlap=Overlap.REPLACE))
        world.advance(DAY)
        run = ask(world, lambda: world.exit(0))
        assert (run["why"], brief(read(run["cause"]))) == ("trigger", "exit 0")
        assert world.results[0] == ("schedule", "stopped_for_next")

    def test_it_takes_the_place_of_a_retry(self):
        world = World(timer(every=DAY, retries=1))
        world.advance(DAY)
        world.exit(1)
        ask(world, world.exit)
        world.advance(1000.0)
        assert world.times == [DAY, DAY]

    def test_who_waits_for_a_queued_run_is_told_of_a_stop(self):
        world = World(timer(every=DAY, overlap=Overlap.QUEUE))
        world.advance(DAY)
        assert ask(world, world.stop) == "job was not run: job was stopped"

    def test_and_of_the_end_of_the_daemon(self):
        world = World(timer(every=DAY, overlap=Overlap.QUEUE))
        world.advance(DAY)
        assert ask(world, world.timers.close) == "job was not run: impetusd is stopping"

    def test_a_client_that_went_away_is_no_error(self):
        world = World(timer(every=DAY))

        async def run():
            asked = asyncio.ensure_future(world.timers.trigger("job"))
            await turns()
            asked.cancel()
            await turns()
            world.exit()

        asyncio.run(run())
        assert world.results == [("trigger", "exit 0")]

    @pytest.mark.parametrize(
        ("name", "message", "code"),
        [
            ("nosuch", "no timer nosuch; timers: job", 4),
            ("job", "timer job is disabled (by enabled = no or impetusd disable)", 1),
        ],
    )
    def test_refusals(self, name, message, code):
        world = World(timer(enabled=False))
        with pytest.raises(ProtocolError) as refused:
            asyncio.run(world.timers.trigger(name))
        assert (refused.value.message, refused.value.exit) == (message, code)

    def test_a_start_that_nobody_here_asked_for_counts_as_one(self):
        world = World(timer(every=DAY))
        world.start()
        world.exit()
        assert world.results == [("trigger", "exit 0")]


STEPS = st.one_of(
    st.tuples(st.just("advance"), st.sampled_from([1.0, 59.0, 1800.0, HOUR, 7 * HOUR, DAY])),
    st.tuples(st.just("set_clock"), st.sampled_from([-0.5, -59.0, -HOUR, -YEAR, 0.7, HOUR, YEAR])),
    st.tuples(st.just("suspend"), st.sampled_from([10.0, HOUR, DAY])),
    st.tuples(st.just("exit"), st.sampled_from([0, 1])),
    st.tuples(st.just("reboot"), st.sampled_from([30.0, DAY, -HOUR])),
    st.tuples(st.just("change"), st.none()),
)


@given(
    steps=st.lists(STEPS, max_size=12),
    keys=st.sampled_from([{"every": HOUR}, {"cron": "*/30 * * * *"}, {"cron": "30 2 * * *"}]),
    overlap=st.sampled_from(Overlap),
    catch_up=st.booleans(),
    jitter=st.sampled_from([0.0, 900.0]),
)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_to_the_clocks(steps, keys, overlap, catch_up, jitter):
    """No jump, sleep, death or reboot starts more than one run, none leaves a run without a result, none stops a timer."""
    world = World(timer(overlap=overlap, catch_up=catch_up, jitter=jitter, retries=1, **keys))
    for what, value in steps:
        before = len(world.starts)
        if what == "change":
            world.die()
            world.succeed()
        elif what != "exit" or world.slots["job"].pid is not None:
            getattr(world, what)(value)
        if what != "advance":
            assert len(world.starts) <= before + 1
        running = world.slots["job"].state not in {State.STOPPED, State.EXITED, State.FATAL}
        assert (world.row()["running_s"] is not None) == running
    before = len(world.starts)
    for _ in range(2):
        if world.slots["job"].pid is not None:
            world.exit()
    world.advance(DAY + 4 * HOUR)
    assert len(world.starts) > before


class TestTheEnd:
    def test_nothing_is_started_any_more_and_what_ends_is_noted(self):
        world = World(timer(every=10.0, retries=3, overlap=Overlap.QUEUE))
        world.advance(25.0)
        world.timers.close()
        assert world.alarms == []
        world.exit(1)
        world.advance(1000.0)
        assert world.times == [10.0]
        assert json.loads(world.records["job"])["runs"][0]["code"] == 1

    def test_without_timers_there_is_no_alarm(self):
        world = World()
        assert (world.alarms, world.timers.rows(), world.timers.attention()) == ([], [], [])
        world.timers.changed(job_changed("web", Slot(), Slot(state=State.RUNNING)))
        world.timers.close()


def test_a_record_is_what_was_kept_last():
    world = World(timer())
    world.advance(61.0)
    world.exit()
    kept, now = json.loads(world.records["job"]), json.loads(world.timers.dump()["job"])
    assert kept == now


def test_rows_say_when_in_iso_and_in_words():
    world = World(timer(cron="30 2 * * *", timezone="Europe/Lisbon"))
    row = world.row()
    assert (row["schedule"], row["words"]) == ("30 2 * * *", "at 02:30 every day, Europe/Lisbon")
    assert datetime.fromisoformat(row["next"]).timestamp() == BEGIN + 1.5 * HOUR  # 02:30 there, just after the gap
    assert (row["next_in_s"], row["state"], row["running_s"], row["runs"]) == (1.5 * HOUR, "waiting", None, [])


class TestZone:
    @pytest.mark.parametrize("value", ["America/New_York", ":America/New_York"])
    def test_tz_names_the_hosts(self, monkeypatch, value):
        monkeypatch.setenv("TZ", value)
        assert str(zone("")) == "America/New_York"

    @pytest.mark.parametrize("value", ["Nowhere/Atall", "/nonexistent", "../../etc/passwd", "/etc/passwd"])
    def test_where_it_cannot_be_told_it_is_utc(self, monkeypatch, value):
        monkeypatch.setenv("TZ", value)
        assert datetime(2026, 7, 1, tzinfo=zone("")).utcoffset().total_seconds() == 0

    def test_a_file_is_read(self, monkeypatch):
        monkeypatch.setenv("TZ", os.path.realpath("/usr/share/zoneinfo/Asia/Kathmandu"))
        assert datetime(2026, 7, 1, tzinfo=zone("")).utcoffset().total_seconds() == 5.75 * HOUR

    def test_a_name_wins(self, monkeypatch):
        monkeypatch.setenv("TZ", "America/New_York")
        assert str(zone("Europe/Lisbon")) == "Europe/Lisbon"


class Mistake(Exception):
    pass


def once(real):
    """`real`, which raises first."""
    calls = []

    def act(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise Mistake
        return real(*args, **kwargs)

    return act


def contained(*timers):
    """A world in which what raises is contained, and nothing is attempted again by itself."""
    world = World(*timers)
    world.effects.faults = Faults(
        world.told.append, lambda: None, lambda: world.run, lambda *_: SimpleNamespace(cancel=lambda: None)
    )
    return world


class TestWhateverRaises:
    @pytest.mark.parametrize(("whose", "part"), [("job", "_conclude"), ("effects", "clock")])
    def test_the_end_of_a_run_is_found_again(self, monkeypatch, whose, part):
        world = contained(timer(every=100.0))
        world.advance(110.0)
        owner = Job if whose == "job" else world.effects
        monkeypatch.setattr(owner, part, once(getattr(owner, part)))
        world.exit(3)
        assert world.results == []
        world.advance(10.0)
        assert world.results == [("schedule", "exit 3")]
        world.advance(80.0)
        assert world.times == [100.0, 200.0]

    def test_a_result_that_cannot_be_recorded_does_not_hold_back_the_queued_run(self):
        world = contained(timer(every=100.0, overlap=Overlap.QUEUE))
        world.advance(210.0)
        world.effects.record = once(world.effects.record)
        world.exit()
        assert world.times == [100.0, 210.0]
        assert world.results == [("schedule", "exit 0")]

    def test_a_run_whose_end_cannot_be_judged_has_failed(self, monkeypatch):
        world = contained(timer(every=100.0, retries=1, retry_delay=5.0))
        monkeypatch.setattr(rules, "judge", once(rules.judge))
        run = ask(world, world.exit)
        assert (run["ok"], read(run["cause"])) == (False, because("internal", error="Mistake()"))
        world.advance(5.0)
        assert len(world.starts) == 2

    def test_who_waits_for_a_queued_run_that_cannot_be_started_is_refused(self):
        world = contained(timer(every=100.0, overlap=Overlap.QUEUE))
        world.advance(110.0)
        raising = once(world.effects.start)
        answer = ask(world, lambda: setattr(world.effects, "start", raising), world.exit)
        assert isinstance(answer, str)  # a refusal
        assert world.results == [("schedule", "exit 0")]
        world.advance(90.0)
        assert world.times == [100.0, 200.0]

    def test_without_a_descriptor_for_an_alarm_it_begins_when_asked_again(self):
        world = World(timer(every=100.0))
        world.die()
        world.make_alarm = once(world.make_alarm)
        world.timers = world.supervisor()
        with pytest.raises(Mistake):
            world.timers.begin(world.slots)
        world.timers.begin(world.slots)
        world.advance(100.0)
        assert world.times == [100.0]
