"""Restart policy: how long, and whether."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.config import ini, parser
from impetusd.core.config.include import Source
from impetusd.core.config.model import Host
from impetusd.core.reasons import because, not_started
from impetusd.core.rules import plan
from impetusd.core.rules.policy import Exit, Policy, delay, policy_of, signal_name


def test_a_run_that_lasted_is_followed_by_restart_delay_alone():
    assert delay(Policy(restart_delay=2.5), 0, 0.9) == 2.5


def test_one_early_end_is_forgiven():
    assert delay(Policy(), 1, 0.9) == 0.0


def test_from_the_second_on_the_delay_doubles_up_to_its_cap():
    policy = Policy(exp_backoff_restart_delay=0.1, exp_backoff_max_delay=1.0)
    assert [round(delay(policy, failures, 0.5), 3) for failures in range(2, 8)] == [0.1, 0.2, 0.4, 0.8, 0.9, 0.9]


def test_without_backoff_there_is_none():
    assert delay(Policy(exp_backoff_restart_delay=0.0), 9, 0.5) == 0.0


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_no_number_of_failures_overflows_or_exceeds_the_cap(failures: int, jitter: float):
    policy = Policy(restart_delay=0.5)
    assert 0.5 <= delay(policy, failures, jitter) <= policy.exp_backoff_max_delay


def test_jitter_spreads_by_a_fifth_either_way():
    policy = Policy(exp_backoff_restart_delay=1.0)
    assert (round(delay(policy, 2, 0.0), 3), round(delay(policy, 2, 0.999999), 3)) == (0.8, 1.2)


def test_at_the_cap_it_spreads_below_it():
    """Clamped, half of those that fail for long would start at the same instants for ever."""
    policy = Policy(exp_backoff_restart_delay=1.0, exp_backoff_max_delay=5.0)
    delays = [round(delay(policy, 50, jitter / 10), 3) for jitter in range(10)]
    assert delays == sorted(set(delays))
    assert (delays[0], delays[-1]) == (4.0, 4.9)


def test_a_program_that_does_not_tell_is_ready_after_a_second_at_most_and_by_former_rules_after_min_uptime():
    host = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
    text = Source(
        "/srv/x.ini", "[program:p]\ncommand = p\nmin_uptime = 200s\n[program:q]\ncommand = q\nmin_uptime = 0\n"
    )
    new, old = (parser.parse_all(text, {}, host, rules=rules) for rules in (ini.RULES, 1))
    assert [policy_of(unit).settling for unit in new.units.values()] == [1.0, 0.0]
    assert [policy_of(unit).settling for unit in old.units.values()] == [200.0, 0.0]
    (change,) = plan.plan(lambda _: old, lambda _: new, lambda _: 1)
    assert change.effect is plan.Effect.LIVE
    assert [(key.name, key.old, key.new) for key in change.keys] == [("ready", "after 200s", "")]


def test_an_exit_is_a_reason():
    assert Exit(code=3).reason == because("exit", code=3)
    assert Exit(signal=9, core=True).reason == because("killed", signal="SIGKILL", oom="", core=True)
    failed = not_started("exec", because("no_file", name="/x"), "/x")
    assert Exit(failed=failed).reason == failed
    assert Exit().reason == because("unknown_end")


def test_signals_without_a_name_have_a_number():
    assert (signal_name(15), signal_name(40)) == ("SIGTERM", "SIG40")
