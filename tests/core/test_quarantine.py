"""Who is held after supervisors have ended, and what becomes of what is held."""

from __future__ import annotations

import json
import signal

import pytest

from impetusd.core.reasons import because
from impetusd.core.rules import quarantine
from impetusd.core.rules.lifecycle import (
    EVENTS,
    Deadline,
    Exited,
    Gone,
    Ready,
    Restart,
    Scope,
    Signal,
    Slot,
    Spawned,
    Start,
    State,
    Stop,
    Want,
)
from impetusd.core.rules.policy import Exit, Policy
from impetusd.core.rules.quarantine import End, Held, judge

UP = Slot(state=State.RUNNING, want=Want.UP, pid=7, started=1.0, deadline=50.0)


def ends(*told: tuple[float, str]) -> list[End]:
    return [End(at, 1e9 + at, "exit 70", slot, "deciding on Ready" if slot else "") for at, slot in told]


class TestWhatCounts:
    @pytest.mark.parametrize(
        ("told", "slots", "whole"),
        [
            ([], set(), False),
            ([(0, "a")], set(), False),
            ([(0, "a"), (60, "a")], {"a"}, False),
            ([(0, "a"), (60.1, "a")], set(), False),
            ([(0, "a"), (1, "b")], set(), False),
            ([(0, "a"), (1, ""), (2, "a")], {"a"}, False),
            ([(0, ""), (60, "")], set(), True),
            ([(0, ""), (61, "")], set(), False),
            ([(0, "a"), (1, "b"), (2, "a"), (3, "b")], {"a", "b"}, False),
            ([(0, "a"), (50, "a"), (55, "a")], {"a"}, False),  # once more, in quarantine: it counts against nobody
            ([(0, "a"), (50, "a"), (55, "a"), (56, "a")], {"a"}, True),
            ([(0, "a"), (50, "a"), (55, "a"), (56, "")], {"a"}, True),
            ([(0, "a"), (59, "b"), (61, "a")], set(), False),
        ],
    )
    def test_two_within_a_minute_over_the_same(self, told, slots, whole) -> None:
        held, _ = judge(ends(*told), Held())
        assert set(held.slots) == slots
        assert (held.whole is not None) is whole

    def test_an_end_counts_once_however_often_it_is_judged(self) -> None:
        """The shim keeps the list, and each supervisor judges it anew."""
        held, rest = judge(ends((0, "a"), (1, "a")), Held())
        assert rest == []
        held, rest = judge([*rest, *ends((2, "a"))], held)
        assert held.whole is None
        assert rest == ends((2, "a"))
        held, rest = judge(rest, held)
        assert held.whole is None
        held, rest = judge([*rest, *ends((3, "b"))], held)
        assert held.whole is None
        held, rest = judge([*rest, *ends((4, "a"))], held)
        assert set(held.slots) == {"a"}
        assert held.whole is not None
        assert rest == ends((3, "b"))

    def test_what_is_held_stays_held(self) -> None:
        held, _ = judge(ends((0, "a"), (1, "a")), Held())
        assert judge(ends((900, "b")), held)[0] == held

    def test_it_is_remembered(self) -> None:
        held, _ = judge(ends((0, "a"), (1, "a"), (2, ""), (3, "")), Held())
        assert quarantine.load(quarantine.dump(held)) == held
        assert held.whole is not None
        assert quarantine.load(quarantine.dump(Held())) == Held()

    def test_what_the_shim_has_noted_is_read_and_what_makes_no_sense_is_left_out(self) -> None:
        noted = [
            {"at": 1, "time": 2, "signal": 11, "slot": "a", "stage": "s", "new": 1},
            {"at": 1, "time": 2, "code": 70, "slot": "", "stage": ""},
            {"at": 1, "time": 2, "silent": True, "slot": "b", "stage": "t"},
            {"at": "x"},
            7,
        ]
        found = quarantine.ends_of(json.dumps(noted))
        assert [end.how for end, _ in found] == [
            "killed by SIGSEGV",
            "exit 70",
            "unresponsive for too long and killed",
        ]
        assert [each for _, each in found] == noted[:3]
        assert quarantine.ends_of("{") == quarantine.ends_of("7") == []


class TestAReason:
    def test_is_a_key_with_facts(self) -> None:
        held, _ = judge(ends((0, "a"), (1, "a"), (2, ""), (3, "")), Held())
        reason = quarantine.facts(quarantine.QUARANTINED, held.slots["a"])
        assert reason["key"] == "quarantined"
        facts = {"how": "exit 70", "stage": "deciding on Ready", "within_s": 60.0}
        assert quarantine.reason(reason) == because("quarantined", **facts)
        assert held.whole is not None
        assert quarantine.reason(quarantine.facts(quarantine.HOLD_ONLY, held.whole)).key == "hold-only"
        assert "impetusd upgrade" in quarantine.way_out(quarantine.HOLD_ONLY)


POLICY = Policy(kill_timeout=3.0)


