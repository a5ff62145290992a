"""Many failed starts of one cause are a line a second in the log."""

from __future__ import annotations

import errno

import pytest

from impetusd.core.reasons import because, not_started
from impetusd.core.rules.lifecycle import Slot, State
from impetusd.core.rules.policy import Exit
from impetusd.core.rules.repeats import NAMED, Repeats, cause_of, is_next_try

pytestmark = pytest.mark.noise

SCARCE = Exit(failed=not_started("log_pipes", because("os_error", errno=errno.EMFILE, detail="")))
OTHER = not_started("exec", because("os_error", errno=errno.ENOEXEC, detail=""), "it")


def test_the_first_is_logged_and_the_others_are_counted_with_their_slots() -> None:
    repeats, cause = Repeats(), SCARCE.failed
    assert [repeats.is_new(cause, name) for name in ("a", "b", "b")] == [True, False, False]
    assert repeats.is_new(OTHER, "a")  # of another cause
    assert repeats.summary(cause).endswith("(2 more times: b)")
    assert not repeats.is_new(cause, "c")  # the summary was a line, too
    assert repeats.summary(cause).endswith("(1 more time: c)")
    assert repeats.summary(cause) == ""
    assert repeats.is_new(cause, "a")


def test_a_line_names_a_few_slots() -> None:
    repeats, cause = Repeats(), OTHER
    for number in range(NAMED + 4):
        repeats.is_new(cause, f"p{number}")
    assert repeats.summary(cause).endswith(f"({NAMED + 3} more times: p1, p2, p3, p4, p5, p6, p7, p8 and 3 others)")


@pytest.mark.parametrize(("end", "failed"), [(SCARCE, True), (Exit(code=1), False), (Exit(signal=9), False)])
def test_only_a_start_that_failed_is_counted(end: Exit, failed: bool) -> None:
    assert (cause_of(end) is not None) is failed
    before = Slot(state=State.BACKOFF, last_exit=end)
    assert is_next_try(before, Slot(state=State.STARTING, last_exit=end)) is failed
    assert not is_next_try(before, Slot(state=State.FATAL, last_exit=end))
