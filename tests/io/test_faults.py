"""What raises for a source is contained; the third time in a row it is set aside, shown, and tried again after 5 s."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import socket
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from waiting import turns

from impetusd.supervisor import faults
from impetusd.supervisor.faults import AGAIN, FORGIVEN, PATIENCE, SOON, Faults


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._due: list[tuple[float, int, Callable[[], object], SimpleNamespace]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self.time

    def later(self, seconds: float, act: Callable[..., object], *args: object) -> SimpleNamespace:
        handle = SimpleNamespace(off=False)
        handle.cancel = lambda: setattr(handle, "off", True)
        heapq.heappush(self._due, (self.time + seconds, next(self._numbers), lambda: act(*args), handle))
        return handle

    def run(self, seconds: float) -> None:
        end = self.time + seconds
        while self._due and self._due[0][0] <= end:
            self.time, _, act, handle = heapq.heappop(self._due)
            if not handle.off:
                act()
        self.time = end


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.log: list[str] = []
        self.woken = 0
        self.faults = Faults(self.log.append, self.wake, self.clock.now, self.clock.later)
        self.asked: list[float] = []  # when it was tried
        self.broken = True

    def wake(self) -> None:
        self.woken += 1

    def act(self, *_: object) -> None:
        self.asked.append(round(self.clock.time - 1000.0, 3))
        if self.broken:
            raise ZeroDivisionError("of ours")


@pytest.fixture
def world() -> World:
    return World()


THREE = [0.0, SOON, 2 * SOON]  # the tries after which it is set aside


class TestAttempt:
    def test_is_made_again_soon_and_after_the_third_fault_when_it_has_rested(self, world: World) -> None:
        assert not world.faults.attempt("it", "doing it", world.act)
        world.clock.run(2 * SOON)
        assert world.asked == pytest.approx(THREE)
        assert world.faults.rests("it")
        world.clock.run(AGAIN - 0.01)
        assert len(world.asked) == PATIENCE
        world.clock.run(0.02)
        assert world.asked == pytest.approx([*THREE, 2 * SOON + AGAIN])
        world.clock.run(AGAIN + SOON)  # one fault is enough then
        assert len(world.asked) == PATIENCE + 2
        world.broken = False
        world.clock.run(FORGIVEN)
        assert len(world.asked) == PATIENCE + 3
        (shown,) = world.faults.attention()
        assert str(shown).startswith("it: doing it: internal error: ZeroDivisionError('of ours') (5 times")
        assert "".join(world.log).count("Traceback") == 1

    def test_that_is_asked_for_while_another_is_due_is_made_once(self, world: World) -> None:
        world.faults.attempt("it", "doing it", world.act)
        world.broken = False
        assert world.faults.attempt("it", "doing it", world.act)
        world.clock.run(FORGIVEN)
        assert len(world.asked) == 2

    def test_is_not_made_for_a_source_that_rests_and_is_for_every_other(self, world: World) -> None:
        for _ in range(PATIENCE):
            world.faults.contain("it", "doing it", world.act)
        world.broken = False
        assert not world.faults.attempt("it", "doing it", world.act)
        assert world.faults.attempt("other", "doing it", world.act)
        assert len(world.asked) == PATIENCE + 1
        world.clock.run(AGAIN)
        assert len(world.asked) == PATIENCE + 2

    def test_after_a_minute_without_a_fault_begins_anew(self, world: World) -> None:
        for _ in range(PATIENCE - 1):
            world.faults.contain("it", "doing it", world.act)
        world.clock.run(FORGIVEN)
        world.faults.contain("it", "doing it", world.act)
        assert not world.faults.rests("it")


def test_a_task_is_attended_in_the_same_way(world: World) -> None:
    async def work() -> None:
        world.act()

    async def turns() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    async def scenario() -> None:
        task = asyncio.create_task(world.faults.attend("it", "doing it", work))
        for _ in range(PATIENCE - 1):
            await turns()
            world.clock.run(SOON)
        await turns()
        world.clock.run(AGAIN - 0.01)
        await turns()
        assert world.asked == pytest.approx(THREE)
        world.broken = False
        world.clock.run(0.02)
        await task
        assert len(world.asked) == PATIENCE + 1

    asyncio.run(scenario())


def test_a_reader_that_raises_three_times_is_not_called_until_it_has_rested(world: World) -> None:
    """Or the loop would call it all the time, for what is to be read stays there."""
    ours, theirs = socket.socketpair()

    async def turns() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def scenario() -> None:
        world.faults.hear(ours, "it", "reading", world.act, "argument")
        theirs.send(b"x")
        await turns()
        assert len(world.asked) == PATIENCE
        world.broken = False
        world.clock.run(AGAIN)
        await turns()
        assert len(world.asked) > PATIENCE
        asyncio.get_running_loop().remove_reader(ours)

    async def closed() -> None:
        world.broken = True
        world.faults.hear(ours, "other", "reading", world.act)
        await turns()
        count = len(world.asked)
        ours.close()
        world.clock.run(AGAIN)
        await turns()
        assert len(world.asked) == count

    asyncio.run(scenario())
    asyncio.run(closed())
    theirs.close()


def test_nothing_is_contained_where_it_is_to_be_found_out_whether_anything_raises(world: World) -> None:
    async def work() -> None:
        world.act()

    world.faults.strict = True
    with pytest.raises(ZeroDivisionError):
        world.faults.attempt("it", "doing it", world.act)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(world.faults.attend("it", "doing it", work))
    with pytest.raises(ZeroDivisionError):
        faults.BARE.attempt("it", "doing it", world.act)


async def after(result: object) -> None:
    """Somebody else's future is cancelled; or it has this result."""
    future = asyncio.get_running_loop().create_future()
    if result is None:
        future.cancel()
    else:
        future.set_result(result)
    await future


