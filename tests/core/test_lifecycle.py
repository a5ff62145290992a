"""The state machine: its table, then its promises as properties over any history of events."""

from __future__ import annotations

import errno
import heapq
import random
import signal
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervisor.states import getProcessStateDescription

from impetusd.core.config.model import Autorestart
from impetusd.core.reasons import NONE, because, not_started
from impetusd.core.rules import lifecycle
from impetusd.core.rules.lifecycle import (
    EVENTS,
    TABLE,
    Cancel,
    Deadline,
    Event,
    Exited,
    Fail,
    Gone,
    HandOver,
    Ping,
    Ready,
    Recycle,
    Restart,
    Scope,
    Signal,
    Slot,
    Spawn,
    Spawned,
    Start,
    State,
    Stop,
    Taken,
    Want,
    has_budget,
    step,
)
from impetusd.core.rules.policy import Exit, Policy

POLICY = Policy(wait_ready=True, max_restarts=3, restart_window=60.0)
OK, FAILED, KILLED = Exit(code=0), Exit(code=1), Exit(signal=signal.SIGKILL)
NO_RLIMITS = not_started("rlimits", because("os_error", errno=errno.EPERM, detail=""))
NO_PROGRAM = not_started("exec", because("no_file", name="/x"), "/x")
OLD, BIG = because("max_age", limit_s=3600.0), because("max_memory_kill", used=9, limit=8, hold_s=0.0, basis="")
ILL = because("unhealthy", cause=because("bad_answer", question="GET /", answer="500", at="/", errno=0))


def run(*events: Event, policy: Policy = POLICY, slot: Slot | None = None, at: float = 100.0) -> Slot:
    """The slot after `events`, one a second."""
    slot = slot or Slot()
    for event in events:
        slot, _ = step(policy, slot, event, at, 0.5)
        at += 1
    return slot


def acts(slot: Slot, event: Event, policy: Policy = POLICY, at: float = 200.0) -> tuple[lifecycle.Action, ...]:
    """What `event` has the engine do."""
    return step(policy, slot, event, at, 0.5)[1]


RUNNING = run(Start(), Spawned(7), Ready())


class TestTable:
    def test_every_cell_is_filled(self):
        assert set(TABLE) == {(state, event) for state in State for event in EVENTS}

    def test_states_bear_the_names_and_numbers_of_supervisor(self):
        assert all(getProcessStateDescription(state) == state.name for state in State)

    def test_a_step_changes_no_slot_in_place(self):
        before = replace(RUNNING)
        step(POLICY, RUNNING, Exited(KILLED), 200.0, 0.5)
        assert before == RUNNING


