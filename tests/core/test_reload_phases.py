"""Reload: what follows in which phase, that every way ends entirely new or entirely old, and how workers are compared."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impetusd.core.config.model import Kind, Listen, Ready, Unit
from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules import reload as core
from impetusd.core.rules.lifecycle import State
from impetusd.core.rules.reload import Count, Do, Order, Part, Phase, Reload, Seen, View

BASE = 7  # the number of the old template's process


class World:
    """The slots of a pool as the engine would have them; what an order begins goes on when `happen` picks it."""

    def __init__(self, workers: int, *, template: bool = True, parked: int = 1, parallel: int = 1, watch: float = 1.0):
        self.slots = {(Part.SERVING, i): Seen(part=Part.SERVING, index=i, state=State.RUNNING) for i in range(workers)}
        self.slots |= {(Part.PARKED, i): Seen(part=Part.PARKED, index=i, state=State.RUNNING) for i in range(parked)}
        self.template = template
        self.parent: int | None = BASE if template else None
        if template:
            self.slots[Part.TEMPLATE, 0] = Seen(part=Part.TEMPLATE, state=State.RUNNING)
        self.parallel = parallel
        self.now = 0.0
        self.reload = Reload(generation=2, began=0.0, reason=because("reload"), watch=watch, base=self.parent)
        self.workers = workers

    def of(self, part: Part) -> list[Seen]:
        return [slot for slot in self.slots.values() if slot.part is part]

    def step(self, verdict: Reason = NONE) -> tuple[Order, ...]:
        """Decide and obey until nothing follows; returns all orders."""
        given: list[Order] = []
        for _ in range(100):
            before = self.reload
            view = View(
                slots=tuple(self.slots.values()),
                parallel=self.parallel,
                forks=self.template,
                parent=self.parent,
                verdict=verdict,
            )
            self.reload, orders = core.decide(before, view, self.now)
            self.reload = core.load(core.dump(self.reload))  # whenever the supervisor dies, this is what is left of it
            for order in orders:
                self.obey(order)
            given += orders
            if not orders and self.reload.phase is before.phase:
                return tuple(given)
        raise AssertionError(f"it does not come to rest: {self.reload}, {given[-5:]}")

    def obey(self, order: Order) -> None:
        key = order.part, order.slot
        slot = self.slots.get(key)
        new = self.reload.phase is not Phase.BACK
        match order.do:
            case Do.START:
                assert slot is None, f"{order}: it is there"
                self.slots[key] = Seen(part=order.part, index=order.slot, state=State.STARTING, new=new)
            case Do.STOP:
                assert slot
                self.slots[key] = replace(slot, state=State.STOPPING, up=False)
            case Do.AGAIN:
                assert slot
                self.slots[key] = replace(slot, state=State.STARTING, new=new)
            case Do.TAKE_OVER:
                heir = self.slots.pop((Part.NEXT, order.slot))
                assert slot
                assert heir.state is State.RUNNING
                assert heir.new is not slot.new
                if slot.state is State.RUNNING:
                    self.slots[Part.LEAVING, order.slot] = replace(slot, part=Part.LEAVING, state=State.STOPPING)
                self.slots[key] = replace(slot, state=State.RUNNING, new=heir.new)
            case Do.ADOPT:
                self.slots[Part.TEMPLATE, 0] = replace(self.slots.pop((Part.NEXT_TEMPLATE, 0)), part=Part.TEMPLATE)
                self.parent = BASE + 1
            case Do.FORGET:
                del self.slots[key]

    def settle(self, slot: Seen, state: State) -> None:
        self.slots[slot.part, slot.index] = replace(slot, state=state)

    def crash(self, slot: Seen) -> None:
        """As the engine tells it: what has still to prove itself is given up, what has a place is started again."""
        passing = slot.part in {Part.NEXT, Part.NEXT_TEMPLATE}
        self.settle(slot, State.FATAL if passing else State.BACKOFF)
        if slot.new:
            self.reload = core.fail(self.reload, CRASH)
        elif slot.part is Part.NEXT:
            self.reload = replace(self.reload, stuck=CRASH)

    def happen(self, chance: random.Random, crashes: float) -> None:
        """One thing that was begun ends, or a process crashes."""
        slot = chance.choice(list(self.slots.values()))
        if slot.part is Part.LEAVING or (slot.state is State.STOPPING and not slot.up):
            if slot.part in {Part.LEAVING, Part.NEXT, Part.NEXT_TEMPLATE}:
                del self.slots[slot.part, slot.index]
            else:
                self.settle(slot, State.STOPPED)
        elif (
            slot.state in {State.STARTING, State.RUNNING}
            and chance.random() < crashes
            and slot.part is not Part.TEMPLATE
        ):
            self.crash(slot)
        elif slot.state is State.STARTING:
            self.settle(slot, State.RUNNING)
        elif slot.state is State.BACKOFF:
            # Of the old version again as soon as the reload is on its way back.
            self.slots[slot.part, slot.index] = replace(
                slot, state=State.STARTING, new=slot.new and self.reload.phase is not Phase.BACK
            )
        self.now += 0.25

    @property
    def serving(self) -> int:
        """Processes that accept requests."""
        return sum(s.state is State.RUNNING for s in self.of(Part.SERVING) + self.of(Part.NEXT))

    def run(self, chance: random.Random, crashes: float = 0.0) -> None:
        for _ in range(5000):
            self.step()
            if self.reload.phase in core.OVER:
                return
            self.happen(chance, crashes)
        raise AssertionError(f"it does not end: {self.reload}, {self.slots}")


def world_in(phase: Phase, **keys: object) -> World:
    """A pool of two, whose reload has come as far as `phase`."""
    world = World(2, **keys)  # type: ignore[arg-type]
    world.step()
    while world.reload.phase is not phase:
        starting = [slot for slot in world.slots.values() if slot.state is State.STARTING]
        stopping = [slot for slot in world.slots.values() if slot.state is State.STOPPING]
        if starting:
            world.settle(starting[0], State.RUNNING)
        elif stopping and stopping[0].part is Part.LEAVING:
            del world.slots[Part.LEAVING, stopping[0].index]
        elif stopping:
            world.settle(stopping[0], State.STOPPED)
        else:
            world.now += 1.0
        world.step()
    return world


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 5),
    parallel=st.integers(1, 3),
    template=st.booleans(),
    parked=st.integers(0, 2),
)
def test_a_good_version_is_entirely_in_service_and_no_place_was_ever_empty(
    seed: int, workers: int, parallel: int, template: bool, parked: int
) -> None:
    world = World(workers, template=template, parked=parked, parallel=parallel)
    chance = random.Random(seed)
    for _ in range(5000):
        world.step()
        assert world.serving >= workers
        assert sum(slot.state is State.STARTING for slot in world.of(Part.NEXT)) <= parallel
        if world.reload.phase in core.OVER:
            break
        world.happen(chance, 0.0)
    assert world.reload.phase is Phase.DONE
    assert all(slot.new and slot.state is State.RUNNING for slot in world.slots.values())
    assert {slot.part for slot in world.slots.values()} <= {Part.SERVING, Part.PARKED, Part.TEMPLATE}


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4), parallel=st.integers(1, 3), template=st.booleans())
def test_whatever_crashes_it_ends_entirely_new_or_entirely_old(
    seed: int, workers: int, parallel: int, template: bool
) -> None:
    world = World(workers, template=template, parallel=parallel)
    world.run(random.Random(seed), crashes=0.03)
    assert not world.of(Part.NEXT) + world.of(Part.NEXT_TEMPLATE) + world.of(Part.LEAVING)
    if not world.reload.stuck:
        new = {slot.new for slot in world.of(Part.SERVING)}
        assert new == {world.reload.phase is Phase.DONE}


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 4),
    parallel=st.integers(1, 3),
    lost_at=st.integers(0, 40),
    cancelled_at=st.integers(0, 80),
)
def test_with_the_template_of_the_old_version_lost_it_ends_entirely_new_or_entirely_old_all_the_same(
    seed: int, workers: int, parallel: int, lost_at: int, cancelled_at: int
) -> None:
    world, chance = World(workers, parallel=parallel), random.Random(seed)
    for step in range(5000):
        if step == lost_at and world.parent == BASE:
            world.parent = BASE + 2
        if step == cancelled_at:
            world.reload = core.fail(world.reload, CRASH)
        world.step()
        if world.reload.phase in core.OVER:
            break
        world.happen(chance, crashes=0.02)
    assert world.reload.phase in core.OVER
    if world.reload.stuck in {NONE, because("from_disk")}:
        assert {slot.new for slot in world.of(Part.SERVING)} == {world.reload.phase is Phase.DONE}
    if world.reload.phase is Phase.FAILED and world.parent != BASE:
        assert world.reload.stuck


def test_what_cannot_be_undone_goes_forward() -> None:
    """One place is taken when the shim dies, with the templates that it had; then the next process fails."""
    world = world_in(Phase.ROLLING)
    world.step()
    assert [slot.new for slot in world.of(Part.SERVING)] == [True, False]
    world.parent = None
    world.step()
    assert (world.reload.phase, world.reload.forward) == (Phase.ROLLING, True)
    (following,) = world.of(Part.NEXT)
    world.crash(following)
    orders = world.step()
    assert (world.reload.phase, world.reload.failed) == (Phase.ENDING, CRASH)
    assert Order(Do.AGAIN, Part.SERVING, 1) in orders
    world.run(random.Random(5))
    assert world.reload.phase is Phase.DONE
    assert {slot.new for slot in world.of(Part.SERVING)} == {True}


@pytest.mark.parametrize("phase", [Phase.LOADING, Phase.FIRST, Phase.WATCH, Phase.ROLLING, Phase.PARKING])
def test_a_failure_in_any_phase_but_the_last_brings_the_old_version_back(phase: Phase) -> None:
    world = world_in(phase)
    world.reload = core.fail(world.reload, CRASH, ["Traceback"])
    world.run(random.Random(1))
    assert (world.reload.phase, world.reload.failed, world.reload.lines) == (Phase.FAILED, CRASH, ("Traceback",))
    assert {(slot.part, slot.new) for slot in world.slots.values()} == {
        (part, False) for part in (Part.SERVING, Part.PARKED, Part.TEMPLATE)
    }
    assert world.parent == BASE, "what forks the old version has never ended"


@pytest.mark.parametrize(
    ("phase", "part"),
    [
        (Phase.LOADING, Part.NEXT_TEMPLATE),
        (Phase.FIRST, Part.NEXT),
        (Phase.WATCH, Part.NEXT),
        (Phase.ROLLING, Part.NEXT),
    ],
)
def test_a_new_process_that_is_down_ends_it_also_if_its_end_was_not_heard(phase: Phase, part: Part) -> None:
    world = World(2)
    world.reload = replace(world.reload, phase=phase)
    why = because("slot_failed", slot="web:0:next", cause=because("exit", code=3))
    world.slots[part, 0] = Seen(part=part, state=State.FATAL, new=True, failed=why)
    world.step()
    assert (world.reload.phase, world.reload.failed) == (Phase.FAILED, why)


def test_when_the_old_template_ends_there_is_no_way_back() -> None:
    world = world_in(Phase.ENDING)
    assert core.fail(world.reload, CRASH).phase is Phase.ENDING


def test_the_first_serves_beside_all_the_old_ones_until_the_watch_is_over() -> None:
    world = world_in(Phase.WATCH, watch=5.0)
    assert world.serving == 3
    world.now += 4.9
    assert world.step() == ()
    world.now += 0.1
    orders = world.step()
    assert orders[:2] == (Order(Do.START, Part.NEXT, 1), Order(Do.TAKE_OVER, Part.SERVING, 0))


def test_a_verdict_at_the_end_of_the_watch_ends_it() -> None:
    world = world_in(Phase.WATCH, watch=5.0)
    world.now += 5.0
    world.step(CRASH)
    assert world.reload.phase is Phase.BACK


def test_one_that_is_not_well_is_not_ready() -> None:
    world = world_in(Phase.FIRST)
    (first,) = world.of(Part.NEXT)
    world.slots[Part.NEXT, 0] = replace(first, state=State.RUNNING, well=False)
    world.step()
    assert world.reload.phase is Phase.FIRST
    world.slots[Part.NEXT, 0] = replace(first, state=State.RUNNING)
    world.step()
    assert world.reload.phase is Phase.WATCH


def test_without_a_template_none_goes_before_all_are_ready() -> None:
    world = world_in(Phase.ROLLING, template=False)
    assert not world.of(Part.LEAVING)
    (slot,) = (slot for slot in world.of(Part.NEXT) if slot.state is State.STARTING)
    world.settle(slot, State.RUNNING)
    world.step()
    assert (world.reload.phase, len(world.of(Part.LEAVING))) == (Phase.ENDING, 2)


def test_a_place_that_is_scaled_away_meanwhile_is_not_waited_for() -> None:
    world = world_in(Phase.WATCH)
    for index in (0, 1):
        world.slots[Part.SERVING, index] = replace(world.slots[Part.SERVING, index], up=index == 1)
    world.run(random.Random(3))
    assert world.reload.phase is Phase.DONE
    assert world.slots[Part.SERVING, 1].new


def test_what_is_stopped_meanwhile_ends_it() -> None:
    world = world_in(Phase.WATCH)
    for slot in world.of(Part.SERVING):
        world.slots[slot.part, slot.index] = replace(slot, up=False, state=State.STOPPING)
    world.step()
    assert (world.reload.phase, world.reload.failed) == (Phase.BACK, because("not_wanted"))


def test_the_last_words_of_what_failed_are_waited_for() -> None:
    world = world_in(Phase.LOADING)
    (template,) = world.of(Part.NEXT_TEMPLATE)
    world.slots[Part.NEXT_TEMPLATE, 0] = replace(template, state=State.FATAL, told=False)
    world.reload = core.fail(world.reload, because("exit", code=78))
    world.step()
    assert world.reload.phase is Phase.BACK
    world.slots[Part.NEXT_TEMPLATE, 0] = replace(template, state=State.FATAL)
    world.step()
    assert world.reload.phase is Phase.FAILED


def test_a_record_of_a_version_that_knows_more_or_less_is_read() -> None:
    whole = Reload(generation=3, began=1.0, reason=because("reload"), phase=Phase.WATCH, deadline=9.0, lines=("a",))
    data = json.loads(core.dump(whole))
    assert core.load(json.dumps({**data, "moon": "full"})) == whole
    del data["took"]
    assert core.load(json.dumps(data)) == whole


def test_every_phase_has_its_rule() -> None:
    assert set(core.TABLE) == set(Phase)


CRASH = because("exit", code=1)
UNIT = {"name": "u", "where": "x:1", "enabled": True, "kill_timeout": 10.0, "cwd": "/", "user": "", "group": ""}
UNIT |= {"umask": 0o22, "nice": 0, "env": {}, "env_file": ()}
LISTEN = (Listen("127.0.0.1", 8080),)


@pytest.mark.parametrize(
    ("keys", "overlaps"),
    [
        ({"kind": Kind.POOL}, True),
        ({"kind": Kind.PROGRAM, "listen": LISTEN, "wait_ready": True}, True),
        ({"kind": Kind.PROGRAM, "listen": LISTEN, "ready": Ready("log", "listening")}, True),
        ({"kind": Kind.PROGRAM, "listen": LISTEN, "ready": Ready("tcp", "127.0.0.1:8080")}, False),
        ({"kind": Kind.PROGRAM, "listen": LISTEN}, False),
        ({"kind": Kind.PROGRAM, "wait_ready": True}, False),
        ({"kind": Kind.TIMER}, False),
    ],
)
def test_what_can_serve_side_by_side(keys: dict[str, object], overlaps: bool) -> None:
    assert core.overlaps(Unit(**UNIT, **keys)) is overlaps  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ([Count(1000, 0)], [Count(1000, 0)], ()),
        ([Count(1000, 0)], [Count(10, 2)], ()),  # two may be chance
        ([Count(1000, 0)], [Count(10, 9)], (9, 10, 0, 1000)),
        ([Count(1000, 10), Count(1000, 10)], [Count(1000, 14)], ()),  # 1 % and 1.4 %: chance
        ([Count(1000, 10), Count(1000, 10)], [Count(1000, 60)], (60, 1000, 20, 2000)),
        ([Count(1000, 1000)], [Count(1000, 1000)], ()),  # all fail alike: it is not the version
        ([Count(0, 0)], [Count(10, 5)], ()),
        ([Count(0, 0)], [Count(10, 6)], (6, 10, 0, 0)),
        ([Count(memory=100 << 20)], [Count(memory=140 << 20)], ()),
        ([Count(memory=10 << 20)], [Count(memory=40 << 20)], ()),
        ([Count(memory=100 << 20)], [Count(memory=151 << 20)], (151 << 20, 100 << 20)),
        ([], [Count(memory=151 << 20)], ()),
    ],
)
def test_new_workers_are_compared_with_old_ones(old: list[Count], new: list[Count], wrong: tuple[int, ...]) -> None:
    assert tuple(core.verdict(old, new).facts.values()) == wrong