class TestContainingRaisesNothing:
    @pytest.mark.parametrize("error", [SystemExit(0), asyncio.CancelledError(), MemoryError(), RecursionError()])
    def test_over_what_is_no_exception_of_a_program(self, world: World, error: BaseException) -> None:
        def act() -> None:
            raise error

        assert not world.faults.contain("a", "doing it", act)
        assert len(world.faults.attention()) == 1

    def test_over_a_future_of_another_that_is_cancelled(self, world: World) -> None:
        """What waited for it is done again; a task that is cancelled itself ends."""

        async def work() -> None:
            world.asked.append(0.0)
            await after(None if len(world.asked) == 1 else True)

        async def scenario() -> None:
            task = asyncio.create_task(world.faults.attend("a", "waiting", work))
            await turns(3)
            assert not task.done()
            world.clock.run(SOON)
            await task
            assert len(world.asked) == 2
            task = asyncio.create_task(world.faults.attend("a", "waiting", asyncio.Event().wait))
            await turns()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(scenario())

    def test_over_an_exception_that_cannot_be_shown(self, world: World) -> None:
        class Hostile(Exception):
            def __repr__(self) -> str:
                raise ZeroDivisionError

            __str__ = __repr__

        def act() -> None:
            raise Hostile

        assert not world.faults.contain("a", "doing it", act)
        (notice,) = world.faults.attention()
        assert notice.facts["cause"].facts["error"] == "Hostile"

    def test_over_one_that_is_long(self, world: World) -> None:
        assert not world.faults.contain("a", "doing it", (b"\xff" * 1_000_000).decode)
        (notice,) = world.faults.attention()
        assert len(notice.facts["cause"].facts["error"]) == faults.LONGEST

    def test_without_a_log(self, world: World) -> None:
        """It is in `status` all the same."""
        world.faults._log = lambda _: 1 / 0
        assert not world.faults.contain("a", "doing it", world.act)
        assert len(world.faults.attention()) == 1
