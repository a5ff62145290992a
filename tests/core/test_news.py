"""What the ledger is told of a slot: each start, each end with its decision, each rule, once."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.config.model import Autorestart
from impetusd.core.explain import news
from impetusd.core.explain.ledger import KINDS
from impetusd.core.reasons import NONE, because, not_started, rule_of, said
from impetusd.core.rules.lifecycle import (
    Deadline,
    Exited,
    Fail,
    Gone,
    HandOver,
    Ping,
    Ready,
    Recycle,
    Restart,
    Slot,
    Spawned,
    Start,
    State,
    Stop,
    Want,
    step,
)
from impetusd.core.rules.policy import Exit, Policy

pytestmark = pytest.mark.noise

POLICY = Policy(max_restarts=3, min_uptime=1.0, kill_timeout=5.0)
OLD, WITHIN = because("max_age", limit_s=86400.0), {"most": 3, "window_s": 60.0}
OK, FAILED, KILLED = Exit(code=0), Exit(code=1), Exit(signal=signal.SIGKILL)


def told(*events, policy=POLICY, gap=10.0):
    """The records of `events`, `gap` seconds apart."""
    slot, at, records = Slot(), 100.0, []
    for event in events:
        before = slot
        slot, _ = step(policy, slot, event, at, 0.5)
        records += news.transition_records(policy, before, slot, at)
        at += gap
    return records


def decisions(*events, **how):
    return [
        (each["state"], each["decision"], each["rule"])
        for each in told(*events, **how)
        if each["kind"] in {"exit", "gone"}
    ]


UP = (Start(), Spawned(7), Ready())


def test_a_start_and_how_long_until_it_was_ready():
    assert told(*UP) == [
        {"kind": "start", "pid": 7, "why": NONE},
        {"kind": "ready", "pid": 7, "after_s": 10.0},
    ]


def test_an_end_has_its_pid_how_long_it_ran_what_it_used_and_what_was_decided():
    end = Exit(signal=signal.SIGSEGV, core=True, cpu_s=1.5, max_rss=4096)
    assert told(*UP, Exited(end))[-1] == {
        "kind": "exit",
        "pid": 7,
        "ran_s": 20.0,
        "signal": "SIGSEGV",
        "core": True,
        "cpu_s": 1.5,
        "max_rss": 4096,
        "asked": False,
        "state": "STARTING",
        "decision": because("retried", autorestart="always", count=1, most=3, window_s=60.0),
        "rule": "autorestart",
        "restarts": 1,
        "retry_s": None,
    }


def test_a_start_that_failed_tells_its_stage():
    end = Exit(failed=not_started("exec", because("no_file", name="/x"), "/x"))
    record = told(Start(), Exited(end))[-1]
    assert (record["failed"], record["pid"]) == (end.failed, None)
    assert "code" not in record


def test_each_decision_names_its_key():
    assert decisions(*UP, Stop(), Exited(OK)) == [("STOPPED", because("stopped_as_asked"), "")]
    assert decisions(*UP, Restart(), Exited(OK)) == [("STARTING", because("started_as_asked"), "")]
    assert decisions(*UP, Recycle(OLD), Exited(OK)) == [("STARTING", because("replaced", due=OLD), "max_age")]
    never = Policy(autorestart=Autorestart.NEVER)
    assert decisions(*UP, Exited(FAILED), policy=never) == [("FATAL", because("left_down"), "autorestart")]
    on_failure = Policy(autorestart=Autorestart.ON_FAILURE)
    assert decisions(*UP, Exited(OK), policy=on_failure) == [
        ("EXITED", because("left_alone", autorestart="on-failure"), "autorestart")
    ]
    codes = Policy(stop_exit_codes=(3, 4))
    assert decisions(*UP, Exited(Exit(code=3)), policy=codes) == [
        ("EXITED", because("left_by_code", codes=["3", "4"]), "stop_exit_codes")
    ]
    config = Policy(fatal_exit_codes=(78,))
    assert decisions(*UP, Exited(Exit(code=78)), policy=config) == [("FATAL", because("hopeless_code", code=78), "")]


def test_what_follows_the_end_of_a_timers_run_is_not_the_restart_policys_to_say():
    before = Slot(state=State.RUNNING, want=Want.UP, pid=7, started=1.0)
    after, _ = step(Policy(autorestart=Autorestart.NEVER), before, Exited(FAILED), 2.0, 0.5)
    (end,) = news.transition_records(POLICY, before, after, 2.0, one_shot=True)
    assert (end["code"], end["state"], "decision" in end) == (1, "FATAL", False)


def test_a_stop_that_took_sigkill_says_so():
    (exit_,) = [each for each in told(*UP, Stop(), Deadline(), Exited(KILLED)) if each["kind"] == "exit"]
    assert exit_["decision"] == because("killed_too", decision=because("stopped_as_asked"), timeout_s=5.0)
    assert exit_["kills"] == 1


@pytest.mark.parametrize(
    ("reason", "rule"),
    [
        (because("max_memory_kill", used=9, limit=8, hold_s=0.0, basis=""), "max_memory_kill"),
        (because("unhealthy", cause=said("GET /: 500 over max_memory_kill = 1")), "health"),
        (because("watch", path="max_age.py", more=0), "watch"),
        (because("not_ready", within_s=3.0), "listen_timeout"),
        (because("rolling_restart"), "other"),
        (said("cron_restart = 0 4 * * *"), "other"),
    ],
)
def test_a_rule_is_known_by_its_reason(reason, rule):
    assert rule_of(reason) == rule


def test_a_crash_loop_is_told_until_it_is_given_up():
    def short():
        return Spawned(7), Exited(Exit(code=1))  # each end is one of its own

    found = decisions(Start(), *short(), *short(), Deadline(), *short(), Deadline(), *short(), gap=0.01)
    assert found == [
        (
            "STARTING",
            because("retried", autorestart="always", count=1, **WITHIN),
            "autorestart",
        ),
        (
            "BACKOFF",
            because("retried_in", wait_s=0.1, rule="exp_backoff_restart_delay", count=2, **WITHIN),
            "exp_backoff_restart_delay",
        ),
        (
            "BACKOFF",
            because("retried_in", wait_s=0.2, rule="exp_backoff_restart_delay", count=3, **WITHIN),
            "exp_backoff_restart_delay",
        ),
        ("FATAL", because("given_up", **WITHIN), "max_restarts"),
    ]


def test_what_a_process_left_behind_has_its_decision_when_it_is_gone():
    records = told(*UP, Exited(FAILED, left=True), Gone())
    assert [(each["kind"], each["state"]) for each in records[2:]] == [("exit", "STOPPING"), ("gone", "STARTING")]


def test_a_start_that_was_called_off_has_no_end():
    assert told(Start(), Stop(), Gone()) == []
    assert [each["kind"] for each in told(*UP, Stop(), Exited(OK), Start(), Stop(), Gone())] == [
        "start",
        "ready",
        "exit",
    ]


def test_the_watchdog_and_the_patience_with_a_start_are_rules():
    (hung,) = [e for e in told(*UP, Deadline(), policy=Policy(watchdog=5.0)) if e["kind"] == "rule"]
    assert (hung["rule"], hung["pid"]) == ("watchdog", 7)
    waits = Policy(wait_ready=True, listen_timeout=3.0)
    (late,) = [e for e in told(Start(), Spawned(7), Deadline(), policy=waits) if e["kind"] == "rule"]
    assert (late["rule"], late["reason"]) == ("listen_timeout", because("not_ready", within_s=3.0))


def test_one_more_try_of_what_was_given_up_is_told():
    policy = Policy(max_restarts=1, retry_after=30.0)
    records = told(Start(), Spawned(7), Exited(FAILED), Spawned(8), Exited(FAILED), Deadline(), policy=policy, gap=0.01)
    assert [each["rule"] for each in records if each["kind"] == "rule"] == ["retry_after"]


EVENTS = st.one_of(
    *(st.just(event) for event in (Start(), Stop(), Restart(), Ready(), Gone(), Deadline(), Ping())),
    st.builds(Spawned, st.integers(1, 3)),
    st.builds(Exited, st.sampled_from([OK, FAILED, KILLED]), st.booleans()),
    st.builds(HandOver, st.integers(4, 6), st.just(OLD)),
    st.builds(Recycle, st.just(OLD)),
    st.builds(Fail, st.just(because("unhealthy", cause=said("x"))), st.booleans()),
)


@given(st.lists(EVENTS, max_size=30), st.floats(0.01, 5.0))
def test_every_process_that_began_is_told_and_every_end_too(events, gap):
    slot, at, starts, ends = Slot(), 100.0, 0, 0
    for event in events:
        before = slot
        slot, _ = step(POLICY, slot, event, at, 0.5)
        records = list(news.transition_records(POLICY, before, slot, at))
        assert all(each.keys() - {"kind", "failed"} <= KINDS[each["kind"]].keys() for each in records)
        kinds = [each["kind"] for each in records]
        assert kinds.count("start") == (slot.pid is not None and slot.pid != before.pid)
        assert kinds.count("exit") == (slot.last_exit is not before.last_exit)
        starts, ends = starts + kinds.count("start"), ends + kinds.count("exit")
        at += gap
    assert slot.state is not State.RUNNING or starts > 0
