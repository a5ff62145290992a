"""Where the chaos plays: a real impetusd under load, and the eyes on it.

A pool of two workers answers the client (`client.py`), a program prints numbered lines, another one just lives. What a
stimulus did is told by four witnesses that know nothing of impetusd's own account: the client's failures, the numbers in the
log file, the process table, and the descriptors in /proc.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import census
from freezing import Disk
from instance import PROGRAMS, Instance, Status, pool, program
from waiting import wait_for

from impetusd.client import control
from impetusd.core.config.location import Paths

CLIENTS = 20
SUPERVISOR, SHIM = "supervisor", "shim"


@dataclass
class Outcome:
    """What one stimulus, so many times, did."""

    name: str
    count: int = 0
    answered: int = 0
    failed: list[str] = field(default_factory=list)  # requests that were lost
    cut: int = 0  # requests that a killed worker had under way
    refused: int = 0  # connections while nobody was to answer, and those that ended for that
    slowest_ms: float = 0.0
    lost: int = 0  # log lines
    doubled: int = 0
    recovery_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # everything else that is not as it should be

    @property
    def passed(self) -> bool:
        return not (self.failed or self.lost or self.doubled or self.wrong)


class Stage:
    """An impetusd under load. `rate` is requests a second, `lines` log lines a second (a multiple of 100)."""

    def __init__(
        self, impetusd: Instance, seed: int, *, rate: int = 1000, lines: int = 2000, disk: Disk | None = None
    ) -> None:
        """`disk`: where a second program's numbered lines go; None where the host has none that can be frozen."""
        self.impetusd = impetusd
        self.disk = disk
        self.random = random.Random(seed)
        self._rate, self._lines = rate, lines
        self.port = impetusd.port()
        self.app = impetusd.root / "version.py"
        self.version(good=True)
        self.keys: dict[str, object] = {
            "cwd": impetusd.root,
            "max_restarts": 1_000_000,
            "min_uptime": "100ms",
            "reload_watch": "200ms",
            "drain_timeout": "8s",  # those with half a request have it yet, though they stand still for a while
            "watchdog": "20s",
        }

    def version(self, *, good: bool) -> None:
        """Put another version of the application on the disk."""
        text = (PROGRAMS / "app_hello.py").read_text()
        self.app.write_text(text if good else text + "import no_such_module\n")

    def __enter__(self) -> Self:
        always = "max_restarts = 1000000\nmin_uptime = 100ms\n"
        self.impetusd.write(
            f"[pool:web]\n{pool(self.port, 'version:make', **self.keys)}"
            f"[program:lines]\ncommand = {program('torrent', 'line', self._lines)}\n{always}"
            f"[program:still]\ncommand = sleep 100000\n{always}"
            + (
                f"[program:cold]\ncommand = {program('torrent', 'line', 100)}\nout_file = {self.disk.folder}/cold.log\n{always}"
                if self.disk
                else ""
            )
        )
        self.impetusd.run("start")
        root = self.impetusd.root
        self._paths = Paths(
            conf=str(self.impetusd.conf),
            base_dir=str(root),
            run_dir=f"{root}/var/run",
            state_dir=f"{root}/var/lib",
            log_dir=f"{root}/var/log",
        )
        self.before = self.impetusd.settle()
        self._held = self._descriptors(self.before)
        self._client = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("client.py"), *map(str, (self.port, self._rate, CLIENTS))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.answers(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.communicate()
        assert self._client.returncode == 0

    # Eyes.

    def seen(self) -> dict[str, Any]:
        """What the client has seen since this was asked before."""
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        print(file=self._client.stdin, flush=True)
        seen: dict[str, Any] = json.loads(self._client.stdout.readline())
        return seen

    def answers(self, count: int) -> None:
        """Wait until so many more requests have been answered, and leave what was seen meanwhile to nobody."""
        total = 0

        def enough() -> bool:
            nonlocal total
            total += self.seen()["answered"]
            return total >= count

        wait_for(enough, f"{count} answers")

    def processes(self) -> dict[str, int]:
        """The pids of the shim and of the supervisor that answers; waits for one while the daemon lives."""

        def asked() -> dict[str, int] | None:
            try:
                said = control.call(self._paths, "ping", {})
            except control.ControlError:  # for a moment nobody holds the state directory
                return None
            return {who: said[who]["pid"] for who in (SHIM, SUPERVISOR)}

        found: dict[str, int] = wait_for(asked, "somebody to answer")
        return found

    def supervisor(self) -> int:
        """The pid of the supervisor that answers."""
        return self.processes()[SUPERVISOR]

    def row(self, name: str) -> dict[str, Any]:
        """A slot, as the control socket tells it."""
        rows: list[dict[str, Any]] = control.call(self._paths, "status", {"names": [name]})["units"]
        return rows[0]

    def _descriptors(self, status: Status) -> dict[str, list[str]]:
        return {SHIM: census.descriptors(status.shim), SUPERVISOR: census.descriptors(status.supervisor)}

    def numbers(self, *, cold: bool = False) -> list[int]:
        """The numbered lines that are in the log file now; `cold`: in that on the disk that can be frozen."""
        text = self.disk.read("cold.log") if cold and self.disk else self.impetusd.log("lines-out.log")
        lines = text.rpartition("\n")[0].splitlines()  # the last one may be half written
        return [int(line.split()[1]) for line in lines if line.startswith("line ") and line.split()[1].isdigit()]

    # The play.

    def play(self, stimulus: Stimulus, count: int) -> Outcome:
        """Do it `count` times, look each time how long until all is well, and at the end whether anything was lost."""
        outcome = Outcome(stimulus.name)
        victims: set[int] = set()  # a kept connection may not be used again before the next one dies
        first = self.impetusd.settle()
        self.seen()
        for _ in range(count):
            began = time.monotonic()
            victims |= stimulus.act(self)
            outcome.recovery_ms.append((time.monotonic() - began) * 1e3)
            outcome.count += 1
            self._take(outcome, self._settled(outcome), victims, stimulus)
            if outcome.wrong:
                break
        after = self.impetusd.settle()
        self._take(outcome, self.seen(), victims, stimulus)
        others = {name for name in first.pids | after.pids if first.pids.get(name) != after.pids.get(name)}
        if not stimulus.replaces and others - stimulus.renews:
            outcome.wrong.append(f"other processes: {first.pids} before, {after.pids} after")
        self._count_lines(outcome)
        self._compare_descriptors(outcome, after)
        return outcome

    def _settled(self, outcome: Outcome) -> dict[str, Any]:
        """Some more requests, at a moment of chance, so that the next time meets another one."""
        time.sleep(self.random.uniform(0.0, 0.3))
        seen = self.seen()
        if not seen["answered"] and not seen["failed"]:
            try:
                wait_for(lambda: self.seen()["answered"], "an answer")
            except AssertionError as error:
                outcome.wrong.append(str(error))
        return seen

    @staticmethod
    def _take(outcome: Outcome, seen: dict[str, Any], victims: set[int], stimulus: Stimulus) -> None:
        outcome.answered += seen["answered"]
        outcome.slowest_ms = max(outcome.slowest_ms, seen["slowest_ms"])
        for each in seen["failed"]:
            # A new connection that a killed worker had accepted is reset; one that is refused, or waits for ever, is lost.
            accepted = each["pid"] is None and ("ConnectionReset" in each["why"] or "IncompleteRead" in each["why"])
            # A kept connection that is closed between two requests, which the next one crosses on its way (RFC 9112, 9.5).
            closed = each["kept"] and any(end in each["why"] for end in ("ConnectionReset", "IncompleteReadError('0 b"))
            if stimulus.refuses and (closed or "ConnectionRefused" in each["why"]):
                outcome.refused += 1
            elif victims and (each["pid"] in victims or accepted):
                outcome.cut += 1
            else:
                outcome.failed.append(f"{'kept' if each['kept'] else 'new'} connection: {each['why']}")

    def _count_lines(self, outcome: Outcome) -> None:
        for cold in (False, True) if self.disk else (False,):
            here = len(self.numbers(cold=cold))
            wait_for(lambda cold=cold, here=here: len(self.numbers(cold=cold)) > here, "more lines in the log")  # type: ignore[misc]
            numbers = self.numbers(cold=cold)
            outcome.doubled += len(numbers) - len(set(numbers))
            outcome.lost += numbers[-1] + 1 - len(set(numbers))
            if numbers != sorted(numbers):
                outcome.wrong.append("log lines out of order")

    def _compare_descriptors(self, outcome: Outcome, status: Status) -> None:
        def more() -> dict[str, list[str]]:
            now = self._descriptors(status)
            for held in now.values():  # a log file is opened once, with the first line for it
                held[:] = [each for each in held if "/var/log/" not in each or held.count(each) > 1]
                # The memory for beginnings of lines, and its mapping, which comes with the first of them.
                held[:] = [each for each in held if "/memfd:impetusd-lines" not in each or held.count(each) > 2]
            return {who: found for who in now if (found := census.difference(now[who], self._held[who]))}

        try:
            wait_for(lambda: not more(), "the descriptors to be as before")
        except AssertionError:
            outcome.wrong.append(f"descriptors that were not there before: {more()}")


@dataclass(frozen=True)
class Stimulus:
    """What is done to it. `act` returns once all is well again, with the pids that it killed though they served.

    `often`: how many times `scripts/chaos` does it, and `few`: the tests (0: it takes too long for them). Afterwards every process is the one from before, but for
    those of the slots in `renews`; or, if it `replaces` processes, any may be another. If it `refuses`, nobody listens for a while.
    If it `freezes`, it needs a disk for that.
    """

    name: str
    act: Callable[[Stage], set[int]]
    often: int
    few: int
    replaces: bool = False
    refuses: bool = False
    freezes: bool = False
    renews: frozenset[str] = frozenset()
