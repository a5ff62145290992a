"""`ready =`: asked while a slot is STARTING with a process, and no longer."""

from __future__ import annotations

import asyncio
import collections
import itertools
import socket
from dataclasses import replace

import pytest
from health_harness import passes, simulated, unit
from probe_server import PATIENCE, Server, holds, says
from waiting import until

from impetusd.core.config.model import Kind, Ready
from impetusd.core.reasons import NONE, because
from impetusd.core.rules.health import Result
from impetusd.core.rules.lifecycle import State
from impetusd.supervisor.rules import readiness
from impetusd.supervisor.rules.readiness import Readiness
from impetusd.supervisor.slots.entry import Entry, Role

CACHE = because("waits_for", name="cache", state="", cause=NONE)


def waits(what, answer):
    return because("waits_for_answer", what=what, answer=answer)


class World:
    """One program, and Readiness."""

    def __init__(self, ready):
        db = replace(unit("db", Kind.PROGRAM), ready=ready)
        self.entry = Entry(db, Role.PROGRAM, 0)
        self.ready_pids: list[int] = []
        self.said = asyncio.Event()
        self.watched: list[tuple] = []
        self.cancelled = 0
        self.readiness = self.made()

    def made(self):
        return Readiness(ready=self._ready, watch_line=self._watch_line)

    def _ready(self, pid):
        self.ready_pids.append(pid)
        self.said.set()
        self.move(State.RUNNING, pid)

    def _watch_line(self, entry, pattern, found):
        self.watched.append((entry.name, pattern, found))

        def cancel():
            self.cancelled += 1

        return cancel

    def move(self, state, pid=None):
        self.entry.rec.slot = replace(self.entry.slot, state=state, pid=pid)
        self.readiness.follow(self.entry)

    @property
    def reason(self):
        return self.entry.waits() if self.entry.waits is not None else NONE


@pytest.mark.parametrize("kind", ["http", "tcp"])
def test_ready_when_it_answers(kind):
    async def scenario(listener):
        port = listener.getsockname()[1]
        world = World(Ready(kind, f"http://127.0.0.1:{port}/" if kind == "http" else f"127.0.0.1:{port}"))
        world.move(State.STARTING)
        assert world.reason == NONE  # nobody is there to be asked yet
        world.move(State.STARTING, 42)
        async with asyncio.timeout(PATIENCE):
            await until(lambda: world.reason.facts["answer"])
            assert world.reason == waits(world.entry.unit.ready.value, "connection refused")
            assert world.ready_pids == []
            listener.listen()
            with Server(says("204 No Content"), listener):
                await world.said.wait()
        assert (world.ready_pids, world.reason) == ([42], NONE)

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))  # nobody else's, and not listened to
        asyncio.run(scenario(listener))


def test_a_bad_answer_is_not_ready():
    async def scenario(server):
        world = World(Ready("http", server.url()))
        world.move(State.STARTING, 42)
        await until(lambda: len(server.asked) > 2)
        assert world.ready_pids == []
        assert world.reason == waits(server.url(), "503 Service Unavailable: warming up")
        world.move(State.STOPPING, 42)

    with Server(says("503 Service Unavailable", "warming up")) as server:
        asyncio.run(scenario(server))


def answers(monkeypatch, *results):
    """Replace the thread by these answers, the last one for ever; returns the times at which they were asked for."""
    left = collections.deque(results)
    asked = []

    async def in_thread(_ask, _limit):
        asked.append(asyncio.get_running_loop().time() - 1000.0)
        return left.popleft() if len(left) > 1 else left[0]

    monkeypatch.setattr(readiness, "in_thread", in_thread)
    return asked


REFUSED, OK = Result(False, "connection refused"), Result(True, "connected")
TCP = Ready("tcp", "127.0.0.1:5432")