class TestStarting:
    def test_a_start_spawns_and_waits_for_ready(self):
        slot, actions = step(POLICY, Slot(), Start(), 1.0, 0.5)
        assert (slot.state, slot.want, actions) == (State.STARTING, Want.UP, (Spawn(),))
        assert run(Start(), Spawned(7)).deadline == 101.0 + POLICY.listen_timeout
        assert (RUNNING.state, RUNNING.pid, RUNNING.deadline) == (State.RUNNING, 7, None)

    def test_without_wait_ready_having_lived_for_a_moment_is_being_ready_and_not_having_lasted(self):
        policy = replace(POLICY, wait_ready=False, min_uptime=200.0, settling=1.0)
        assert run(Start(), Spawned(7), policy=policy).deadline == 101.0 + 1.0
        running = run(Start(), Spawned(7), Deadline(), policy=policy)
        assert running.state is State.RUNNING
        failed = run(Exited(FAILED), slot=replace(running, failures=1), policy=policy, at=250.0)
        assert (failed.state, failed.failures) == (State.BACKOFF, 2)
        lasted = run(Exited(FAILED), slot=replace(running, failures=1), policy=policy, at=301.0)
        assert (lasted.state, lasted.failures) == (State.STARTING, 0)

    def test_what_is_oneshot_is_ready_when_it_has_done_its_work(self):
        policy = replace(POLICY, wait_ready=False, oneshot=True, listen_timeout=0.0, autorestart=Autorestart.NEVER)
        working = run(Start(), Spawned(7), Ready(), policy=policy)
        assert (working.state, working.deadline) == (State.STARTING, None)
        assert run(Exited(OK), slot=working, policy=policy).state is State.EXITED
        failed = run(Exited(FAILED), slot=working, policy=policy)
        assert (failed.state, failed.reason) == (State.FATAL, because("exit", code=1))
        again = run(Exited(FAILED), slot=working, policy=replace(policy, autorestart=Autorestart.ON_FAILURE))
        assert again.state is State.STARTING

    def test_and_may_be_given_a_time_for_it(self):
        policy = replace(POLICY, wait_ready=False, oneshot=True, listen_timeout=9.0)
        slot = run(Start(), Spawned(7), Deadline(), policy=policy)
        assert (slot.state, slot.failed) == (State.STOPPING, because("not_ready", within_s=9.0))

    def test_one_that_does_not_become_ready_is_ended_and_tried_again(self):
        starting = run(Start(), Spawned(7))
        slot, actions = step(POLICY, starting, Deadline(), 200.0, 0.5)
        assert slot.state is State.STOPPING
        assert slot.want is Want.UP
        assert Signal(signal.SIGTERM, Scope.MAIN) in actions
        ended = run(Exited(OK), slot=slot)
        assert ended.restarts == 1
        assert ended.reason.find("not_ready") == because("not_ready", within_s=30.0)

    def test_one_that_does_not_become_ready_is_a_failure_even_if_it_then_exits_0(self):
        policy = replace(POLICY, autorestart=Autorestart.ON_FAILURE)
        assert run(Start(), Spawned(7), Deadline(), Exited(OK), policy=policy).state is State.STARTING

    def test_a_start_that_fails_at_a_stage_says_which(self):
        slot = run(Start(), Exited(Exit(failed=NO_RLIMITS)))
        assert slot.restarts == 1
        assert slot.reason.find("start_failed") == NO_RLIMITS

    def test_a_stop_before_the_spawn_calls_it_off(self):
        slot, actions = step(POLICY, run(Start()), Stop(), 2.0, 0.5)
        assert (slot.state, actions) == (State.STOPPING, (Cancel(),))
        assert run(Gone(), slot=slot).state is State.STOPPED

    def test_a_stop_that_crosses_the_spawn_ends_what_was_spawned(self):
        slot = run(Start(), Stop())
        assert Signal(signal.SIGTERM, Scope.MAIN) in acts(slot, Spawned(7))
        assert run(Spawned(7), Exited(OK), slot=slot).state is State.STOPPED


class TestStopping:
    def test_a_stopped_process_is_woken_so_that_it_hears_the_signal(self):
        assert acts(RUNNING, Stop()) == (Signal(signal.SIGTERM, Scope.MAIN), Signal(signal.SIGCONT, Scope.MAIN))

    def test_the_deadline_kills_the_whole_tree(self):
        stopping = run(Stop(), slot=RUNNING)
        assert stopping.deadline == 100.0 + POLICY.kill_timeout
        assert acts(stopping, Deadline()) == (Signal(signal.SIGKILL, Scope.TREE),)
        assert acts(stopping, Deadline(), replace(POLICY, treekill=False)) == (Signal(signal.SIGKILL, Scope.MAIN),)

    def test_what_does_not_end_on_sigkill_is_told_and_killed_again(self):
        slot = run(Stop(), Deadline(), Deadline(), slot=RUNNING)
        assert slot.kills == 2
        assert slot.deadline is not None
        assert slot.reason == because("unkillable")

    @pytest.mark.parametrize("kill_timeout", [0.0, 0.1, 1.0, 2.4, 6.0, 10.0, 3600.0])
    def test_it_is_unkillable_some_seconds_after_sigkill_whatever_the_kill_timeout(self, kill_timeout):
        """The end of the daemon does not wait for it any longer."""
        policy = replace(POLICY, kill_timeout=kill_timeout)
        slot = run(Stop(), slot=RUNNING, policy=policy)
        killed = None
        while not lifecycle.is_unkillable(policy, slot):
            at = slot.deadline
            slot, _ = step(policy, slot, Deadline(), at, 0.5)
            killed = killed or at
        assert lifecycle.UNKILLABLE <= at - killed <= 2 * lifecycle.UNKILLABLE

    def test_a_stop_is_over_when_the_tree_is_empty(self):
        stopping = run(Stop(), slot=RUNNING)
        left, actions = step(POLICY, stopping, Exited(OK, left=True), 103.0, 0.5)
        assert left.state is State.STOPPING
        assert Signal(signal.SIGTERM, Scope.REST) in actions
        assert left.deadline == stopping.deadline, (
            "descendants have the rest of the stop's time, not a time of their own"
        )
        assert run(Gone(), slot=left).state is State.STOPPED

    def test_descendants_are_left_alone_without_treekill(self):
        policy = replace(POLICY, treekill=False)
        assert run(Stop(), Exited(OK, left=True), slot=RUNNING, policy=policy).state is State.STOPPED

    def test_started_while_stopping_it_starts_again_uncounted(self):
        slot = run(Stop(), Start(), Exited(OK), slot=RUNNING)
        assert (slot.state, slot.restarts) == (State.STARTING, 0)

    def test_a_restart_is_a_stop_and_a_start_uncounted(self):
        stopping = run(Restart(), slot=RUNNING)
        assert (stopping.state, stopping.want) == (State.STOPPING, Want.UP)
        slot = run(Exited(OK), slot=stopping)
        assert (slot.state, slot.restarts, slot.recent) == (State.STARTING, 0, ())

    def test_a_stop_during_a_restart_wins(self):
        assert run(Restart(), Stop(), Exited(OK), slot=RUNNING).state is State.STOPPED


