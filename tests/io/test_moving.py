"""One unit is moved, or given back: in which order the old manager and ours are asked, whatever fails."""

from __future__ import annotations

import os
import signal

import pytest

from impetusd.cli import moving
from impetusd.cli.moving import Interrupts, Mover, NotMoved
from impetusd.client.control import ControlError
from impetusd.core.config import parser
from impetusd.interop.importing.writer import ANYWHERE
from impetusd.interop.takeover.manager import ManagerFault, Process, Was
from impetusd.interop.takeover.plan import How, Step

UNITS = parser.parse("[program:x]\ncommand = x\n", "/x/impetusd.ini", {"HOME": "/root"}, ANYWHERE).units
AFTER = Step("x", How.AFTER, "", (Process("x", "0", Was.RUNNING, "online"), Process("x", "1", Was.RUNNING, "online")), ("0", "1"))  # fmt: skip
RESUME = Step("x", How.RESUME, "", (Process("x", "0", Was.STOPPED, "stopped"),), ("0",))


class World:
    """The old manager and ours: what they were asked, in one list. `fails`: what is raised, by what is asked."""

    title, pid = "PM2", 1

    def __init__(self, running: set[str]) -> None:
        self.running = running
        self.notes: list[str] = []
        self.asked: list[str] = []
        self.fails: dict[str, BaseException] = {}

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if error := self.fails.pop(what, None):
            raise error

    # The old manager.

    def processes(self) -> list[Process]:
        return [Process("x", each, Was.RUNNING if each in self.running else Was.STOPPED, "", 0) for each in ("0", "1")]

    def stop(self, ids):
        self.running.discard(ids[0])
        self._ask(f"theirs: stop {' '.join(ids)}")
        self.running.difference_update(ids)

    def start(self, ids):
        self._ask(f"theirs: start {' '.join(ids)}")
        self.running.update(ids)

    def by_hand(self, ids):
        return f"pm2 restart {' '.join(ids)}"


class Ours:
    """The control socket's side of it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def start(self, name):
        self._world._ask(f"ours: start {name}")

    def stop(self, names):
        self._world._ask(f"ours: stop {' '.join(names)}")

    def pids(self, _name):
        return []


def move(world: World, step: Step) -> Mover:
    """Raises what `Mover.move` raises."""
    with Interrupts() as interrupts:
        world.mover = Mover(world, Ours(world), UNITS, interrupts)
        world.mover.move(step)
    return world.mover


def test_theirs_is_stopped_before_ours_is_started():
    world = World({"0", "1"})
    assert move(world, AFTER).troubles == []
    assert world.asked == ["ours: stop x", "theirs: stop 0 1", "ours: start x"]


def test_what_was_stopped_already_is_only_started():
    world = World(set())
    move(world, RESUME)
    assert world.asked == ["ours: stop x", "ours: start x"]


@pytest.mark.parametrize("step", [AFTER, RESUME])
@pytest.mark.parametrize("error", [NotMoved("it is BACKOFF"), ControlError("no answer"), KeyboardInterrupt()])
def test_what_does_not_come_up_is_given_back(step, error):
    world = World({*step.ids} if step is AFTER else set())
    world.fails["ours: start x"] = error
    with pytest.raises(type(error)):
        move(world, step)
    assert world.asked[-2:] == ["ours: stop x", f"theirs: start {' '.join(step.ids)}"]
    assert world.running == {*step.ids}
    assert world.mover.troubles == []


def test_only_what_was_stopped_is_started_again():
    world = World({"0", "1"})
    world.fails["theirs: stop 0 1"] = ManagerFault("process 1 unknown")
    with pytest.raises(ManagerFault):
        move(world, AFTER)
    assert world.asked[-1] == "theirs: start 0"


def test_what_may_still_run_here_is_not_started_there():
    world = World({"0", "1"})
    world.fails["ours: start x"] = ControlError("no answer")
    with Interrupts() as interrupts:
        mover = Mover(world, ours := Ours(world), UNITS, interrupts)
        started = ours.start

        def start(name):
            world.fails["ours: stop x"] = ControlError("still no answer")
            started(name)

        ours.start = start
        with pytest.raises(ControlError, match=r"^no answer"):
            mover.move(AFTER)
    assert "theirs: start" not in " ".join(world.asked)
    assert [each.partition(";")[0] for each in mover.troubles] == [
        "still no answer",
        "it may still be running here, so it was not started under PM2",
    ]


def test_nothing_is_restored_that_was_never_stopped():
    world = World({"0", "1"})
    world.fails["ours: stop x"] = ControlError("no answer")
    with pytest.raises(ControlError):
        move(world, AFTER)
    assert world.asked == ["ours: stop x", "ours: stop x"]


def test_what_cannot_be_restored_is_said(monkeypatch):
    monkeypatch.setattr(moving, "BACK", 0.0)
    world = World({"0", "1"})
    world.fails |= {"ours: start x": NotMoved("it is FATAL"), "theirs: start 0 1": ManagerFault("PM2 is ill")}
    with pytest.raises(NotMoved):
        move(world, AFTER)
    assert world.mover.troubles == ["PM2 is ill"]


def test_the_first_signal_interrupts_and_the_next_does_not_keep_it_from_being_restored():
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
