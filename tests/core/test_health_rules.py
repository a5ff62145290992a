"""Health checks: what answers in a row make of a target, and when a probe may restart it."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impetusd.core.reasons import because
from impetusd.core.rules.health import (
    RESTART_EVERY,
    Condition,
    Observed,
    Result,
    Rule,
    Turn,
    first_wait,
    hold,
    next_wait,
    observe,
    restart_due,
    restarted,
)

OK, BAD = Result(True, "200 OK"), Result(False, "503 Service Unavailable")


def answers(rule, *results, seen=None, every=1.0):
    """The states and turns after each of `results`, one every `every` seconds."""
    seen = seen or Observed()
    passed = []
    for at, result in enumerate(results):
        seen, turn = observe(rule, seen, OK if result else BAD, at * every)
        passed.append((seen.condition.value, turn))
    return seen, passed


class TestObserve:
    def test_the_first_success_is_health(self):
        seen, passed = answers(Rule(successes=3), True)
        assert passed == [("healthy", None)]
        assert seen.passed

    def test_as_many_failures_as_configured_in_a_row_are_illness_told_once(self):
        _, passed = answers(Rule(failures=3), True, False, False, False, False)
        assert passed == [
            ("healthy", None),
            ("healthy", Turn.FAILING),
            ("healthy", None),
            ("unhealthy", Turn.ILL),
            ("unhealthy", None),
        ]

    def test_a_success_between_failures_begins_the_count_anew(self):
        seen, _ = answers(Rule(failures=3), True, False, False, True, False, False)
        assert (seen.condition, seen.failures) == (Condition.HEALTHY, 2)

    def test_as_many_successes_as_configured_in_a_row_are_health_told_once(self):
        _, passed = answers(Rule(failures=1, successes=2), False, True, False, True, True, True)
        assert passed == [
            ("unhealthy", Turn.ILL),
            ("unhealthy", None),
            ("unhealthy", None),
            ("unhealthy", None),
            ("healthy", Turn.WELL),
            ("healthy", None),
        ]

    def test_failures_in_the_start_period_do_not_count(self):
        seen, passed = answers(Rule(failures=2, start_period=3.0), False, False, False, False)
        assert passed == [("starting", None)] * 3 + [("starting", Turn.FAILING)]
        assert seen.failures == 1  # the one at 3 s

    def test_the_first_success_ends_the_start_period(self):
        seen, _ = answers(Rule(failures=2, start_period=100.0), False, True, False, False)
        assert seen.condition is Condition.UNHEALTHY

    def test_the_start_period_begins_with_the_process(self):
        rule = Rule(failures=1, start_period=10.0)
        assert observe(rule, Observed(began=1000.0), BAD, 1009.9)[0].condition is Condition.STARTING
        assert observe(rule, Observed(began=1000.0), BAD, 1010.0)[0].condition is Condition.UNHEALTHY

    def test_after_a_restart_health_is_told_and_further_illness_is_not(self):
        again = Observed(told=True)
        assert observe(Rule(), again, OK, 0.0) == (
            Observed(condition=Condition.HEALTHY, successes=1, passed=True),
            Turn.WELL,
        )
        assert observe(Rule(failures=1), again, BAD, 0.0)[1] is None

    def test_another_restart_takes_as_many_failures_again(self):
        rule = Rule(failures=2)
        seen, _ = answers(rule, False, False)
        assert restart_due(rule, seen)
        seen = restarted(seen)
        assert not restart_due(rule, seen)
        seen, _ = answers(rule, False, seen=seen)
        assert not restart_due(rule, seen)
        seen, _ = answers(rule, False, seen=seen)
        assert restart_due(rule, seen)
        assert seen.condition is Condition.UNHEALTHY

    @given(
        st.builds(Rule, start_period=st.floats(0, 50), failures=st.integers(1, 5), successes=st.integers(1, 5)),
        st.lists(st.booleans(), max_size=60),
    )
    def test_turns_alternate_and_agree_with_the_state(self, rule, results):
        seen, turns = Observed(), []
        for at, result in enumerate(results):
            before = seen
            seen, turn = observe(rule, seen, OK if result else BAD, float(at))
            assert (turn is Turn.ILL) == (seen.told and not before.told)
            assert (turn is Turn.WELL) == (before.told and not seen.told)
            assert seen.told == (seen.condition is Condition.UNHEALTHY)
            if seen.condition is Condition.UNHEALTHY and before.condition is not Condition.UNHEALTHY:
                assert not any(results[at - rule.failures + 1 : at + 1])
            if turn is Turn.FAILING:
                assert (seen.failures, seen.told) == (1, False)
                continue
            turns += [turn] if turn else []
        assert turns == [Turn.ILL, Turn.WELL] * (len(turns) // 2) + [Turn.ILL] * (len(turns) % 2)


class TestHold:
    @pytest.mark.parametrize(
        ("now", "last", "out", "held"),
        [
            (100.0, None, [], False),
            (100.0, 40.0, [], False),
            (100.0, 40.1, [], True),
            (100.0, None, ["web:1"], True),
        ],
    )
    def test_one_at_a_time_and_one_a_minute(self, now, last, out, held):
        assert bool(hold(now, last, out)) is held

    def test_it_says_why(self):
        assert hold(100.0, 88.0, []) == because("just_restarted", ago_s=12.0, every_s=60.0)
        assert hold(100.0, 88.0, ["web:1"]) == because("one_is_out", name="web:1")


class TestWhen:
    @given(st.floats(0.001, 1e6), st.floats(0, 1, exclude_max=True))
    def test_the_first_is_within_the_interval(self, interval, jitter):
        assert 0 <= first_wait(interval, jitter) <= interval

    @given(st.floats(0.001, 1e6), st.floats(0, 1, exclude_max=True))
    def test_the_next_is_a_tenth_early_or_late_at_most(self, interval, jitter):
        assert 0.899 * interval <= next_wait(interval, jitter) <= 1.101 * interval

    def test_the_first_ones_are_spread(self):
        assert [first_wait(30.0, jitter) for jitter in (0.0, 0.5, 0.9)] == [0.0, 15.0, 27.0]


@dataclass
class Worker:
    """One worker of a simulated pool. `back`: when it is RUNNING again."""

    seen: Observed = field(default_factory=Observed)
    due: float = 0.0
    back: float = 0.0


@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 6),
    rule=st.builds(Rule, failures=st.integers(1, 3), successes=st.integers(1, 2), start_period=st.floats(0, 30)),
    interval=st.floats(0.5, 20),
    absent=st.floats(0.1, 90),
)
@settings(deadline=None)
def test_random_failures_restart_one_worker_a_minute_at_most_and_never_two_at_once(seed, count, rule, interval, absent):
    """Every answer fails with a probability of one half, for ten minutes."""
    chance = random.Random(seed)
    workers = [Worker(due=first_wait(interval, chance.random())) for _ in range(count)]
    restarts, last = [], None
    while (worker := min(workers, key=lambda each: each.due)).due < 600.0:
        now = worker.due
        worker.due = now + next_wait(interval, chance.random())
        if now < worker.back:
            continue  # nobody is asked who does not run
        worker.seen, _ = observe(rule, worker.seen, chance.choice([OK, BAD]), now)
        if not restart_due(rule, worker.seen):
            continue
        out = [str(at) for at, each in enumerate(workers) if each is not worker and now < each.back]
        if hold(now, last, out):
            continue
        assert not out
        worker.back = now + absent
        worker.seen = replace(Observed(), told=True, began=worker.back)
        restarts.append(now)
        last = now
    assert all(later >= earlier + RESTART_EVERY for earlier, later in itertools.pairwise(restarts))
    assert len(restarts) <= 10