class TestEnding:
    def test_a_crash_after_a_long_run_is_restarted_at_once(self):
        slot, actions = step(POLICY, RUNNING, Exited(KILLED), 200.0, 0.5)
        assert (slot.state, slot.restarts, slot.failures, actions) == (State.STARTING, 1, 0, (Spawn(),))
        assert slot.last_exit == KILLED

    def test_what_a_crashed_process_left_behind_ends_before_the_next_starts(self):
        slot, actions = step(POLICY, RUNNING, Exited(KILLED, left=True), 200.0, 0.5)
        assert slot.state is State.STOPPING
        assert Signal(signal.SIGTERM, Scope.REST) in actions
        assert slot.deadline == 200.0 + POLICY.kill_timeout
        again = run(Gone(), slot=slot)
        assert (again.state, again.restarts) == (State.STARTING, 1)

    def test_early_ends_are_backed_off_then_given_up(self):
        slot = run(Start())
        seen = []
        for _ in range(4):
            slot = run(Spawned(7), Exited(FAILED), slot=slot, at=300.0)
            seen.append(slot.state)
            slot = run(Deadline(), slot=slot, at=300.0)
        assert seen == [State.STARTING, State.BACKOFF, State.BACKOFF, State.FATAL]
        assert slot.reason == because("gave_up", end=FAILED.reason, restarts=3, window_s=60.0)

    def test_a_command_revives_what_was_given_up_and_forgives_the_past(self):
        fatal = replace(RUNNING, state=State.FATAL, pid=None, recent=(1.0, 2.0, 3.0), failures=9)
        slot = run(Start(), slot=fatal)
        assert (slot.state, slot.recent, slot.failures) == (State.STARTING, (), 0)

    @pytest.mark.parametrize(
        ("autorestart", "end", "then"),
        [
            (Autorestart.ALWAYS, OK, State.STARTING),
            (Autorestart.ALWAYS, FAILED, State.STARTING),
            (Autorestart.ON_FAILURE, OK, State.EXITED),
            (Autorestart.ON_FAILURE, FAILED, State.STARTING),
            (Autorestart.ON_FAILURE, KILLED, State.STARTING),
            (Autorestart.NEVER, OK, State.EXITED),
            (Autorestart.NEVER, FAILED, State.FATAL),
            (Autorestart.NEVER, Exit(failed=NO_PROGRAM), State.FATAL),
        ],
    )
    def test_autorestart_decides(self, autorestart: Autorestart, end: Exit, then: State):
        assert run(Exited(end), slot=RUNNING, policy=replace(POLICY, autorestart=autorestart), at=200.0).state is then

    def test_stop_exit_codes_are_an_end_as_it_should_be(self):
        policy = replace(POLICY, stop_exit_codes=(1,))
        assert run(Exited(FAILED), slot=RUNNING, policy=policy).state is State.EXITED

    def test_fatal_exit_codes_are_not_tried_again(self):
        policy = replace(POLICY, fatal_exit_codes=(78,))
        slot = run(Exited(Exit(code=78)), slot=RUNNING, policy=policy)
        assert (slot.state, slot.reason, slot.restarts) == (State.FATAL, because("exit", code=78), 0)

    @pytest.mark.parametrize(
        ("stage", "cause", "then"),
        [
            ("exec", because("no_file", name="/srv/x"), State.FATAL),
            ("exec", because("no_program", name="x"), State.FATAL),
            ("exec", because("os_error", errno=errno.EACCES, detail=""), State.FATAL),
            ("exec", because("os_error", errno=errno.ENOEXEC, detail=""), State.FATAL),
            ("cwd", because("os_error", errno=errno.ENOENT, detail=""), State.FATAL),
            ("exec", because("os_error", errno=errno.ETXTBSY, detail=""), State.STARTING),  # it is being written
            ("exec", because("os_error", errno=errno.ENOMEM, detail=""), State.STARTING),
            ("account", because("no_user", name="x"), State.STARTING),  # a name service may come back
            ("log_pipes", because("os_error", errno=errno.EMFILE, detail=""), State.STARTING),
        ],
    )
    def test_what_cannot_be_executed_at_all_is_given_up_at_once(self, stage, cause, then):
        failed = not_started(stage, cause, "/srv/x")
        slot = run(Exited(Exit(failed=failed)), slot=run(Start()))
        assert slot.state is then
        if then is State.FATAL:
            assert slot.reason == because("cannot_execute", end=failed)
            assert slot.restarts == 0

    def test_what_ran_until_now_is_tried_again_for_a_deploy_may_be_under_way(self):
        slot = run(Exited(FAILED), Exited(Exit(failed=NO_PROGRAM)), slot=RUNNING, at=200.0)
        assert slot.state in {State.STARTING, State.BACKOFF}

    def test_with_retry_after_it_is_tried_on_that_schedule(self):
        policy = replace(POLICY, retry_after=60.0)
        slot = run(Exited(Exit(failed=NO_PROGRAM)), slot=run(Start()), policy=policy)
        assert slot.state is State.FATAL
        assert slot.deadline is not None

    def test_twenty_that_fail_together_for_ever_rise_apart_and_are_given_up_once_each(self):
        """With the default keys: no more than max_restarts starts a minute, then none."""
        policy, chance = Policy(), random.Random(1)
        slots, starts, given_up = [Slot()] * 20, [[] for _ in range(20)], [0] * 20
        due: list[tuple[float, int, Event]] = [(0.0, at, Start()) for at in range(20)]
        while due:
            now, at, event = heapq.heappop(due)
            before = slots[at]
            slots[at], actions = step(policy, before, event, now, chance.random())
            given_up[at] += slots[at].state is State.FATAL
            if Spawn() in actions:
                starts[at].append(now)
                heapq.heappush(due, (now + 0.01, at, Exited(FAILED)))
            elif slots[at].state is State.BACKOFF:
                heapq.heappush(due, (slots[at].deadline or now, at, Deadline()))
        assert given_up == [1] * 20
        assert {len(each) for each in starts} == {1 + policy.max_restarts}
        assert max(each[-1] for each in starts) < policy.restart_window + policy.exp_backoff_max_delay
        for number in range(3, 1 + policy.max_restarts):
            together = [round(each[number], 3) for each in starts]
            assert len(set(together)) > 15, f"start {number}: {sorted(together)}"

    def test_a_parked_worker_that_was_taken_is_replaced_uncounted(self):
        slot, actions = step(POLICY, RUNNING, Taken(), 200.0, 0.5)
        assert (slot.state, slot.pid, slot.restarts, actions) == (State.STARTING, None, 0, (Spawn(),))

    def test_one_that_is_not_needed_any_more_is_not_replaced(self):
        slot, actions = step(POLICY, RUNNING, Taken(again=False), 200.0, 0.5)
        assert (slot.state, slot.want, slot.pid, actions) == (State.STOPPED, Want.DOWN, None, ())


