"""An exit's way through the supervisor, from the event loop to the message that asks for the next process: counted by a profile.

`pytest -n0 -s tests/io/test_exit_path.py` prints the files, and how often each is entered from others.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from types import FrameType
from typing import Any

from supervisor_world import Life, in_a_folder

import impetusd
from impetusd.core.rules import lifecycle
from impetusd.supervisor.slots.machine import Machine
from impetusd.supervisor.slots.reports import Reports
from impetusd.supervisor.slots.starts import Starts
from impetusd.supervisor.start.link import Link
from impetusd.supervisor.start.outbox import Outbox
from impetusd.supervisor.start.starter import Starter

OURS = f"{os.path.dirname(impetusd.__file__)}/"
# Each of these is what the way consists of.
STEPS = (Reports.hear, Machine.handle, lifecycle.step, Starts.begin, Starter.launch, Outbox.flush)
FILES = 35  # of impetusd, at most: 34 are passed now; fewer are better
# Who hears of the change when the message is on its way, and not before.
LATER = ("api/commands", "api/rows", "rules/memory", "rules/checks", "rules/ageing", "rules/readiness", "upstream")
PROGRAM = "[impetusd]\n[program:web]\ncommand = sleep 1000\nmin_uptime = 0\n"


class Path:
    """What is called while the supervisor reads from the shim: files, and how often each is entered from others."""

    def __init__(self) -> None:
        self.passes: Counter[str] = Counter()
        self.calls = 0
        self.steps: list[str] = []
        self._stack: list[str] = []
        self._sent = False

    def look(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call":
            reads = code is Link._readable.__code__
            if not self._sent and (reads or self._stack):
                self._enter(code.co_filename)
                self.steps += [step.__qualname__ for step in STEPS if step.__code__ is code]
            self._sent = self._sent or (code is Link.send.__code__ and _asks_for_a_process(frame.f_locals["ops"]))
        elif event == "return" and self._stack:
            self._stack.pop()

    def _enter(self, filename: str) -> None:
        file = filename.removeprefix(OURS) if filename.startswith(OURS) else ""
        if file:
            self.calls += 1
            self.passes[file] += file not in self._stack
        self._stack.append(file)


def _asks_for_a_process(ops: list[dict[str, Any]]) -> bool:
    return any(op["op"] == "spawn" for op in ops)


def walked() -> Path:
    """One program is killed, and started again."""
    path = Path()

    async def scenario(life: Life) -> None:
        await life.ask("start")
        before = (await life.until_state("RUNNING"))["web"]["pid"]
        sys.setprofile(path.look)
        try:
            life.shim.kill("web:0")
            await life.until(lambda rows: rows["web"]["state"] == "RUNNING" and rows["web"]["pid"] != before)
        finally:
            sys.setprofile(None)

    with in_a_folder(PROGRAM) as shim:
        shim.live(scenario)
    return path


def test_an_exit_passes_each_step_once_and_nobody_else_keeps_it_waiting() -> None:
    path = walked()
    for file, count in sorted(path.passes.items()):
        print(f"{count:3} {file}")
    print(f"{len(path.passes)} files, {path.calls} calls")
    assert path.steps == [step.__qualname__ for step in STEPS]
    assert not {f"supervisor/{name}.py" for name in LATER} & set(path.passes)
    assert len(path.passes) <= FILES, sorted(path.passes)
