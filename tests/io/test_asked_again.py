"""A question over supervisors that come and go: how long, how often, and what is never asked twice."""

from __future__ import annotations

import asyncio

import pytest

from impetusd.client import again
from impetusd.client.control import ControlError, Unanswered
from impetusd.core.protocol import METHODS

ONCE = next(name for name, method in METHODS.items() if not method.idempotent)


class Supervisors:
    """`lives`: of each try how many seconds it takes, and what comes of it; the last one for ever."""

    def __init__(self, *lives):
        self.lives, self.time, self.tries = list(lives), 0.0, 0

    async def ask(self):
        took, outcome = self.lives[min(self.tries, len(self.lives) - 1)]
        self.tries += 1
        self.time += took
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def pause(self, seconds):
        self.time += seconds

    def answer(self, method="status", patience=5.0):
        return asyncio.run(again.persistently(method, self.ask, patience, lambda: self.time, self.pause))


GONE = Unanswered("impetusd did not answer")


def test_the_next_one_answers():
    found = Supervisors((0.0, GONE), (0.0, GONE), (0.0, "yes"))
    assert (found.answer(), found.tries) == ("yes", 3)


def test_however_long_the_one_before_has_worked_on_it():
    found = Supervisors((600.0, GONE), (0.0, GONE), (600.0, "yes"))
    assert (found.answer("start"), found.tries) == ("yes", 3)


def test_where_there_is_none_it_ends_and_asks_seldom():
    found = Supervisors((0.0, GONE))
    with pytest.raises(Unanswered, match=r"did not answer$"):
        found.answer()
    assert 5.0 <= found.time <= 5.0 + again.LAST_AGAIN
    assert found.tries < 10
    slow = Supervisors((10.0, GONE))  # as long as a connection is waited for
    with pytest.raises(Unanswered):
        slow.answer()
    assert slow.tries == 2


def test_what_may_have_been_done_is_not_done_twice():
    found = Supervisors((0.0, GONE), (0.0, "yes"))
    with pytest.raises(Unanswered, match="it is unknown whether the command was executed"):
        found.answer(ONCE)
    assert found.tries == 1


def test_a_refusal_is_an_answer():
    found = Supervisors((0.0, ControlError("no")), (0.0, "yes"))
    with pytest.raises(ControlError, match=r"^no$"):
        found.answer()