class TestRecycling:
    """A rule of the INI replaces a process that is well: graceful, counted, within the budget."""

    def test_a_recycled_process_is_stopped_gracefully_and_started_again_counted(self):
        slot, actions = step(POLICY, RUNNING, Recycle(OLD), 200.0, 0.5)
        assert (slot.state, slot.reason) == (State.STOPPING, OLD)
        assert actions == (Signal(signal.SIGTERM, Scope.MAIN), Signal(signal.SIGCONT, Scope.MAIN))
        again, actions = step(POLICY, slot, Exited(OK), 201.0, 0.5)
        assert (again.state, again.restarts, again.recent, actions) == (State.STARTING, 1, (201.0,), (Spawn(),))
        assert (again.failures, again.due) == (0, NONE)

    @pytest.mark.parametrize("autorestart", Autorestart)
    def test_autorestart_does_not_matter_for_a_restart_that_the_ini_asks_for(self, autorestart: Autorestart):
        policy = replace(POLICY, autorestart=autorestart, stop_exit_codes=(0,))
        assert run(Recycle(OLD), Exited(OK), slot=RUNNING, policy=policy).state is State.STARTING

    def test_without_budget_a_healthy_process_is_left_alone(self):
        spent = replace(RUNNING, recent=(198.0, 198.5, 199.0))
        assert step(POLICY, spent, Recycle(OLD), 200.0, 0.5) == (spent, ())
        assert step(POLICY, spent, Recycle(OLD), 259.0, 0.5)[0].state is State.STOPPING

    def test_a_stop_during_a_recycle_wins_and_a_restart_makes_it_one_that_was_asked_for(self):
        recycling = run(Recycle(OLD), slot=RUNNING)
        assert run(Stop(), Exited(OK), slot=recycling).state is State.STOPPED
        assert run(Restart(), Exited(OK), slot=recycling).restarts == 0

    def test_a_worker_that_takes_over_is_counted_unless_it_was_asked_for(self):
        slot, actions = step(POLICY, RUNNING, HandOver(9, OLD), 200.0, 0.5)
        assert (slot.state, slot.pid, slot.restarts, slot.recent) == (State.STARTING, 9, 1, (200.0,))
        assert (slot.reason, slot.deadline, actions) == (OLD, 230.0, ())
        asked, _ = step(POLICY, RUNNING, HandOver(9, because("rolling_restart"), asked=True), 200.0, 0.5)
        assert (asked.restarts, asked.recent) == (0, ())


