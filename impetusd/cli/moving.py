"""Moving units from another manager to impetusd, one after another, as the plan of a take-over says; and back, if one fails."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import typing

from impetusd.cli.screen import table
from impetusd.cli.screen.progress import Live
from impetusd.cli.screen.terminal import screen_of
from impetusd.client import control
from impetusd.client.control import ControlError
from impetusd.core import protocol
from impetusd.interop.takeover import plan, sockets
from impetusd.interop.takeover.manager import ManagerFault, Was
from impetusd.interop.takeover.plan import How, Step
from impetusd.interop.takeover.share import Share
from impetusd.linux import proc

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType
    from typing import Any, Self

    from impetusd.cli.place import Place
    from impetusd.core.config.model import Unit
    from impetusd.interop.takeover.manager import Manager

LOOK_AGAIN = 0.1  # seconds
QUIET = 0.5  # seconds without an open connection, after which theirs is stopped
ANSWERED = 5.0  # seconds at most for that: a kept connection may stay open for ever
GONE = 15.0  # seconds from the old manager's word that it has stopped something to the end of it
BACK = 30.0  # seconds for a unit that is restored, or that is just being started or stopped


class NotMoved(Exception):
    """Why a unit could not be moved, a sentence."""


class Interrupts:
    """A context: the first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt; none does after `hold`."""

    def __init__(self) -> None:
        self._held = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def hold(self) -> None:
        """What is under way goes on to its end."""
        self._held = True

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        if not self._held:
            self._held = True
            raise KeyboardInterrupt


class Ours:
    """The units here, by the control socket. Its methods raise ControlError."""

    def __init__(self, at: Place) -> None:
        self._at = at

    def rows(self, names: Iterable[str]) -> list[Mapping[str, Any]]:
        """Those of `status`."""
        found: list[Mapping[str, Any]] = control.call(self._at.paths, "status", {"names": list(names)})["units"]
        return found

    def running(self, names: Iterable[str]) -> tuple[set[str], set[str]]:
        """Of which of these units something runs, or is to; and which are all up."""
        rows = self.rows(names)
        down = {row["unit"] for row in rows if row["state"] != "RUNNING"}
        return {row["unit"] for row in rows if row["state"] not in protocol.IDLE}, {row["unit"] for row in rows} - down

    def pids(self, name: str) -> list[int]:
        """The processes of a unit that is up. Raises NotMoved if it is not."""
        rows = self.rows([name])
        if not protocol.all_as_wanted(rows):
            raise NotMoved(_why(rows))
        return [row["pid"] for row in rows if row["pid"] is not None]

    def start(self, name: str) -> None:
        """Start it, and wait until it is ready. Raises NotMoved if it does not come up."""
        with Live(f"starting {name}") as live:
            answer = control.call(self._at.paths, "start", {"names": [name], "wait": True}, live.hooks)
        rows = [row for row in answer["units"] if row["unit"] == name]
        if not answer["ok"]:
            screen = screen_of(sys.stderr, os.environ)
            print("\n".join(table.below(rows, screen, self._at.command, tails=table.ALL)), file=sys.stderr)
            raise NotMoved(_why(rows))

    def stop(self, names: Iterable[str]) -> None:
        """Stop them, and keep them stopped until they are started by name; their sockets are closed."""
        names = list(names)
        if not names:  # which would mean everything
            return
        with Live("stopping") as live:
            control.call(self._at.paths, "stop", {"names": names}, live.hooks)
        for name in names:
            control.call(self._at.paths, "give-socket", {"name": name})

    def give(self, name: str, fd: int) -> None:
        """A listening socket for its next start."""
        control.call(self._at.paths, "give-socket", {"name": name, "fd": fd})


def _why(rows: Iterable[Mapping[str, Any]]) -> str:
    down = [row for row in rows if row["state"] != "RUNNING"]
    said = [f"{row['name']} is {row['state']}" + (f" ({row['reason']})" if row["reason"] else "") for row in down]
    return "; ".join(said) or "it was stopped in the meantime"


class Mover:
    """Moves units of `manager`. `troubles`: what went wrong while one was restored, each a sentence."""

    def __init__(self, manager: Manager, ours: Ours, units: Mapping[str, Unit], interrupts: Interrupts) -> None:
        self._manager = manager
        self._ours = ours
        self._units = units
        self._interrupts = interrupts
        self._touched = False  # whether theirs was, or is being, stopped
        self._down = True  # whether nothing of ours runs
        self.troubles: list[str] = []

    def move(self, step: Step) -> str:
        """Move one unit; returns what an operator may want to know of it. Whatever is raised, it was restored first.

        Raises NotMoved, ControlError, ManagerFault, OSError, KeyboardInterrupt.
        """
        undo = contextlib.ExitStack()
        self._touched, self._down = step.how is How.RESUME, True
        try:
            undo.callback(self._attempt, self._bring_back, step)
            undo.callback(self._attempt, self._stop_ours, step)
            self._begin(step)
            if step.how is How.BESIDE:
                said = self._beside(step, undo)
            else:
                if step.how is How.AFTER:
                    self._stop_theirs(step)
                self._ours.start(step.unit)
                self._require_ports(step)
                said = ""
        except BaseException:
            self._interrupts.hold()
            undo.close()
            raise
        return said

    def _begin(self, step: Step) -> None:
        """Ours has nothing yet: neither a process nor a socket of a take-over that was interrupted."""
        if step.again:
            for each in step.shares:
                with contextlib.suppress(OSError):  # it shares nothing
                    _to_theirs(each)
        self._stop_ours(step)

    def _stop_ours(self, step: Step) -> None:
        self._down = False
        self._ours.stop([step.unit])
        self._down = True

    def _beside(self, step: Step, undo: contextlib.ExitStack) -> str:
        shares = []
        for each in step.shares:
            share = Share(each.pid, each.number)
            undo.callback(share.close, undone=True)
            undo.callback(self._attempt, self._stop_ours, step)
            share.open()
            self._ours.give(step.unit, share.ours.fileno())
            shares.append(share)
        self._ours.start(step.unit)
        pids = self._ours.pids(step.unit)
        for share in shares:
            undo.callback(self._attempt, share.to_theirs)
            share.to_ours()
        left = self._answered(step)
        if self._ours.pids(step.unit) != pids:
            raise NotMoved("it was restarted right after it came up; see impetusd why")
        self._stop_theirs(step)
        if self._ours.pids(step.unit) != pids:
            raise NotMoved("it was restarted right after the old one had stopped; see impetusd why")
        for share in shares:
            share.close(undone=False)
        kept = f"; {left} keep-alive connection{'s were' if left > 1 else ' was'} still open when the old process was stopped"
        return kept if left else ""

    def _answered(self, step: Step) -> int:
        """Wait until the old processes have answered what they have; how many connections are left."""
        ports = {each.port for each in step.shares}
        deadline = time.monotonic() + ANSWERED
        quiet = time.monotonic()
        while True:
            left = sockets.unanswered(self._theirs(step), ports)
            now = time.monotonic()
            quiet = now if left else quiet
            if now - quiet >= QUIET or now > deadline:
                return left
            time.sleep(LOOK_AGAIN)

    def _theirs(self, step: Step) -> list[int]:
        """The processes that its connections may be in."""
        pids = sockets.tree(each.pid for each in step.theirs)
        return [*pids, self._manager.pid] if any(each.shared for each in step.theirs) else pids

    def _stop_theirs(self, step: Step) -> None:
        found = [proc.read(each.pid) for each in step.theirs if each.pid]
        who = [(member.pid, member.started) for member in found if member is not None]
        self._touched = True
        self._manager.stop(step.ids)
        ports = () if step.how is How.BESIDE else step.ports
        until(
            lambda: not any(map(proc.lives, who)) and not sockets.listened_on(ports),
            GONE,
            lambda: f"{self._manager.title} reports it as stopped, but it is still running: {_left(who, ports)}",
        )

    def _require_ports(self, step: Step) -> None:
        """Ours must listen where the old one did."""
        unit = self._units[step.unit]
        words = (*unit.command, *unit.env.values(), *map(str, unit.listen))
        ports = plan.required(step.ports, words, sockets.chosen_by_the_kernel())
        if not ports:
            return
        missing: set[int] = set()

        def listens() -> bool:
            missing.clear()
            missing.update(ports - sockets.ports(sockets.tree(self._ours.pids(step.unit))))
            return not missing

        until(
            listens,
            unit.listen_timeout,
            lambda: (
                f"it did not listen on port {', '.join(map(str, sorted(missing)))} within {unit.listen_timeout:g} s,"
                f" although it did under {self._manager.title}"
            ),
        )

    # Undoing.

    def _attempt(self, act: Callable[..., None], *arguments: Any) -> None:
        """What fails does not keep the rest from being undone."""
        try:
            act(*arguments)
        except (ControlError, ManagerFault, NotMoved, OSError) as error:
            self.troubles.append(str(error))

    def _bring_back(self, step: Step) -> None:
        """The old manager runs it again, if it had begun to stop it. Raises ManagerFault, NotMoved."""
        if not self._touched:
            return
        by_hand = self._manager.by_hand(step.ids)
        if not self._down:
            raise NotMoved(
                f"it may still be running here, so it was not started under {self._manager.title}; if it is not"
                f" running, run: {by_hand}"
            )
        by_id: dict[str, Was] = {}

        def settled() -> bool:
            by_id.update({each.id: each.was for each in self._manager.processes() if each.id in step.ids})
            return Was.UNSETTLED not in by_id.values()

        def runs() -> bool:
            return settled() and all(by_id.get(each) is Was.RUNNING for each in step.ids)

        def listens() -> bool:
            there = [each.pid for each in self._manager.processes() if each.id in step.ids]
            holders = [*there, self._manager.pid] if any(each.shared for each in step.theirs) else there
            return set(step.ports) <= sockets.ports(sockets.tree(holders))

        until(
            settled,
            BACK,
            lambda: f"{step.unit} does not stay up under {self._manager.title}; fix it, then run: {by_hand}",
        )
        if down := [each for each in step.ids if by_id.get(each) is not Was.RUNNING]:
            self._manager.start(down)
        until(runs, BACK, lambda: f"{step.unit} was not started again under {self._manager.title}; run: {by_hand}")
        if step.how is not How.RESUME:  # where it listened is not known of that
            until(
                listens,
                BACK,
                lambda: f"{step.unit} is running under {self._manager.title} again, but is not listening yet",
            )


def _to_theirs(where: sockets.Socket) -> None:
    share = Share(where.pid, where.number)
    try:
        share.to_theirs()
    finally:
        share.let_go()


def until(holds: Callable[[], bool], seconds: float, said: Callable[[], str]) -> None:
    """Look again and again. Raises NotMoved with what is `said`."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise NotMoved(said())
        time.sleep(LOOK_AGAIN)


def _left(who: Iterable[tuple[int, int]], ports: Iterable[int]) -> str:
    found = [f"process {each[0]} is still running" for each in who if proc.lives(each)]
    return ", ".join([*found, *(f"port {each} is in use" for each in sorted(sockets.listened_on(ports)))])
