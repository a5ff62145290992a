"""Recycling by age and by the clock, with the loop's real timers and the kernel's real alarm."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
from waiting import until

from impetusd.core.reasons import because
from impetusd.core.rules.lifecycle import Slot, State
from impetusd.supervisor.rules import ageing
from impetusd.supervisor.rules.ageing import Ageing
from impetusd.supervisor.slots.entry import Role

PATIENCE = 60.0


class Stand:
    """An alarm that rings when told, and a wall clock that is set."""

    def __init__(self):
        self.now, self.in_seconds, self.closed = 1_800_000_060.0, None, False  # a minute past the hour

    def made(self, ring):
        self.ring = ring
        return self

    def set(self, seconds):
        self.in_seconds = seconds

    def close(self):
        self.closed = True


class Bench:
    def __init__(self, **how):
        self.asked = []
        self.ageing = Ageing(lambda entries, reason: self.asked.append(([e.name for e in entries], reason)), **how)

    def entry(self, name="web:0", role=Role.WORKER, unit=None, **keys):
        unit = unit or SimpleNamespace(**{"name": "web", "max_age": 0.0, "cron_restart": "", "timezone": "UTC", **keys})
        entry = SimpleNamespace(name=name, unit=unit, role=role, slot=Slot())
        self.become(entry, State.RUNNING, 7)
        return entry

    def become(self, entry, state, pid):
        now = time.monotonic()
        entry.slot = Slot(state=state, pid=pid, started=now, since=now)
        self.ageing.follow(entry)

    async def until_asked(self, count=1):
        await until(lambda: len(self.asked) >= count, lambda: self.asked)


def run(scenario, **how):
    async def main():
        bench = Bench(**how)
        try:
            await scenario(bench)
        finally:
            bench.ageing.close()

    asyncio.run(main())


def test_a_process_that_is_older_than_max_age_is_recycled_and_asked_for_again_while_it_stays(monkeypatch):
    monkeypatch.setattr(ageing, "AGAIN", 0.02)

    async def scenario(bench):
        bench.entry(max_age=0.1)
        await bench.until_asked(2)
        assert set(map(repr, bench.asked)) == {repr((["web:0"], because("max_age", limit_s=0.1)))}

    run(scenario)


def test_one_that_has_ended_is_not_and_its_successor_begins_anew():
    async def scenario(bench):
        entry = bench.entry(max_age=3600.0)
        first = bench.ageing._timers["web:0"][1]
        bench.become(entry, State.STOPPING, 7)
        assert first.cancelled()
        assert bench.ageing._timers == {}
        bench.become(entry, State.RUNNING, 8)
        assert bench.ageing._timers["web:0"][0] == 8

    run(scenario)


def test_a_template_has_no_age():
    async def scenario(bench):
        bench.entry("web:template", Role.TEMPLATE, max_age=0.001)
        assert bench.ageing._timers == {}

    run(scenario)


def test_the_real_alarm_rings_for_cron_restart():
    async def scenario(bench):
        bench.entry(cron_restart="* * * * * *")
        await bench.until_asked()
        assert bench.asked[0] == (["web:0"], because("cron_restart", schedule="* * * * * *"))

    run(scenario)


def test_a_time_of_cron_restart_is_one_recycle_of_the_whole_unit():
    stand = Stand()

    async def scenario(bench):
        template = bench.entry("web:template", Role.TEMPLATE, cron_restart="*/5 * * * *")
        others = [bench.entry(f"web:{index}", unit=template.unit) for index in range(2)]
        assert stand.in_seconds <= 0.0
        stand.ring()
        assert stand.in_seconds == 240.0
        stand.now += 240.01
        for entry in (template, *others):  # they have run all that time
            entry.slot = Slot(state=State.RUNNING, pid=7, since=time.monotonic() - 240)
        stand.ring()
        assert bench.asked == [(["web:template", "web:0", "web:1"], because("cron_restart", schedule="*/5 * * * *"))]
        stand.ring()  # as it does when somebody sets the clock
        assert len(bench.asked) == 1
        assert 299.0 < stand.in_seconds < 300.0

    run(scenario, wall=lambda: stand.now, alarm=stand.made)


@pytest.mark.parametrize("jump", [-3600.0, -0.5, 3600.0 * 24 * 365 + 100])
def test_a_clock_that_is_set_restarts_nothing(jump):
    stand = Stand()

    async def scenario(bench):
        entry = bench.entry(cron_restart="0 * * * *")
        stand.ring()
        entry.slot = Slot(state=State.RUNNING, pid=7, since=time.monotonic() - 7200)
        stand.now += jump
        stand.ring()
        assert bench.asked == []
        assert 0 < stand.in_seconds <= 3600

    run(scenario, wall=lambda: stand.now, alarm=stand.made)


def test_a_supervisor_that_was_away_at_the_time_makes_up_for_it():
    stand = Stand()

    async def scenario(bench):
        bench.entry(cron_restart="0 * * * *").slot = Slot(state=State.RUNNING, pid=7, since=time.monotonic() - 7200)
        stand.now -= 59.0
        stand.ring()
        assert len(bench.asked) == 1

    run(scenario, wall=lambda: stand.now, alarm=stand.made)


def test_when_all_are_down_no_alarm_is_set():
    stand = Stand()

    async def scenario(bench):
        entry = bench.entry(cron_restart="0 * * * *")
        assert stand.in_seconds is not None
        bench.become(entry, State.STOPPED, None)
        assert stand.in_seconds is None

    run(scenario, wall=lambda: stand.now, alarm=stand.made)
    assert stand.closed


def test_once_closed_nothing_that_changes_matters():
    async def scenario(bench):
        entry = bench.entry(cron_restart="* * * * * *", max_age=0.01)
        bench.ageing.close()
        bench.become(entry, State.STOPPING, 7)
        bench.become(entry, State.RUNNING, 8)
        assert bench.ageing._timers == {}
        assert bench.asked == []

    run(scenario)