class TestFailing:
    def test_an_unhealthy_process_is_stopped_gracefully_and_tried_again_as_a_failure(self):
        slot, actions = step(POLICY, RUNNING, Fail(ILL), 200.0, 0.5)
        assert slot.state is State.STOPPING
        assert Signal(signal.SIGTERM, Scope.MAIN) in actions
        again = run(Exited(OK), slot=slot, policy=replace(POLICY, autorestart=Autorestart.ON_FAILURE))
        assert (again.state, again.restarts, again.failures, again.reason) == (State.STARTING, 1, 1, ILL)

    def test_failing_once_an_hour_is_no_series(self):
        slot = RUNNING
        for _ in range(5):
            slot = run(Fail(ILL), Exited(OK), Spawned(7), Ready(), slot=slot, at=(slot.started or 0) + 3600)
        assert slot.failures == 1

    def test_a_hard_failure_is_killed_with_its_tree_at_once(self):
        slot, actions = step(POLICY, RUNNING, Fail(BIG, hard=True), 200.0, 0.5)
        assert (slot.state, slot.kills, actions) == (State.STOPPING, 1, (Signal(signal.SIGKILL, Scope.TREE),))
        assert run(Exited(KILLED), slot=slot).restarts == 1

    def test_a_hard_failure_ends_a_stop_that_is_under_way(self):
        stopping = run(Stop(), slot=RUNNING)
        slot, actions = step(POLICY, stopping, Fail(BIG, hard=True), 200.0, 0.5)
        assert (slot.state, slot.kills, actions) == (State.STOPPING, 1, (Signal(signal.SIGKILL, Scope.TREE),))
        assert slot.reason == BIG
        assert step(POLICY, slot, Fail(ILL, hard=True), 201.0, 0.5) == (slot, ())
        assert run(Exited(KILLED), slot=slot).state is State.STOPPED

    def test_a_failure_while_nothing_runs_means_nothing(self):
        for slot in (Slot(), run(Start()), run(Stop(), slot=RUNNING)):
            assert step(POLICY, slot, Fail(ILL), 200.0, 0.5) == (slot, ())


