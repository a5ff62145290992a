"""What workers measure and the supervisor reads: pages that anybody may have written into, and sums that never fall."""

from __future__ import annotations

import asyncio
import json
import math
import mmap
import os
from types import SimpleNamespace

import pytest
from waiting import until

from impetusd.core.reasons import NONE, because, not_started
from impetusd.core.rules.policy import Exit
from impetusd.supervisor.api.measured import BLOB, MOST, Measured, nothing
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.entry import Role
from impetusd.worker import measures
from impetusd.worker.measures import DURATIONS, LAGS, Measures


class World:
    """A supervisor's side, and workers of the pool web."""

    def __init__(self, blobs=None):
        self.alive = []  # all that there are
        self.blobs = dict(blobs or {})
        self.it = Measured(self.blobs.__setitem__)
        self.it.load(self.blobs)

    def worker(self, process, of=None):
        fd = self.it.page(process, "web")
        worker = of or Measures()
        worker._idle = False  # no event loop runs
        worker.share(fd)
        os.close(fd)
        return worker

    @property
    def web(self):
        return self.it.pools(["web"], self.alive or list(self.it._pages))["web"]


def closing(*worlds):
    for world in worlds:
        world.it.close()


def test_what_workers_measure_is_summed_and_stays_when_they_end():
    world = World()
    first, second = world.worker(1), world.worker(2)
    first.answered(200, 0.003)
    first.answered(503, 7.0)
    second.answered(200, 99.0)
    second.answered(101, None)
    second._counts[0] = 4  # connections
    assert world.web["workers"] == 2
    assert world.web["connections"] == 4
    assert world.web["requests"] == {"101": 1, "200": 2, "503": 1}
    assert world.web["durations"]["sum"] == pytest.approx(106.003)
    counts = dict(zip((*DURATIONS, math.inf), world.web["durations"]["counts"], strict=True))
    assert {bound: number for bound, number in counts.items() if number} == {0.005: 1, 10.0: 1, math.inf: 1}
    before = world.web
    world.it.ended(2)
    assert world.web == {**before, "workers": 1, "connections": 0}
    world.it.ended(2)
    assert world.web["requests"] == before["requests"]
    closing(world)


def test_a_worker_that_was_never_started_is_none():
    world = World()
    world.worker(1)
    world.worker(2)
    world.alive = [1]
    assert world.web["workers"] == 1
    closing(world)


def test_the_next_supervisor_goes_on_where_the_one_before_was():
    world = World()
    worker = world.worker(1)
    worker.answered(200, 0.1)
    gone = world.worker(2)
    gone.answered(404, 0.1)
    world.it.ended(2)
    after = World(world.blobs)
    assert after.web["requests"] == {"404": 1}
    after.worker(1, of=worker)  # it takes what it has measured along
    worker.answered(200, 0.1)
    assert after.web["requests"] == {"200": 2, "404": 1}
    closing(world, after)


def test_a_worker_whose_page_is_given_anew_is_counted_once():
    world = World()
    worker = world.worker(1)
    worker.answered(200, 0.1)
    world.worker(1, of=worker)
    worker.answered(200, 0.1)
    assert (world.web["workers"], world.web["requests"]) == (1, {"200": 2})
    closing(world)


def test_what_one_worker_has_answered():
    world = World()
    worker = world.worker(1)
    assert world.it.answered(1) == {"requests": 0, "errors": 0, "latency_s": None}
    for status, took in ((200, 0.1), (404, 0.1), (500, 0.4), (503, 0.2)):
        worker.answered(status, took)
    assert world.it.answered(1) == {"requests": 4, "errors": 2, "latency_s": 0.2}
    assert world.it.answered(2) is None
    assert world.it.answered(None) is None
    closing(world)