def test_it_is_asked_often_at_first_and_twice_a_second_later(monkeypatch):
    asked = answers(monkeypatch, REFUSED)

    async def scenario():
        world = World(TCP)
        world.move(State.STARTING, 42)
        await passes(60)
        world.move(State.STOPPING, 42)

    simulated(scenario)
    waits = [round(later - earlier, 4) for earlier, later in itertools.pairwise(asked)]
    assert asked[0] == 0.0
    assert waits[:4] == [0.05, 0.075, 0.1125, 0.1688]
    assert max(waits) == 0.5
    assert len(asked) == pytest.approx(120, abs=5)


@pytest.mark.parametrize("state", [State.STOPPING, State.BACKOFF, State.FATAL, State.STOPPED, State.RUNNING])
def test_it_is_asked_no_more_when_it_is_not_starting(monkeypatch, state):
    asked = answers(monkeypatch, REFUSED)

    async def scenario():
        world = World(TCP)
        world.move(State.STARTING, 42)
        await passes(1)
        world.move(state, 42 if state in {State.STOPPING, State.RUNNING} else None)
        count = len(asked)
        assert (count > 1, world.reason) == (True, NONE)
        await passes(60)
        assert (len(asked), world.ready_pids) == (count, [])

    simulated(scenario)


def test_an_answer_to_the_process_before_is_not_one_of_the_next(monkeypatch):
    release = []

    async def in_thread(_ask, _limit):
        release.append(asyncio.get_running_loop().create_future())
        return await release[-1]

    monkeypatch.setattr(readiness, "in_thread", in_thread)

    async def scenario():
        world = World(TCP)
        world.move(State.STARTING, 42)
        await passes(0.01)
        world.move(State.STARTING)  # it died; the next is not there yet
        world.move(State.STARTING, 43)
        await passes(0.01)
        assert release[0].cancelled()
        release[1].set_result(OK)
        await passes(0.01)
        assert world.ready_pids == [43]

    simulated(scenario)


def test_what_its_start_waits_for_is_left_alone(monkeypatch):
    """The engine has put another reason there by the time we hear that the process has died."""
    answers(monkeypatch, REFUSED)

    async def scenario():
        world = World(TCP)
        world.move(State.STARTING, 42)
        world.entry.waits = lambda: CACHE
        world.move(State.STARTING)
        assert world.reason == CACHE

    simulated(scenario)


def test_without_ready_nothing_is_asked(monkeypatch):
    asked = answers(monkeypatch, OK)

    async def scenario():
        world = World(None)
        world.move(State.STARTING, 42)
        await passes(10)
        assert (asked, world.reason) == ([], NONE)

    simulated(scenario)


class TestLog:
    def test_a_line_makes_it_ready(self):
        async def scenario():
            world = World(Ready("log", "ready to accept .*"))
            world.move(State.STARTING, 42)
            assert world.reason == because("waits_for_line", pattern="ready to accept .*")
            [(name, pattern, found)] = world.watched
            assert (name, pattern) == ("db:0", "ready to accept .*")
            found()
            assert (world.ready_pids, world.reason, world.cancelled) == ([42], NONE, 1)

        simulated(scenario)

    def test_each_run_is_watched_anew(self):
        async def scenario():
            world = World(Ready("log", "ready"))
            world.move(State.STARTING, 42)
            world.move(State.STARTING)
            assert world.cancelled == 1
            world.move(State.STARTING, 43)
            assert len(world.watched) == 2
            world.watched[1][2]()
            assert world.ready_pids == [43]

        simulated(scenario)


def test_what_was_under_way_is_taken_up_by_the_next_supervisor(monkeypatch):
    answers(monkeypatch, REFUSED, OK)

    async def scenario():
        world = World(TCP)
        world.entry.rec.slot = replace(world.entry.slot, state=State.STARTING, pid=42)
        world.readiness.begin([world.entry])
        await passes(1)
        assert world.ready_pids == [42]

    simulated(scenario)


def test_a_hanging_server_holds_up_nothing():
    async def scenario(server):
        world = World(Ready("http", server.url()))
        world.move(State.STARTING, 42)
        await until(lambda: server.asked)
        assert world.reason == waits(server.url(), "")
        world.move(State.STOPPING, 42)

    with Server(holds) as server:
        asyncio.run(scenario(server))