class TestWatchdog:
    POLICY = replace(POLICY, watchdog=30.0)

    def test_each_sign_of_life_moves_the_deadline(self):
        slot = run(Start(), Spawned(7), Ready(), policy=self.POLICY)
        assert slot.deadline == 102.0 + 30.0
        assert run(Ping(), slot=slot, policy=self.POLICY, at=120.0).deadline == 150.0

    def test_one_that_hangs_writes_its_stacks_and_is_killed_soon(self):
        slot = run(Start(), Spawned(7), Ready(), policy=self.POLICY)
        hung, actions = step(self.POLICY, slot, Deadline(), 132.0, 0.5)
        assert (hung.state, hung.deadline) == (State.STOPPING, 134.0)
        assert actions[0] == Signal(signal.SIGABRT, Scope.MAIN)
        assert acts(hung, Deadline(), self.POLICY) == (Signal(signal.SIGKILL, Scope.TREE),)
        again = run(Exited(Exit(signal=signal.SIGABRT)), slot=hung, policy=self.POLICY)
        assert (again.state, again.restarts) == (State.STARTING, 1)
        assert again.reason == because("watchdog", within_s=30.0)

    def test_without_a_watchdog_there_is_no_deadline(self):
        assert run(Ping(), slot=RUNNING).deadline is None


class TestRetryAfter:
    POLICY = replace(POLICY, retry_after=300.0, max_restarts=1, exp_backoff_restart_delay=0.0)

    def fatal(self) -> Slot:
        slot = run(Start(), Spawned(7), Exited(FAILED), Spawned(8), Exited(FAILED), policy=self.POLICY)
        assert slot.state is State.FATAL
        return slot

    def test_what_was_given_up_is_tried_once_on_a_slow_schedule(self):
        fatal = self.fatal()
        assert fatal.deadline == 104.0 + 300.0
        assert (fatal.reason.key, fatal.reason.facts["every_s"]) == ("tried_slowly", 300.0)
        slot, actions = step(self.POLICY, fatal, Deadline(), 404.0, 0.5)
        assert (slot.state, slot.half_open, slot.restarts, actions) == (State.STARTING, True, 2, (Spawn(),))

    def test_a_try_that_fails_is_given_up_again_at_once_and_says_the_same(self):
        fatal = self.fatal()
        again = run(Deadline(), Spawned(9), Exited(FAILED), slot=fatal, policy=self.POLICY, at=404.0)
        assert (again.state, again.restarts) == (State.FATAL, 2)
        assert again.reason.key == "tried_slowly"
        assert again.reason.facts["end"].find("tried_slowly") is None

    def test_a_try_that_lasts_makes_it_an_ordinary_one_again(self):
        tried = run(Deadline(), Spawned(9), Ready(), slot=self.fatal(), policy=self.POLICY, at=404.0)
        slot = run(Exited(FAILED), slot=tried, policy=self.POLICY, at=500.0)
        assert (slot.state, slot.half_open) == (State.STARTING, False)

    def test_the_schedule_never_exceeds_the_budget(self):
        policy = replace(self.POLICY, retry_after=1.0, restart_window=600.0)
        fatal = run(Start(), Spawned(7), Exited(FAILED), Spawned(8), Exited(FAILED), policy=policy)
        assert fatal.deadline is not None
        assert fatal.deadline >= fatal.recent[0] + 600.0

    def test_no_schedule_where_nothing_is_ever_tried_again(self):
        for policy in (replace(self.POLICY, max_restarts=0), replace(self.POLICY, autorestart=Autorestart.NEVER)):
            slot = run(Start(), Spawned(7), Exited(FAILED), policy=policy)
            assert (slot.state, slot.deadline) == (State.FATAL, None)

    def test_a_command_forgives(self):
        slot = run(Start(), slot=self.fatal(), policy=self.POLICY)
        assert (slot.state, slot.half_open, slot.recent) == (State.STARTING, False, ())