def step(slot, event, *, lives=True, policy=POLICY):
    return quarantine.step(policy, slot, event, 100.0, lives=lives)


class TestWhatIsHeld:
    def test_no_event_starts_anything_and_a_living_process_is_signalled_for_a_stop_alone(self) -> None:
        made = {
            Spawned: Spawned(8),
            Exited: Exited(Exit(code=1)),
        }
        for state in State:
            for kind in EVENTS:
                if kind in {Stop, Exited, Gone, Spawned}:
                    continue
                event = made.get(kind) or (kind("x") if kind.__name__ in {"Recycle", "Fail"} else None)
                event = event or (kind(9, "x") if kind.__name__ == "HandOver" else kind())
                slot = Slot(state=state, want=Want.UP, pid=7 if state in {State.RUNNING, State.STOPPING} else None)
                if kind is Deadline and state is State.STOPPING:
                    continue
                assert step(slot, event) == (slot, ()), (state, event)

    @pytest.mark.parametrize("event", [Start(), Restart(), Ready(), Deadline()])
    def test_a_start_a_restart_and_a_deadline_mean_nothing(self, event) -> None:
        assert step(UP, event) == (UP, ())

    def test_stop_ends_its_tree_and_kills_what_is_left(self) -> None:
        slot, actions = step(UP, Stop())
        assert (slot.state, slot.want, slot.deadline) == (State.STOPPING, Want.DOWN, 103.0)
        assert actions == (Signal(POLICY.kill_signal, Scope.TREE), Signal(signal.SIGCONT, Scope.TREE))
        assert step(slot, Stop()) == (slot, ())  # its time is not begun anew
        slot, actions = step(slot, Deadline())
        assert actions == (Signal(signal.SIGKILL, Scope.TREE),)
        assert slot.kills == 1
        slot, actions = step(slot, Exited(Exit(signal=9)), lives=False)
        assert (slot.state, slot.pid, actions) == (State.STOPPED, None, ())

    def test_with_treekill_no_its_daemons_are_spared(self) -> None:
        slot, actions = step(UP, Stop(), policy=Policy(treekill=False))
        assert {action.scope for action in actions} == {Scope.MAIN}
        slot, _ = step(slot, Exited(Exit(code=0), left=True), policy=Policy(treekill=False), lives=False)
        assert slot.state is State.STOPPED

    def test_an_end_is_recorded_and_nothing_follows(self) -> None:
        slot, actions = step(UP, Exited(Exit(code=3)), lives=False)
        assert (slot.state, slot.deadline, slot.pid, actions) == (State.BACKOFF, None, None, ())
        assert slot.last_exit == Exit(code=3)
        assert quarantine.end(slot, 9.0).deadline == 9.0  # when it is held no more
        assert quarantine.end(UP, 9.0) == UP

    def test_what_a_process_leaves_behind_is_held_until_a_stop_ends_it(self) -> None:
        slot, actions = step(UP, Exited(Exit(code=3), left=True))
        assert (slot.state, actions) == (State.BACKOFF, ())
        slot, actions = step(slot, Stop())
        assert slot.state is State.STOPPING
        assert actions[0].scope is Scope.TREE
        slot, actions = step(slot, Gone(), lives=False)
        assert (slot.state, actions) == (State.STOPPED, ())

    def test_the_stop_of_a_process_that_leaves_some_behind_goes_on_with_those(self) -> None:
        slot, _ = step(UP, Stop())
        slot, actions = step(slot, Exited(Exit(code=0), left=True))
        assert (slot.state, slot.deadline) == (State.STOPPING, 103.0)
        assert actions[0] == Signal(signal.SIGTERM, Scope.REST)
        assert step(slot, Gone(), lives=False)[0].state is State.STOPPED

    def test_a_process_that_comes_to_life_late_is_stopped_if_that_was_asked(self) -> None:
        starting = Slot(state=State.STARTING, want=Want.UP)
        slot, actions = step(starting, Spawned(8))
        assert (slot.state, slot.pid, actions) == (State.STARTING, 8, ())
        slot, _ = step(starting, Stop())
        slot, actions = step(slot, Spawned(8))
        assert (slot.state, slot.pid) == (State.STOPPING, 8)
        assert actions

    def test_when_it_begins_no_deadline_is_left_but_that_of_a_stop(self) -> None:
        def begun(slot, *, lives):
            return quarantine.begin(slot, 100.0, POLICY, lives=lives)

        assert begun(UP, lives=True).deadline is None
        stopping = Slot(state=State.STOPPING, want=Want.DOWN, pid=7, deadline=101.0)
        assert begun(stopping, lives=True) == stopping
        assert begun(Slot(state=State.STARTING, want=Want.UP, deadline=1.0), lives=False).state is State.BACKOFF
        assert begun(Slot(state=State.STOPPING, want=Want.DOWN, deadline=1.0), lives=False).state is State.STOPPED
        assert begun(Slot(state=State.BACKOFF, want=Want.UP, deadline=1.0), lives=False).deadline is None