def test_nobody_can_make_a_page_shorter_that_is_read():
    world = World()
    fd = world.it.page(1, "web")
    for size in (0, measures.SIZE - 1, measures.SIZE + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    os.close(fd)
    closing(world)


@pytest.mark.parametrize("byte", [b"\xff", b"\x7f", b"\x01"])
def test_whatever_is_in_a_page_can_be_sent(byte):
    world = World()
    fd = world.it.page(1, "web")
    with mmap.mmap(fd, measures.SIZE) as page:
        page[:] = byte * measures.SIZE
    os.close(fd)
    assert json.loads(json.dumps(world.web, allow_nan=False)) == world.web
    world.it.ended(1)
    World(world.blobs).it.close()
    closing(world)


@pytest.mark.parametrize(
    "text", ["7", "{}", '{"requests": 7}', json.dumps({**nothing(), "durations": {"sum": 1, "counts": [1]}})]
)
def test_what_is_remembered_and_makes_no_sense_is_told(text):
    with pytest.raises((LookupError, TypeError, ValueError, AttributeError)):
        World({f"{BLOB}web": text})


def test_the_loop_is_looked_at_while_there_is_work_and_no_longer(monkeypatch):
    monkeypatch.setattr(measures, "_EVERY", 0.01)

    async def scenario():
        worker, connections = Measures(), [1]
        worker.connections = lambda: connections[0]
        assert worker._idle
        worker.stir()
        lags = lambda: sum(worker._counts[measures._LAG : measures._LAG + len(LAGS) + 1])  # noqa: E731
        await until(lambda: lags() > 3, "looks")
        assert measures.read(worker._memory)["connections"] == 1
        connections[0] = 0
        await until(lambda: worker._idle, "rest")
        assert measures.read(worker._memory)["connections"] == 0
        worker.answered(200, 0.001)
        assert not worker._idle
        await until(lambda: worker._idle, "rest")

    asyncio.run(scenario())


def entry(name, role=Role.PROGRAM, **unit):
    limits = {"max_memory_restart": 0, "max_memory_kill": 0, **unit}
    unit = SimpleNamespace(name=name.partition(":")[0], **limits)
    return SimpleNamespace(name=name, role=role, unit=unit, slot=SimpleNamespace(pid=os.getpid()))


def slot(pid=None, end=None, reason=NONE):
    return SimpleNamespace(pid=pid, last_exit=end, reason=reason)


def ended(world, web, **how):
    world.it.changed(Change(web, slot(1), slot(None, Exit(at=1.0, **how))))


def test_starts_and_ends_are_counted_by_what_they_were():
    world, web, check = World(), entry("web:0", max_memory_kill=7), entry("ask", Role.CHECK)
    world.it.changed(Change(web, slot(reason=because("reload")), slot(1)))
    world.it.changed(Change(web, slot(), slot(2)))
    world.it.changed(Change(web, slot(2), slot(2, reason=because("reload"))))  # neither
    world.it.changed(Change(check, slot(), slot(3)))
    for how in (
        {"code": 1},
        {"signal": 11},
        {"code": 127, "failed": not_started("exec", because("no_file", name="x"))},
        {},
    ):
        ended(world, web, **how)
    found = world.it.slots([web, check], lambda each: f"{each.name}!")
    assert list(found) == ["web:0!"]
    assert found["web:0!"]["starts"] == {"reload": 1, "asked": 1}
    assert found["web:0!"]["exits"] == {"code:1": 1, "signal:SIGSEGV": 1, "stage:exec": 1, "unknown:": 1}
    assert found["web:0!"]["cpu_s"] > 0
    assert found["web:0!"]["limit_bytes"] == 7
    world.it.slots([], str)  # of what is there no more nothing is kept
    assert world.it.slots([web], lambda each: each.name)["web:0"]["starts"] == {}
    closing(world)


def test_kinds_of_ends_are_bounded():
    world, web = World(), entry("web:0")
    for code in range(256):
        ended(world, web, code=code)
    exits = world.it.slots([web], lambda each: each.name)["web:0"]["exits"]
    assert len(exits) == MOST + 1
    assert sum(exits.values()) == 256
    closing(world)
