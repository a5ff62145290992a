"""What becomes of slots when a process moves between them, and of a start that waits: pure functions beside the machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from impetusd.core.reasons import NONE, because, not_started
from impetusd.core.rules import places, waits
from impetusd.core.rules.lifecycle import Slot, State, Taken, Want
from impetusd.core.rules.policy import Exit, Policy

POLICY = Policy()
ENDED, OTHER = Exit(code=1, at=1.0), Exit(code=2, at=2.0)
FULL = Slot(
    state=State.RUNNING,
    want=Want.UP,
    since=5.0,
    deadline=9.0,
    pid=7,
    started=4.0,
    failures=2,
    restarts=3,
    recent=(1.0, 2.0),
    half_open=True,
    last_exit=ENDED,
)


def test_what_leaves_has_its_process_and_nothing_of_the_past_of_its_place():
    after = places.leaving(FULL)
    assert after == Slot(state=State.RUNNING, want=Want.UP, since=5.0, pid=7, started=4.0, last_exit=ENDED)
    assert after.deadline is None  # the watchdog's: it is not watched any more


def test_a_parked_worker_that_was_put_to_work_is_replaced_unless_it_is_scaled_away():
    assert places.taken(standby=True, dismissed=False) == Taken(again=True)
    assert places.taken(standby=True, dismissed=True) == Taken(again=False)
    assert places.taken(standby=False, dismissed=False) == Taken(again=False)


def test_a_process_that_takes_a_name_keeps_its_state_and_gets_the_past_of_the_name():
    target = Slot(restarts=9, recent=(8.0,), last_exit=OTHER)
    after = places.renamed(FULL, target)
    assert (after.restarts, after.recent, after.last_exit) == (9, (8.0,), OTHER)
    assert after == replace(FULL, restarts=9, recent=(8.0,), last_exit=OTHER)


def test_a_place_remembers_how_the_process_ended_that_left_it():
    gone = Slot(state=State.STOPPED, last_exit=OTHER)
    assert places.outlived(FULL, gone) == replace(FULL, last_exit=OTHER)


def test_a_start_that_is_refused_is_given_up_with_the_reason():
    failed = not_started("start", because("shutting_down"))
    starting, after = places.refused(Slot(state=State.EXITED, want=Want.UP, restarts=1), failed, 3.0)
    assert starting.state is State.STARTING
    assert (after.state, after.reason, after.last_exit) == (State.FATAL, failed, Exit(failed=failed, at=3.0))
    assert (after.want, after.restarts) == (Want.UP, 1)


def test_a_record_that_makes_no_sense_is_given_up():
    after = places.unreadable(Slot())
    assert (after.state, after.reason) == (State.FATAL, because("bad_record"))


@pytest.mark.parametrize("state", list(State))
def test_the_watchdog_begins_anew_where_one_runs(state):
    slot = replace(FULL, state=state)
    heard = places.heard_again(replace(POLICY, watchdog=3.0), slot, 10.0)
    assert heard == (replace(slot, deadline=13.0) if state is State.RUNNING else slot)
    assert places.heard_again(replace(POLICY, watchdog=0.0), slot, 10.0) == slot


# Waiting.


def test_a_start_waits_for_the_first_slot_that_is_down_and_says_why_a_task_has_failed():
    why = because("cannot_execute", end=NONE)
    up, down = Slot(state=State.STARTING), Slot(state=State.FATAL, reason=why)
    assert waits.waits_for("db", [up], oneshot=False) == because("waits_for", name="db", state="", cause=NONE)
    assert waits.waits_for("db", [], oneshot=True) == because("waits_for", name="db", state="", cause=NONE)
    assert waits.waits_for("db", [up, down], oneshot=False) == because(
        "waits_for", name="db", state="FATAL", cause=NONE
    )
    assert waits.waits_for("db", [up, down], oneshot=True) == because("waits_for", name="db", state="FATAL", cause=why)
    backoff = Slot(state=State.BACKOFF, reason=why)
    assert waits.waits_for("db", [backoff, down], oneshot=True) == because(
        "waits_for", name="db", state="BACKOFF", cause=NONE
    )


def test_a_template_has_so_long_for_a_fork_that_there_is_time_for_another_one():
    assert waits.fork_within(replace(POLICY, listen_timeout=3.0)) == 1.0
    assert waits.fork_within(replace(POLICY, listen_timeout=600.0)) == waits.FORKED
    forking = waits.forking(replace(POLICY, listen_timeout=3.0), FULL, 10.0)
    assert forking == replace(FULL, deadline=11.0)


@pytest.mark.parametrize(
    ("slot", "settled"),
    [
        (Slot(state=State.RUNNING), True),
        (Slot(state=State.STOPPED), True),
        (Slot(state=State.EXITED), True),
        (Slot(state=State.FATAL), True),
        (Slot(state=State.STARTING), False),
        (Slot(state=State.STOPPING), False),
        (Slot(state=State.STOPPING, kills=1), False),
        (Slot(state=State.STOPPING, kills=50), True),  # it hangs in the kernel
        (Slot(state=State.BACKOFF, failures=1, deadline=101.0), False),
        (Slot(state=State.BACKOFF, failures=waits.PATIENCE, deadline=101.0), True),
        (Slot(state=State.BACKOFF, failures=1, deadline=100.0 + waits.LONG + 0.1), True),
        (Slot(state=State.BACKOFF, failures=1), False),
    ],
)
def test_a_command_waits_no_longer_than_that_makes_sense(slot, settled):
    assert waits.is_settled(POLICY, slot, 100.0) is settled


def test_a_slot_says_when_it_is_tried_again_and_what_does_not_end():
    end = because("cannot_execute", end=NONE)
    backoff = Slot(state=State.BACKOFF, reason=end, deadline=102.5)
    assert waits.reason(POLICY, backoff, 100.0) == because("retrying", end=end, wait_s=2.5)
    assert waits.reason(POLICY, backoff, 102.49) == because("retrying_now", end=end)
    assert waits.reason(POLICY, replace(backoff, deadline=None), 100.0) == end
    killed = Slot(state=State.STOPPING, kills=1)
    assert waits.reason(POLICY, killed, 100.0).key == "not_ended"
    assert waits.reason(POLICY, replace(killed, reason=end), 100.0) == end
    assert waits.reason(POLICY, Slot(state=State.RUNNING), 100.0) == NONE
