"""The circuit breaker: when it opens, how it closes again, and that half-open lets exactly one request through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetus_service.kit.breaker import Breaker, Policy, State

POLICY = Policy(failures=3, open_for=10.0)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(POLICY.failures):
        breaker = breaker.failed(breaker.phase, now, POLICY)
    assert breaker.state is State.OPEN
    return breaker


def test_it_opens_at_the_last_of_so_many_failures_in_a_row():
    breaker = Breaker()
    for _ in range(POLICY.failures - 1):
        breaker = breaker.failed(breaker.phase, 0.0, POLICY)
    assert breaker.state is State.CLOSED
    assert breaker.succeeded(breaker.phase).failures == 0
    assert breaker.failed(breaker.phase, 0.0, POLICY).state is State.OPEN


def test_open_it_says_how_long_to_wait():
    assert opened(now=100.0).ask(104.0, POLICY) == (opened(now=100.0), 6.0)


def test_half_open_lets_exactly_one_through():
    breaker, wait = opened().ask(10.0, POLICY)
    assert (breaker.state, wait) == (State.HALF_OPEN, 0.0)
    for _ in range(9):
        breaker, wait = breaker.ask(10.0, POLICY)
        assert wait > 0


def test_the_probe_decides():
    probing, _ = opened().ask(10.0, POLICY)
    assert probing.succeeded(probing.phase).state is State.CLOSED
    assert probing.succeeded(probing.phase).failures == 0
    again = probing.failed(probing.phase, 12.0, POLICY)
    assert (again.state, again.opened) == (State.OPEN, 12.0)


def test_a_probe_that_is_given_up_leaves_its_place_to_the_next():
    probing, _ = opened().ask(10.0, POLICY)
    breaker, wait = probing.given_up(probing.phase).ask(10.0, POLICY)
    assert (breaker.state, wait) == (State.HALF_OPEN, 0.0)


@pytest.mark.parametrize("late", ["succeeded", "failed", "given_up"])
def test_a_result_of_an_earlier_phase_does_not_count(late):
    before = Breaker().phase
    for breaker in (opened(), opened().ask(10.0, POLICY)[0]):
        result = breaker.failed(before, 50.0, POLICY) if late == "failed" else getattr(breaker, late)(before)
        assert result == breaker


@given(st.lists(st.tuples(st.sampled_from(["ask", "succeeded", "failed", "given_up"]), st.floats(0, 20)), max_size=60))
def test_never_more_than_one_probe_and_never_stuck(events):
    breaker, now, probes, ticket = Breaker(), 0.0, 0, 0
    for what, passed in events:
        now += passed
        if what == "ask":
            was = breaker.state
            breaker, wait = breaker.ask(now, POLICY)
            if wait == 0:
                ticket = breaker.phase
                probes += was is not State.CLOSED
        elif what == "failed":
            breaker = breaker.failed(ticket, now, POLICY)
        else:
            breaker = getattr(breaker, what)(ticket)
        if breaker.state is not State.HALF_OPEN:
            probes = 0
        assert probes <= 1
    if breaker.state is State.HALF_OPEN:
        breaker = breaker.given_up(breaker.phase)
    assert breaker.ask(now + POLICY.open_for, POLICY)[1] == 0
