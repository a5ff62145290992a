"""When a tree has outgrown its ceiling, and how soon one looks again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.reasons import because
from impetusd.core.rules.memory import (
    AGAIN,
    FAR,
    MB,
    NEAR,
    Ceiling,
    Process,
    Verdict,
    Watch,
    look,
    lowest,
    max_interval,
    next_look,
    trees,
    urgent,
)

SOFT = Ceiling(200 * MB, 0.0, 0)
HELD = Ceiling(200 * MB, 30.0, 400 * MB)
START = Watch(0.0, 10 * MB)
SIZES = st.integers(0, 2000 * MB)


def follow(ceiling, usage, late=0.0, start=START, until=1000.0):
    """Look when told to, `late` seconds after that, at what `usage` gives for the time; (time, verdict) of each verdict."""
    watch, verdicts = start, []
    while watch.at < until:
        at = next_look(ceiling, watch) + late
        watch, verdict = look(ceiling, watch, at, int(usage(at)))
        if verdict is not None:
            verdicts.append((at, verdict))
    return verdicts


@pytest.mark.parametrize("rate", [0.5, 5.0, 20.0])
@pytest.mark.parametrize("begins", [0.0, 3.3, 50.0, 97.1])
def test_a_leak_up_to_20_mb_a_second_is_at_most_10_mb_over_even_on_a_busy_host(rate, begins):
    def usage(at):
        return (150 + max(0.0, at - begins) * rate) * MB

    at, verdict = follow(SOFT, usage, late=0.2, start=Watch(0.0, 150 * MB))[0]
    assert not verdict.hard
    assert 200 * MB < usage(at) <= 210 * MB


@given(st.floats(0, 20), st.integers(1, 199), st.floats(0, 100))
def test_so_it_is_wherever_the_leak_begins(rate, base, begins):
    def usage(at):
        return (base + max(0.0, at - begins) * rate) * MB

    found = follow(SOFT, usage, start=Watch(0.0, base * MB), until=400.0)
    if found:
        assert usage(found[0][0]) <= 205 * MB
    else:
        assert usage(400.0) <= 200.5 * MB


def test_a_steady_leak_that_is_faster_is_met_by_its_own_pace():
    def usage(at):
        return (10 + 100 * at) * MB

    watch, verdict = Watch(0.0, 10 * MB), None
    ceiling = Ceiling(10_000 * MB, 0.0, 0)
    while verdict is None:
        watch, verdict = look(ceiling, watch, next_look(ceiling, watch), int(usage(next_look(ceiling, watch))))
    assert watch.used <= 10_010 * MB + 4 * MB


@given(SIZES, st.floats(0, 1e12), st.integers(0, 2000 * MB), st.integers(0, 2000 * MB), st.floats(0, 3600))
def test_the_next_look_is_never_sooner_or_later_than_the_limits(used, growth, restart, kill, hold):
    watch, _ = look(Ceiling(restart, hold, kill), Watch(0.0, used, growth), 5.0, used)
    assert NEAR <= round(next_look(Ceiling(restart, hold, kill), watch) - 5.0, 6) <= FAR


def test_near_the_ceiling_and_growing_one_looks_each_200_ms_and_far_from_it_each_10_s():
    assert next_look(SOFT, Watch(0.0, 199 * MB, 20.0 * MB)) <= 0.2
    assert next_look(SOFT, Watch(0.0, 1 * MB)) == FAR


def test_few_trees_are_looked_at_more_often():
    assert [max_interval(count) for count in (0, 1, 50, 500)] == [1.0, 1.0, 5.0, 10.0]
    assert next_look(SOFT, Watch(0.0, 1 * MB), max_interval(3)) == 1.0


def test_the_reason_says_how_much_and_which_key():
    _, verdict = look(SOFT, Watch(0.0, 0), 1.0, 212 * MB)
    assert verdict == Verdict(False, because("max_memory_restart", used=212 * MB, limit=200 * MB, hold_s=0.0, basis=""))
    _, verdict = look(HELD, Watch(0.0, 0), 1.0, 412 * MB, "rss")
    assert verdict == Verdict(True, because("max_memory_kill", used=412 * MB, limit=400 * MB, hold_s=0.0, basis="rss"))
    _, verdict = look(HELD, Watch(0.0, 0, over=1.0), 31.0, 212 * MB)
    assert verdict == Verdict(
        False, because("max_memory_restart", used=212 * MB, limit=200 * MB, hold_s=30.0, basis="")
    )


def test_exactly_at_the_ceiling_is_not_over_it():
    assert look(SOFT, Watch(0.0, 0), 1.0, 200 * MB)[1] is None


def test_what_is_held_is_recycled_when_the_time_is_over():
    (at, verdict), *_ = follow(HELD, lambda at: (250 if at >= 100 else 150) * MB)
    assert not verdict.hard
    assert 130.0 <= at <= 130.0 + FAR + NEAR


def test_what_comes_down_before_is_forgotten():
    def usage(at):
        return (250 if at % 40 < 25 else 150) * MB

    assert follow(HELD, usage) == []


def test_what_is_held_is_killed_at_once_over_the_other_ceiling():
    def usage(at):
        return (150 + max(0.0, at - 50) * 20) * MB

    (at, verdict), *_ = follow(HELD, usage, until=80.0)
    assert verdict.hard
    assert usage(at) <= 410 * MB


def test_a_kill_is_told_at_every_look_a_recycle_once_in_a_while():
    assert len(follow(SOFT, lambda _: 300 * MB, until=100.0)) == 1 + int(100 / AGAIN)
    assert len(follow(Ceiling(0, 0.0, 100 * MB), lambda _: 300 * MB, until=95.0)) >= 9


def test_the_first_look_knows_no_growth():
    watch, _ = look(SOFT, Watch(0.0, 0), 0.5, 100 * MB)
    assert watch.growth == 0.0
    assert not urgent(watch)


def test_growth_is_not_forgotten_at_the_first_pause():
    watch, _ = look(SOFT, Watch(0.0, 10 * MB), 1.0, 30 * MB)
    assert watch.growth == 20.0 * MB
    watch, _ = look(SOFT, watch, 2.0, 30 * MB)
    assert watch.growth == 10.0 * MB
    assert urgent(watch)


def test_two_looks_at_the_same_instant_divide_by_nothing():
    assert look(SOFT, Watch(1.0, 10 * MB, 5.0), 1.0, 90 * MB)[0].growth == 5.0


def test_the_lowest_ceiling_is_the_one_there_is():
    assert [lowest(Ceiling(*each)) for each in ((5, 0, 0), (0, 0, 7), (5, 0, 7))] == [5, 7, 5]


# Who belongs to whom.

SHIM, A, B = 1, 10, 20


def table(*rows):
    """(pid, parent) or (pid, parent, group, session)."""
    return {row[0]: Process(row[0], row[1], *(row[2:] or (row[0], row[0])), 5, 0) for row in rows}


def members(found):
    return {root: sorted(process.pid for process in processes) for root, processes in found.items()}


def test_descendants_belong_to_their_root():
    processes = table((A, SHIM), (11, A), (12, 11), (B, SHIM), (21, B), (99, SHIM))
    assert members(trees(processes, [A, B], SHIM, {})) == {A: [10, 11, 12], B: [20, 21]}


@pytest.mark.parametrize(("group", "session"), [(A, 77), (77, A)])
def test_a_stray_belongs_by_group_or_session_with_all_below_it(group, session):
    processes = table((A, SHIM), (B, SHIM), (30, SHIM, group, session), (31, 30))
    assert members(trees(processes, [A, B], SHIM, {})) == {A: [10, 30, 31], B: [20]}


def test_a_stray_that_was_seen_below_before_belongs_there_if_it_is_still_the_same():
    processes = table((A, SHIM), (30, SHIM))
    assert members(trees(processes, [A], SHIM, {(30, 5): A})) == {A: [10, 30]}
    assert members(trees(processes, [A], SHIM, {(30, 4): A})) == {A: [10]}


def test_a_root_that_is_gone_leaves_its_strays():
    assert members(trees(table((30, SHIM, A, A)), [A], SHIM, {})) == {A: [30]}


@given(
    st.lists(
        st.tuples(st.integers(2, 40), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)),
        unique_by=lambda row: row[0],
    ),
    st.sets(st.integers(2, 40)),
    st.dictionaries(st.tuples(st.integers(2, 40), st.just(5)), st.integers(2, 40)),
)
def test_nothing_is_counted_twice(rows, roots, known):
    # A parent is always older: pids of this table grow, so that there is no circle, as there is none in the kernel's.
    processes = table(
        *((pid, parent if parent < pid else SHIM, group, session) for pid, parent, group, session in rows)
    )
    found = trees(processes, roots, SHIM, known)
    pids = [process.pid for each in found.values() for process in each]
    assert len(pids) == len(set(pids))
    assert set(found) == roots
    assert all(root in pids for root in roots if root in processes)
