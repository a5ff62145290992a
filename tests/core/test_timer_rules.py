"""What follows for a timer: due, missed, tried again, how a run has ended, what still holds after a death. Numbers for clocks."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC

import pytest
from timer_section import timer as configured

from impetusd.core.reasons import NONE, because, read
from impetusd.core.rules import timer, timer_record
from impetusd.core.rules.lifecycle import Slot, State
from impetusd.core.rules.policy import Exit
from impetusd.core.rules.schedule import LATE, Every
from impetusd.core.rules.timer import KEPT, Now, Progress, Run, Turn

pytestmark = pytest.mark.noise

NOW = Now(1_774_742_400.0, 1000.0, 500.0)  # 2026-03-29 00:00 UTC
STOPPED_FOR_NEXT = because("stopped_for_next")
TIMED_OUT = because("timed_out", limit_s=5.0)


def later(seconds, now=NOW):
    """So many seconds later, on all clocks."""
    return Now(now.wall + seconds, now.boot + seconds, now.run + seconds)


def begun(one, now=NOW):
    """A timer of which nothing was known, with its next time found."""
    return timer.plan(one, timer.begin(one, now, lambda _: UTC), now, "host")


class TestDue:
    @pytest.mark.parametrize("keys", [{"every": 60.0}, {"cron": "* * * * *"}])
    def test_a_run_in_time_is_on_schedule(self, keys):
        one = configured(**keys)
        at = begun(one)
        assert not timer.is_due(at, later(59.9))
        assert timer.is_due(at, later(60.0))
        at, why = timer.come_due(one, at, later(60.0 + LATE), "host")
        assert (why, at.seen, at.due) == (timer.SCHEDULE, at.clock(later(60.0 + LATE)), at.clock(later(180.0)))

    @pytest.mark.parametrize(("catch_up", "expected"), [(True, timer.CATCH_UP), (False, "")])
    def test_a_late_one_is_made_up_for_or_missed(self, catch_up, expected):
        one = configured(catch_up=catch_up)
        at, why = timer.come_due(one, begun(one), later(60.1 + LATE), "host")
        assert (why, at.due) == (expected, NOW.boot + 180.0)

    def test_a_disabled_timer_is_never_due(self):
        assert begun(configured(enabled=False)).due is None

    def test_jitter_differs_from_host_to_host_and_is_the_same_each_time(self):
        one = configured(every=3600.0, jitter=600.0)
        fresh = timer.begin(one, NOW, lambda _: UTC)
        due = {host: timer.plan(one, fresh, NOW, host).due for host in ("one", "two")}
        assert due["one"] != due["two"]
        assert due == {host: timer.plan(one, fresh, later(5.0), host).due for host in due}

    def test_what_is_waited_for(self):
        one = configured(timeout=5.0)
        at = begun(one)
        assert timer.waits(one, at, None, later(10.0)) == [50.0]
        running = timer.started(at, timer.SCHEDULE, 1, NOW)
        assert timer.waits(one, running, None, later(1.0)) == [59.0, 4.0]
        assert timer.waits(one, replace(at, retry_at=NOW.run + 20.0), None, NOW) == [60.0, 20.0]


class TestDeadline:
    def test_is_the_run_s_beginning_and_its_timeout(self):
        one = configured(timeout=5.0)
        at = timer.started(begun(one), timer.SCHEDULE, 1, later(60.0))
        assert timer.deadline(one, at, Slot(state=State.RUNNING)) == NOW.run + 65.0

    @pytest.mark.parametrize("why", ["no run", "no timeout", "it is being stopped", "only what it left behind remains"])
    def test_there_is_none(self, why):
        one = configured(timeout=0.0 if why == "no timeout" else 5.0)
        at = begun(one) if why == "no run" else timer.started(begun(one), timer.SCHEDULE, 1, NOW)
        if why == "it is being stopped":
            at = timer.ending(at, TIMED_OUT)
        state = State.STOPPING if why == "only what it left behind remains" else State.RUNNING
        assert timer.deadline(one, at, Slot(state=state)) is None


def test_a_run_that_starts_takes_the_place_of_a_retry():
    at = replace(begun(configured()), retry_at=NOW.run + 9.0, attempt=2)
    assert timer.retry_is_due(at, later(9.0))
    at = timer.started(at, timer.RETRY, 3, Now(NOW.wall + 9.00049, NOW.boot + 9.0, NOW.run + 9.0))
    assert (at.retry_at, at.attempt) == (None, 0)
    assert at.run == Run(why=timer.RETRY, attempt=3, at=NOW.wall + 9.0, began=NOW.run + 9.0)
    assert not timer.retry_is_due(at, later(9.0))


@pytest.mark.parametrize(
    ("running", "before", "after", "turn"),
    [
        (False, State.STOPPED, State.STARTING, Turn.BEGUN),
        (True, State.STOPPED, State.STARTING, None),
        (True, State.STARTING, State.RUNNING, None),
        (True, State.RUNNING, State.STOPPING, None),
        (True, State.RUNNING, State.EXITED, Turn.ENDED),
        (True, State.STOPPING, State.STOPPED, Turn.ENDED),
        (False, State.RUNNING, State.EXITED, Turn.ENDED),
        (True, State.EXITED, State.FATAL, Turn.ENDED),  # a start that could not even begin
        (False, State.EXITED, State.FATAL, None),
    ],
)
def test_what_a_change_of_the_slot_means(running, before, after, turn):
    at = begun(configured())
    at = timer.started(at, timer.SCHEDULE, 1, NOW) if running else at
    assert timer.turn(at, Slot(state=before), Slot(state=after)) is turn


EXIT_0, EXIT_3 = Exit(code=0, at=NOW.wall + 1.0), Exit(code=3, at=NOW.wall + 1.0)
KILLED, EARLIER = Exit(signal=15, at=NOW.wall + 1.0), Exit(code=3, at=NOW.wall - 1.0)
GAVE_UP = because("exit", code=3)


@pytest.mark.parametrize(
    ("ending", "state", "reason", "end", "ok", "failed", "result", "code"),
    [
        pytest.param(NONE, State.EXITED, NONE, EXIT_0, True, False, EXIT_0.reason, 0, id="well"),
        pytest.param(NONE, State.FATAL, GAVE_UP, EXIT_3, False, True, GAVE_UP, 3, id="badly"),
        pytest.param(
            NONE, State.FATAL, NONE, EXIT_3, False, True, EXIT_3.reason, 3, id="badly, the slot has no reason"
        ),
        pytest.param(
            *(NONE, State.STOPPED, NONE, KILLED, False, False, because("stopped", end=KILLED.reason), None),
            id="stopped by an operator",
        ),
        pytest.param(
            *(NONE, State.STOPPED, NONE, EARLIER, False, False, because("stopped_before"), 3),
            id="stopped before it began",
        ),
        pytest.param(NONE, State.STOPPED, NONE, None, False, False, because("stopped_before"), None, id="never begun"),
        pytest.param(TIMED_OUT, State.STOPPED, NONE, KILLED, False, True, TIMED_OUT, None, id="timed out"),
        pytest.param(
            *(STOPPED_FOR_NEXT, State.EXITED, NONE, EXIT_0, False, False, STOPPED_FOR_NEXT, None), id="for the next"
        ),
    ],
)
def test_how_a_run_has_ended(ending, state, reason, end, ok, failed, result, code):
    run = Run(why=timer.SCHEDULE, attempt=1, at=NOW.wall, began=NOW.run, ending=ending)
    outcome = timer.judge(run, Slot(state=state, reason=reason, last_exit=end), later(2.5))
    assert (outcome.ok, outcome.failed, outcome.result, outcome.code) == (ok, failed, result, code)
    assert (outcome.at, outcome.duration_s, outcome.why) == (NOW.wall, 2.5, timer.SCHEDULE)


def test_an_end_is_that_of_a_run_from_its_millisecond_on():
    run = Run(why=timer.SCHEDULE, attempt=1, at=NOW.wall, began=NOW.run)
    assert timer.is_end_of(run, Exit(code=0, at=NOW.wall))
    assert not timer.is_end_of(run, Exit(code=0, at=NOW.wall - 0.001))


class TestResults:
    def test_the_newest_comes_first_and_few_are_kept(self):
        at = begun(configured())
        outcomes = [timer.unjudged(Run(why="", attempt=n, at=float(n), began=0.0), timer.LOST) for n in range(KEPT + 3)]
        for each in outcomes:
            at = timer.note(at, each)
        assert at.runs == tuple(reversed(outcomes))[:KEPT]

    def test_skips_of_one_kind_in_a_row_are_one_result_that_counts(self):
        at = begun(configured())
        for n in range(3):
            at = timer.skip(at, timer.SCHEDULE, timer.STILL_RUNS, later(float(n)))
        assert [(each.result, each.times, each.at) for each in at.runs] == [(timer.STILL_RUNS, 3, NOW.wall + 2.0)]
        at = timer.skip(at, timer.SCHEDULE, timer.ANOTHER_WAITS, NOW)
        assert [each.times for each in at.runs] == [1, 3]

    def test_what_was_skipped_or_stopped_hides_no_failure(self):
        at = begun(configured())
        assert timer.last_failure(at) is None
        failed = timer.unjudged(Run(why="", attempt=1, at=NOW.wall, began=NOW.run), GAVE_UP)
        at = timer.skip(timer.note(at, failed), timer.SCHEDULE, timer.MISSED, NOW)
        assert timer.last_failure(at) == failed
        assert timer.last_failure(timer.note(at, replace(failed, ok=True, failed=False))) is None


def brought(one, at, seconds, *, fresh=None, boot="b", before="b", now=None):
    """How far the timer is by the record of `at`, so many seconds later."""
    now = now or later(seconds)
    text = timer_record.dump(one, at, NOW, before)
    return timer_record.load(one, fresh or timer.begin(one, now, lambda _: UTC), text, now, boot)


class TestRecord:
    def test_brings_all_but_what_is_found_anew(self):
        one = configured(retries=3)
        at = timer.note(begun(one), timer.unjudged(Run(why="x", attempt=1, at=1.5, began=0.0), GAVE_UP))
        at = replace(at, retry_at=NOW.run + 30.0, attempt=1)
        assert brought(one, at, 5.0) == replace(at, due=None)

    def test_brings_a_run_and_the_one_behind_it(self):
        one = configured()
        at = replace(timer.started(begun(one), timer.TRIGGER, 1, NOW), queued=timer.SCHEDULE)
        at = timer.ending(at, TIMED_OUT)
        assert brought(one, at, 5.0) == replace(at, due=None)
        alone = replace(at, run=None)
        assert brought(one, alone, 5.0).queued == ""

    def test_after_another_boot_the_clocks_are_moved(self):
        one = configured(every=60.0, retries=1)
        at = replace(begun(one), retry_at=NOW.run + 30.0, attempt=1)
        now = Now(NOW.wall + 100.0, 7.0, 3.0)
        found = brought(one, at, 0.0, boot="another", now=now)
        assert found.schedule == Every(60.0, 7.0 - 100.0)
        assert (found.seen, found.retry_at) == (7.0 - 100.0, 3.0 - 100.0 + 30.0)

    def test_a_wall_clock_that_fell_back_meanwhile_counts_as_no_time(self):
        one = configured(every=60.0)
        found = brought(one, begun(one), 0.0, boot="another", now=Now(NOW.wall - 1e6, 7.0, 3.0))
        assert (found.schedule, found.seen) == (Every(60.0, 7.0), 7.0)

    @pytest.mark.parametrize("then", [{"enabled": False}, {"cron": "* * * * *", "every": 0.0}])
    def test_what_was_off_or_went_by_another_schedule_has_missed_nothing(self, then):
        one = configured(every=60.0)
        old = configured(**{"every": 60.0, **then})
        text = timer_record.dump(old, begun(old), NOW, "b")
        fresh = timer.begin(one, later(1000.0), lambda _: UTC)
        assert timer_record.load(one, fresh, text, later(1000.0), "b") == fresh

    def test_what_is_off_now_is_not_tried_again(self):
        at = replace(begun(configured()), retry_at=NOW.run + 30.0, attempt=1)
        assert brought(configured(enabled=False), at, 5.0).retry_at is None

    def test_a_version_that_knows_no_reasons_has_written_sentences(self):
        one = configured()
        at = timer.note(begun(one), timer.unjudged(Run(why="x", attempt=1, at=1.5, began=0.0), GAVE_UP))
        data = json.loads(timer_record.dump(one, at, NOW, "b"))
        del data["results"], data["ending"]
        found = timer_record.load(one, timer.begin(one, NOW, lambda _: UTC), json.dumps(data), NOW, "b")
        assert [each.result for each in found.runs] == [read(None, data["runs"][0]["result"])]

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "now": 5}', "null"])
    def test_what_is_none_is_refused(self, text):
        one = configured()
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            timer_record.load(one, begun(one), text, NOW, "b")


def test_how_far_a_timer_is_is_not_changed_in_place():
    at = begun(configured())
    assert isinstance(at, Progress)
    with pytest.raises(AttributeError):
        at.due = 0.0
