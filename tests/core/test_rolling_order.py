"""Whose process is replaced next, and what becomes of those that were to take a place."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.reasons import because
from impetusd.core.rules import rolling
from impetusd.core.rules.lifecycle import IDLE, Slot, State, Want
from impetusd.core.rules.policy import Policy
from impetusd.core.rules.reload import Part
from impetusd.core.rules.rolling import Do, Order, Seen

RUNNING = State.RUNNING


def seen(part: Part, index: int = 0, state: State = RUNNING, **fields: bool) -> Seen:
    return Seen(part=part, index=index, state=state, **fields)


TEMPLATE, PARKED = seen(Part.TEMPLATE, due=True), seen(Part.PARKED, due=True)
ZERO, ONE = seen(Part.SERVING, due=True), seen(Part.SERVING, 1, due=True)


def decide(*slots: Seen, overlaps: bool = True) -> list[Order]:
    return rolling.decide(slots, overlaps=overlaps)


def tidy(*slots: Seen, reloading: bool = False) -> list[Order]:
    return rolling.tidy(slots, reloading=reloading)


def test_only_what_runs_and_is_wanted_is_replaced_and_by_a_rule_only_within_the_budget():
    policy = Policy(max_restarts=1, restart_window=60.0)
    slot = Slot(state=RUNNING, want=Want.UP)
    spent = replace(slot, recent=(99.0,))
    assert rolling.may_replace(policy, slot, 100.0, asked=False)
    assert not rolling.may_replace(policy, spent, 100.0, asked=False)
    assert rolling.may_replace(policy, spent, 100.0, asked=True)
    assert rolling.may_replace(policy, spent, 200.0, asked=False)
    assert not rolling.may_replace(policy, replace(slot, want=Want.DOWN), 100.0, asked=True)
    for state in set(State) - {RUNNING}:
        assert not rolling.may_replace(policy, replace(slot, state=state), 100.0, asked=True)


def test_what_is_not_replaced_says_why_and_runs_on():
    why = because("bad_record")
    slot = Slot(state=RUNNING, want=Want.UP, pid=5)
    assert rolling.not_replaced(slot, why) == replace(slot, reason=why)


def test_the_template_goes_first_then_parked_workers_then_those_that_serve():
    assert decide(ONE, ZERO, PARKED, TEMPLATE) == [Order(Do.RESTART, 3)]
    assert decide(ONE, ZERO, PARKED) == [Order(Do.RESTART, 2)]


def test_a_place_is_taken_at_once_by_what_is_parked_and_else_one_is_made():
    parked = seen(Part.PARKED)
    assert decide(parked, replace(ZERO, heir=True), ONE) == [Order(Do.HAND_OVER, 1)]
    assert decide(ZERO, ONE) == [Order(Do.MAKE, 0)]
    assert decide(parked, ZERO) == []  # it is of another version, and about to be replaced itself


def test_the_one_for_which_the_next_is_there_comes_first():
    assert decide(ZERO, replace(ONE, heir=True), seen(Part.NEXT, 1)) == [Order(Do.HAND_OVER, 1), Order(Do.STOP, 2)]
    assert decide(ZERO, ONE, seen(Part.NEXT, 1)) == []  # it does not serve yet as it should


def test_what_was_made_for_a_place_goes_when_that_is_not_due_any_more():
    assert decide(replace(ZERO, due=False), seen(Part.NEXT, 0)) == [Order(Do.STOP, 1)]
    assert decide(ZERO, seen(Part.NEXT, 0)) == []


def test_where_two_cannot_serve_side_by_side_a_process_is_restarted_in_its_place():
    assert decide(ZERO, ONE, overlaps=False) == [Order(Do.RESTART, 0)]


@pytest.mark.parametrize("state", [State.STARTING, State.STOPPING, State.BACKOFF])
def test_one_at_a_time(state):
    assert decide(ZERO, seen(Part.SERVING, 1, state)) == []
    assert decide(ZERO, ONE, seen(Part.LEAVING, 2)) == []


def test_what_gets_a_new_process_anyway_is_due_no_more():
    assert tidy(replace(ZERO, state=State.BACKOFF), ONE) == [Order(Do.NOT_DUE, 0)]


def test_what_leaves_is_stopped_when_another_serves_in_its_place_or_none_is_to():
    leaving = seen(Part.LEAVING)
    assert tidy(seen(Part.SERVING, 0, State.STARTING), leaving) == []
    assert tidy(seen(Part.SERVING, 0), leaving) == [Order(Do.STOP, 1)]
    assert tidy(seen(Part.SERVING, 0, State.STARTING, up=False), leaving) == [Order(Do.STOP, 1)]
    assert tidy(seen(Part.SERVING, 1), leaving) == [Order(Do.STOP, 1)]
    assert tidy(seen(Part.SERVING, 0), replace(leaving, up=False)) == []  # it has been told already
    assert tidy(seen(Part.SERVING, 0), leaving, reloading=True) == [Order(Do.STOP, 1)]


@pytest.mark.parametrize("part", [Part.TEMPLATE, Part.PARKED, Part.NEXT])
def test_nothing_is_replaced_while_the_next_does_not_come_up(part):
    given_up = seen(part, 0, State.FATAL, told=False)
    assert tidy(ZERO, ONE, given_up) == [Order(Do.CALL_OFF, 0, 2), Order(Do.CALL_OFF, 1, 2)]
    assert tidy(ZERO, ONE, given_up, given_up) == [Order(Do.CALL_OFF, 0, 2), Order(Do.CALL_OFF, 1, 2)]
    assert tidy(ZERO, ONE, given_up, reloading=True) == []


def test_what_was_to_take_a_place_is_forgotten_once_its_last_words_are_known():
    for state in IDLE:
        assert Order(Do.FORGET, 0) in tidy(seen(Part.NEXT, 0, state))
        assert Order(Do.FORGET, 0) not in tidy(seen(Part.NEXT, 0, state, told=False))


SLOTS = st.lists(
    st.builds(
        Seen,
        part=st.sampled_from(Part),
        index=st.integers(0, 2),
        state=st.sampled_from(State),
        up=st.booleans(),
        due=st.booleans(),
        heir=st.booleans(),
        told=st.booleans(),
    ),
    max_size=8,
)


@given(SLOTS, st.booleans())
def test_at_most_one_process_is_replaced_and_only_when_all_are_at_rest(slots, overlaps):
    orders = rolling.decide(slots, overlaps=overlaps)
    replaced = [order for order in orders if order.do is not Do.STOP]
    assert len(replaced) <= 1
    assert all(slots[order.slot].due for order in replaced)
    if any(slot.state in rolling.ON_ITS_WAY for slot in slots):
        assert not orders


@given(SLOTS, st.booleans())
def test_what_is_tidied_is_not_tidied_twice(slots, reloading):
    orders = rolling.tidy(slots, reloading=reloading)
    assert len({(order.do, order.slot) for order in orders}) == len(orders)
    called_off = {order.slot for order in orders if order.do is Do.CALL_OFF}
    assert not called_off & {order.slot for order in orders if order.do is Do.NOT_DUE}
