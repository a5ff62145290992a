"""Whom a health check asks, when, and what follows: the module itself, over a clock that jumps to the next timer."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import random
from dataclasses import replace

import pytest
from health_harness import check, passes, simulated, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from impetusd.core.config.model import Action, Kind
from impetusd.core.reasons import NONE, Reason, because, read
from impetusd.core.rules.health import RESTART_EVERY, Result, Turn
from impetusd.core.rules.lifecycle import State, Want
from impetusd.supervisor.faults import BARE, Faults
from impetusd.supervisor.observers import Change
from impetusd.supervisor.rules.checks import Checks
from impetusd.supervisor.slots.entry import Entry, Role

pytestmark = pytest.mark.noise

OK, BAD = Result(True, "200 OK", 0.002), Result(False, "503 Service Unavailable: no database", 0.001)


def bad(answer, at="/health"):
    return because("bad_answer", question=f"GET {at}", answer=answer, at=at, errno=0)


def is_state(name, state):
    return because("is_state", name=name, state=state, cause=NONE)


class World:
    """Checks in the middle of a supervisor that is told of what they do."""

    def __init__(self, *checks, workers=2, kind=Kind.POOL, jitter=lambda: 0.5, back=5.0):
        role = Role.WORKER if kind is Kind.POOL else Role.PROGRAM
        web = unit("web", kind)
        self.loop = asyncio.get_running_loop()
        self.entries = [Entry(web, role, index) for index in range(workers)]
        if kind is Kind.POOL:
            self.entries.append(Entry(web, Role.STANDBY, 0))
        self.back = back  # seconds that a restart takes; None: for ever
        self.answers = collections.defaultdict(lambda: OK)  # by slot name, "" for the unit
        self.took = 0.0  # seconds that an answer takes
        self.asked: list[tuple[float, str, str]] = []  # (when, check, slot)
        self.asking: list[str] = []  # targets
        self.failed: list[tuple[float, str, Reason]] = []
        self.told: list[tuple[str, Reason]] = []
        self.saves: list[str] = []
        self.log: list[str] = []
        self.checks = self.made(checks, jitter)

    def made(self, checks, jitter):
        return Checks(
            checks, ask=self.ask, slots=lambda name: [each for each in self.entries if each.unit.name == name],
            shown=lambda entry: entry.name, fail=self.fail, turned=self.turned,
            save=lambda: self.saves.append(self.checks.dump()), jitter=jitter,
        )  # fmt: skip

    def turned(self, check, target, turn, failures, reason):
        assert failures <= check.failures
        if turn is Turn.FAILING:  # only the ledger hears of it
            return
        self.told.append((f"health:{check.name}: {target} is {turn.value}", reason))

    def take_over(self, saved, *checks, faults=BARE):
        """The supervisor is killed, and the next one knows what the shim has kept of it."""
        for subject in self.checks._subjects.values():
            if subject.timer is not None:
                subject.timer.cancel()
        self.checks = self.made(checks, lambda: 0.5)
        self.checks.faults = faults
        self.checks.load(saved)
        self.checks.begin()

    def __getitem__(self, name):
        return next(entry for entry in self.entries if entry.name == name)

    async def ask(self, health, worker):
        name = worker.name if worker is not None else ""
        self.asked.append((self.loop.time() - 1000.0, health.name, name))
        assert health.target not in self.asking, "two at once"
        self.asking.append(health.target)
        await passes(self.took)
        self.asking.remove(health.target)
        answer = self.answers[name]
        return answer() if callable(answer) else answer

    def move(self, entry, state, *, want=Want.UP):
        before = entry.slot
        now = self.loop.time()
        running = state is State.RUNNING
        pid = 100 + round(now) if running else before.pid if state is State.STOPPING else None
        started = now if running else before.started
        entry.rec.slot = replace(before, state=state, want=want, since=now, pid=pid, started=started)
        self.checks.changed(Change(entry, before, entry.slot))

    def fail(self, entry, reason):
        assert entry.slot.state is State.RUNNING
        serving = [each for each in self.entries if each.role is not Role.STANDBY]
        assert all(each.slot.state is State.RUNNING for each in serving if each.slot.want is Want.UP)
        self.failed.append((self.loop.time() - 1000.0, entry.name, reason))
        self.move(entry, State.STOPPING)
        if self.back is not None:
            self.loop.call_later(self.back, self.move, entry, State.RUNNING)

    def up(self):
        for entry in self.entries:
            self.move(entry, State.RUNNING)

    def why(self, target="web:0"):
        return read(self.row(target)["cause"])

    def row(self, target="web:0"):
        return next(row for row in self.checks.rows() if row["target"] == target)

    def whom(self):
        return [name for _, _, name in self.asked]


class TestWhom:
    def test_each_worker_of_a_pool_for_a_path(self):
        async def scenario():
            world = World(check())
            world.up()
            await passes(16)
            assert world.asked == [
                (5.0, "web", "web:0"),
                (5.0, "web", "web:1"),
                (15.0, "web", "web:0"),
                (15.0, "web", "web:1"),
            ]

        simulated(scenario)

    @pytest.mark.parametrize(
        "changes",
        [{"http": "http://127.0.0.1/"}, {"http": "/health", "socket": "/s"}, {"http": "", "tcp": "127.0.0.1:1"}],
    )
    def test_the_unit_for_every_other(self, changes):
        async def scenario():
            world = World(check(**changes))
            world.up()
            await passes(16)
            assert world.asked == [(5.0, "web", ""), (15.0, "web", "")]
            assert [row["target"] for row in world.checks.rows()] == ["web"]

        simulated(scenario)

    def test_nobody_before_the_target_runs_nor_after(self):
        async def scenario():
            world = World(check(), workers=1)
            world.checks.begin()
            await passes(100)
            assert (world.row()["state"], world.why()) == ("unknown", is_state("web:0", "STOPPED"))
            world.move(world["web:0"], State.STARTING)
            await passes(100)
            assert (world.row()["state"], world.why()) == ("starting", is_state("web:0", "STARTING"))
            assert world.asked == []
            world.move(world["web:0"], State.RUNNING)
            await passes(6)
            assert world.row()["state"] == "healthy"
            world.move(world["web:0"], State.STOPPING, want=Want.DOWN)
            world.move(world["web:0"], State.STOPPED, want=Want.DOWN)
            asked = len(world.asked)
            await passes(100)
            assert len(world.asked) == asked
            assert (world.row()["state"], world.row()["at"], world.row()["failures"]) == ("unknown", None, 0)

        simulated(scenario)

    def test_nobody_who_is_scaled_away(self):
        async def scenario():
            world = World(check())
            world.up()
            await passes(6)
            gone = world["web:1"]
            gone.dismissed = True
            world.move(gone, State.STOPPING, want=Want.DOWN)
            world.move(gone, State.STOPPED, want=Want.DOWN)
            world.entries.remove(gone)
            await passes(100)
            assert world.whom().count("web:1") == 1
            assert [row["target"] for row in world.checks.rows()] == ["web:0"]
            assert "web:1" not in world.checks.dump()

        simulated(scenario)

    def test_a_disabled_check_asks_nobody_and_is_not_shown(self):
        async def scenario():
            world = World(check(enabled=False))
            world.up()
            await passes(100)
            assert (world.asked, world.checks.rows()) == ([], [])

        simulated(scenario)


class TestWhen:
    def test_first_anywhere_in_the_interval_then_a_tenth_early_or_late(self):
        async def scenario():
            jitters = iter([0.2, 0.0, 0.999, 0.5, 0.5])
            world = World(check(), workers=1, jitter=lambda: next(jitters))
            world.up()
            await passes(35)
            assert [round(at, 1) for at, _, _ in world.asked] == [2.0, 11.0, 22.0, 32.0]

        simulated(scenario)

    def test_one_target_has_one_question_at_a_time_whoever_asks(self):
        """`World.ask` fails on a second one."""

        async def scenario():
            world = World(check(), check(name="front", http="http://127.0.0.1/"), workers=8)
            world.took = 2.0  # 9 of them take longer than the interval
            world.up()
            await passes(600)
            asked = collections.Counter(world.whom())
            assert set(asked) == {"", *(f"web:{index}" for index in range(8))}
            assert max(asked.values()) - min(asked.values()) <= 1  # and in turn

        simulated(scenario)

    def test_who_stops_while_it_waits_for_its_turn_is_not_asked(self):
        async def scenario():
            world = World(check())
            world.took = 1.0
            world.up()
            await passes(5.5)  # web:0 is being asked, web:1 waits
            world.move(world["web:1"], State.STOPPING)
            await passes(4)
            assert world.whom() == ["web:0"]

        simulated(scenario)

    def test_an_answer_of_the_process_before_counts_for_nothing(self):
        async def scenario():
            world = World(check(failures=1), workers=1)
            world.took, world.answers["web:0"] = 1.0, BAD
            world.up()
            await passes(5.5)
            world.move(world["web:0"], State.STOPPING)
            world.move(world["web:0"], State.RUNNING)
            await passes(2)
            assert (world.failed, world.told) == ([], [])
            assert (world.row()["state"], world.why()) == ("starting", because("not_asked"))

        simulated(scenario)


class TestAction:
    def test_restart_of_the_worker_that_failed(self):
        async def scenario():
            world = World(check())
            world.answers["web:1"] = BAD
            world.up()
            await passes(26)
            reason = bad("503 Service Unavailable: no database")
            assert world.failed == [(25.0, "web:1", because("unhealthy", cause=reason))]
            assert world.told == [("health:web: web:1 is unhealthy", reason)]
            assert world.row("web:0")["state"] == "healthy"
            assert (world.row("web:1")["state"], world.why("web:1")) == ("starting", is_state("web:1", "STOPPING"))
            world.answers["web:1"] = OK
            await passes(100)
            assert world.told[1:] == [("health:web: web:1 is healthy again", NONE)]
            assert len(world.failed) == 1

        simulated(scenario)

    def test_of_a_unit_the_oldest_that_runs_is_restarted(self):
        async def scenario():
            world = World(check(http="http://127.0.0.1/"), workers=3)
            world.answers[""] = BAD
            for name in ("web:1", "web:2", "web:0"):
                world.move(world[name], State.RUNNING)
                await passes(1)
            await passes(200)
            assert [name for _, name, _ in world.failed] == ["web:1", "web:2", "web:0"]
            assert world.told == [("health:web: web is unhealthy", bad(BAD.text, "http://127.0.0.1/"))]

        simulated(scenario)

    def test_alert_restarts_nothing_and_tells_each_turn_once(self):
        async def scenario():
            world = World(check(action=Action.ALERT), workers=1)
            world.answers["web:0"] = BAD
            world.up()
            await passes(200)
            reason = bad("503 Service Unavailable: no database")
            assert world.told == [("health:web: web:0 is unhealthy", reason)]
            assert world.checks.attention() == [("web", because("check_unhealthy", target="web:0", cause=reason))]
            row = world.row()
            assert (row["state"], row["failures"], row["latency_ms"], row["action"]) == ("unhealthy", 20, 1.0, "alert")
            world.answers["web:0"] = OK
            await passes(100)
            assert world.told[1:] == [("health:web: web:0 is healthy again", NONE)]
            assert (world.checks.attention(), world.why()) == ([], NONE)
            assert world.failed == []

        simulated(scenario)

    def test_what_is_not_the_targets_fault_is_told_and_restarts_nothing(self):
        async def scenario():
            world = World(check(), workers=1)
            world.answers["web:0"] = Result(False, "too many open files", blame=False)
            world.up()
            await passes(200)
            assert world.failed == []
            assert world.told == [("health:web: web:0 is unhealthy", bad("too many open files"))]

        simulated(scenario)

    def test_a_mistake_of_ours_ends_no_check(self):
        async def scenario():
            world = World(check(failures=1), workers=1)

            def mistake():
                raise KeyError("ours")

            world.answers["web:0"] = mistake
            world.up()
            await passes(6)
            assert world.why() == bad("cannot send the check: KeyError('ours')")
            world.answers["web:0"] = OK
            await passes(20)
            assert (world.row()["state"], world.failed) == ("healthy", [])

        simulated(scenario)

    def test_the_operators_stop_ends_the_matter(self):
        async def scenario():
            world = World(check(action=Action.ALERT), workers=1)
            world.answers["web:0"] = BAD
            world.up()
            await passes(100)
            world.move(world["web:0"], State.STOPPED, want=Want.DOWN)
            world.answers["web:0"] = OK
            world.move(world["web:0"], State.RUNNING)
            await passes(100)
            assert len(world.told) == 1  # nobody was waiting to hear that it is healthy again

        simulated(scenario)


class TestLimits:
    def test_one_a_minute(self):
        async def scenario():
            world = World(check(failures=1, interval=1.0), workers=1)
            world.answers["web:0"] = BAD
            world.up()
            await passes(30)
            held = world.why().facts["held"]
            assert (held.key, round(held.facts["ago_s"]), held.facts["every_s"]) == ("just_restarted", 28, 60.0)
            await passes(570)
            times = [at for at, _, _ in world.failed]
            assert len(times) == 10
            assert all(later >= earlier + RESTART_EVERY for earlier, later in itertools.pairwise(times))

        simulated(scenario)

    def test_one_worker_out_at_a_time(self):
        """`World.fail` fails on a second one."""

        async def scenario():
            world = World(check(), back=None)
            world.answers["web:0"] = world.answers["web:1"] = BAD
            world.up()
            await passes(1000)
            assert [name for _, name, _ in world.failed] == ["web:0"]
            assert world.checks.attention() == [
                (
                    "web",
                    because(
                        "check_unhealthy",
                        target="web:1",
                        cause=because(
                            "held",
                            cause=bad("503 Service Unavailable: no database"),
                            held=because("one_is_out", name="web:0"),
                        ),
                    ),
                )
            ]
            world.move(world["web:0"], State.STOPPED, want=Want.DOWN)  # the operator wants it so: it is not out
            await passes(20)
            assert [name for _, name, _ in world.failed] == ["web:0", "web:1"]

        simulated(scenario)

    @settings(max_examples=15, deadline=None)
    @given(seed=st.integers(0, 2**32), workers=st.integers(1, 5), back=st.floats(0.1, 100), own=st.booleans())
    def test_random_failures_for_ten_minutes(self, seed, workers, back, own):
        """One restart a minute at most, never two workers out (`World.fail` looks)."""

        async def scenario():
            chance = random.Random(seed)
            front = check(name="front", http="http://127.0.0.1/", failures=2, interval=2.0)
            each = check(failures=2, interval=2.0, start_period=5.0)
            world = World(*([each, front] if own else [front]), workers=workers, jitter=chance.random, back=back)
            world.answers.default_factory = lambda: lambda: chance.choice([OK, BAD])
            world.took = 0.05
            world.up()
            await passes(600)
            times = [at for at, _, _ in world.failed]
            assert len(times) <= 10
            assert all(later - earlier > 59.999 for earlier, later in itertools.pairwise(times))
            return len(times)

        restarts = simulated(scenario)
        assert restarts > 0 or back > 5


class TestMemory:
    def scenario_over_a_killed_supervisor(self, between):
        """(rows, told, failed) of a supervisor that takes over from one that had seen an unhealthy worker."""

        async def scenario():
            world = World(check(), workers=1, back=None)
            world.answers["web:0"] = BAD
            world.up()
            await passes(16)  # two failures
            saved = world.saves[-1]
            world.take_over(between(saved), check())
            rows = world.checks.rows()
            await passes(5.5)
            return rows[0], world.told, world.failed

        return simulated(scenario)

    def test_the_count_goes_on(self):
        row, told, failed = self.scenario_over_a_killed_supervisor(lambda saved: saved)
        assert (row["state"], row["failures"]) == ("starting", 2)
        assert read(row["cause"]) == bad("503 Service Unavailable: no database")
        assert len(told) == len(failed) == 1

    def test_not_after_a_reboot(self):
        row, told, failed = self.scenario_over_a_killed_supervisor(
            lambda saved: json.dumps({**json.loads(saved), "boot": "another"})
        )
        assert (row["state"], row["failures"], row["cause"]["key"]) == ("starting", 0, "not_asked")
        assert (told, failed) == ([], [])

    def test_a_minute_is_a_minute_over_a_killed_supervisor(self):
        async def scenario():
            world = World(check(failures=1), workers=1)
            world.answers["web:0"] = BAD
            world.up()
            await passes(6)
            assert len(world.failed) == 1
            for _ in range(20):  # one supervisor after the other, each killed after 8 s
                world.take_over(world.saves[-1], check(failures=1))
                await passes(8)
            times = [at for at, _, _ in world.failed]
            assert len(times) >= 2
            assert all(later >= earlier + RESTART_EVERY for earlier, later in itertools.pairwise(times))

        simulated(scenario)

    def test_what_a_newer_supervisor_has_written_besides_is_left_out(self):
        def newer(saved):
            data = json.loads(saved)
            data["subjects"]["web web:0"]["seen"]["another"] = 1
            return json.dumps(data)

        row, told, failed = self.scenario_over_a_killed_supervisor(newer)
        assert (row["state"], row["failures"]) == ("starting", 2)
        assert len(told) == len(failed) == 1

    @pytest.mark.parametrize("seen", [None, {}, {"condition": "of another kind"}])
    def test_of_what_makes_no_sense_nothing_is_remembered_and_all_are_asked(self, seen):
        async def scenario():
            world = World(check(), workers=2)
            world.up()
            await passes(6)
            saved = json.loads(world.checks.dump())
            saved["subjects"]["web web:0"]["seen"] = seen
            world.asked.clear()
            world.take_over(json.dumps(saved), check(), faults=Faults(world.log.append, lambda: None))
            await passes(11)
            assert set(world.whom()) == {"web:0", "web:1"}
            assert "health:web of web:0" in world.log[0]

        simulated(scenario)

    def test_it_is_saved_before_a_slot_is_failed(self):
        async def scenario():
            world = World(check(failures=1), workers=1)
            world.answers["web:0"] = BAD
            fail = world.checks._fail
            world.checks._fail = lambda *args: (world.saves.append("failed"), fail(*args))
            world.up()
            await passes(6)
            before, then = world.saves[-2:]
            assert then == "failed"
            assert json.loads(before)["restarts"] == {"web": 1005.0}

        simulated(scenario)

    def test_a_steady_state_writes_nothing(self):
        async def scenario():
            world = World(check())
            world.up()
            await passes(20)
            saves = len(world.saves)
            await passes(1000)
            assert len(world.saves) == saves

        simulated(scenario)