class World:
    """The least that is around a slot: it carries out actions, one process at a time, and lets time pass."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.slot = Slot()
        self.now = 0.0
        self.asked = 0  # spawns that have not been answered
        self.alive = False
        self.unasked: list[float] = []

    def feed(self, event: Event, jitter: float) -> None:
        before = self.slot
        self.slot, actions = step(self.policy, before, event, self.now, jitter)
        for action in actions:
            if isinstance(action, Spawn):
                assert not self.alive, "a second process beside a living one"
                self.asked += 1
                if self.slot.restarts > before.restarts or isinstance(event, Deadline):
                    self.unasked.append(self.now)
        if isinstance(event, HandOver) and self.slot != before:
            self.unasked.append(self.now)
        self.check()

    def check(self) -> None:
        slot = self.slot
        if slot.pid is not None:
            assert slot.state in {State.STARTING, State.RUNNING, State.STOPPING}
        if slot.state is State.RUNNING:
            assert slot.pid is not None
        if slot.state in {State.STARTING, State.BACKOFF, State.RUNNING, State.STOPPED, State.EXITED}:
            running = slot.state is State.RUNNING and self.policy.watchdog > 0
            starting = slot.state is State.STARTING and slot.pid is not None
            assert (slot.deadline is not None) == (running or starting or slot.state is State.BACKOFF)
        if slot.state is State.FATAL and slot.deadline is not None:
            assert self.policy.retry_after
        if slot.state is State.STOPPING and slot.pid is not None:
            assert slot.deadline is not None, "a stop without an end"
        if slot.state is State.STOPPED:
            assert slot.want is Want.DOWN
        if slot.state in {State.STARTING, State.RUNNING, State.BACKOFF, State.EXITED, State.FATAL}:
            assert slot.want is Want.UP
        assert len(slot.recent) <= self.policy.max_restarts


COMMANDS = st.sampled_from(
    [
        *("start", "stop", "restart", "spawned", "ready", "exit0", "exit1", "left", "gone", "wait", "due"),
        *("recycle", "fail", "kill", "ping", "hand over"),
    ]
)
POLICIES = st.builds(
    Policy,
    autorestart=st.sampled_from(Autorestart),
    stop_exit_codes=st.sampled_from([(), (1,)]),
    min_uptime=st.floats(0.01, 5),
    max_restarts=st.integers(0, 4),
    restart_window=st.floats(1, 100),
    restart_delay=st.sampled_from([0.0, 0.5]),
    exp_backoff_restart_delay=st.sampled_from([0.0, 0.1, 3.0]),
    wait_ready=st.booleans(),
    treekill=st.booleans(),
    retry_after=st.sampled_from([0.0, 0.0, 1.0, 50.0]),
    watchdog=st.sampled_from([0.0, 5.0]),
)


@settings(max_examples=300)
@given(POLICIES, st.lists(st.tuples(COMMANDS, st.floats(0, 1, exclude_max=True), st.floats(0, 20)), max_size=60))
def test_whatever_happens_the_promises_hold(policy: Policy, script: list[tuple[str, float, float]]):
    """A pid only where one can be, one deadline, no second process, no unasked restart above the limit."""
    world = World(policy)
    commanded = {"start": Start(), "stop": Stop(), "restart": Restart()}
    ruled = {"recycle": Recycle(OLD), "fail": Fail(ILL), "kill": Fail(BIG, hard=True), "ping": Ping()}
    for command, jitter, wait in script:
        if command in commanded:
            world.feed(commanded[command], jitter)
            if command != "stop":
                world.unasked.clear()
        elif command in ruled:
            world.feed(ruled[command], jitter)
        elif command == "hand over":
            if world.slot.state is State.RUNNING and has_budget(policy, world.slot, world.now):
                world.feed(HandOver(8, BIG), jitter)
        elif command == "spawned" and world.asked:
            world.asked -= 1
            world.alive = True
            world.feed(Spawned(7), jitter)
        elif command == "ready" and world.alive:
            world.feed(Ready(), jitter)
        elif command in {"exit0", "exit1", "left"} and world.alive:
            world.alive = False
            world.feed(Exited(OK if command == "exit0" else FAILED, left=command == "left"), jitter)
        elif command == "gone" and world.slot.state is State.STOPPING and not world.alive and not world.asked:
            world.feed(Gone(), jitter)
        elif command == "wait":
            world.now += wait
        elif command == "due" and world.slot.deadline is not None:
            world.now = max(world.now, world.slot.deadline)
            world.feed(Deadline(), jitter)
        within = [at for at in world.unasked if at > world.now - policy.restart_window]
        assert len(within) <= policy.max_restarts


@given(st.sampled_from(list(State)), st.sampled_from(EVENTS))
def test_no_event_in_no_state_is_an_error(state: State, kind: type[Event]):
    """Events cross each other on their way: whatever comes late is taken calmly."""
    made = {Spawned: Spawned(7), Exited: Exited(OK), HandOver: HandOver(8, OLD), Recycle: Recycle(OLD), Fail: Fail(ILL)}
    event = made.get(kind) or kind()
    pid = 7 if state is State.RUNNING else None
    slot = Slot(state=state, want=Want.UP, pid=pid, started=0.0 if pid else None)
    after, _ = step(POLICY, slot, event, 10.0, 0.5)
    assert isinstance(after, Slot)
