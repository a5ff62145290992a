"""An exit's path through the supervisor, from the event loop to the message that asks for the next process: counted by a
profile.

`pytest -n0 -s tests/io/test_exit_path.py` prints the files in the order in which they are entered, and how often each is.
A file is entered when it is called and none of its own calls is under way. Nothing is on the path but what the start needs:
the ledger's record, log lines, timers and whoever is to know of the change come after the message.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from types import FrameType
from typing import Any
from unittest.mock import patch

from supervisor_world import Life, in_a_folder
from waiting import until

import impetusd
from impetusd.core.rules import lifecycle
from impetusd.supervisor.observers import Publisher
from impetusd.supervisor.slots.machine import Machine
from impetusd.supervisor.slots.reports import Reports
from impetusd.supervisor.slots.starts import Starts
from impetusd.supervisor.start.link import Link, Outbox
from impetusd.supervisor.start.starter import Starter

OURS = f"{os.path.dirname(impetusd.__file__)}/"
# Each of these is what the way consists of.
STEPS = (Reports.hear, Machine.handle, lifecycle.step, Starts.begin, Starter.launch, Outbox.flush)
FILES = 15  # of impetusd, at most, and each once
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


def test_an_exit_passes_each_file_once_and_nobody_else_keeps_it_waiting() -> None:
    path = walked()
    for file, count in path.passes.items():
        print(f"{count:3} {file}")
    print(f"{len(path.passes)} files, {path.calls} calls")
    assert path.steps == [step.__qualname__ for step in STEPS]
    assert len(path.passes) <= FILES, list(path.passes)
    assert set(path.passes.values()) == {1}, path.passes


async def records(life: Life, kind: str) -> list[dict[str, Any]]:
    page = await life.ask("events", names=["web"], last=100)
    return [record for record in page["records"] if record["kind"] == kind]


def held_after(messages: list[list[dict[str, Any]]], key: str) -> dict[str, str]:
    """What the shim holds after the first message that has `key`."""
    blobs: dict[str, str | None] = {}
    for ops in messages:
        blobs.update({op["key"]: op["blob"] for op in ops if op["op"] == "put"})
        if key in blobs:
            break
    return {name: text for name, text in blobs.items() if text is not None}


def test_a_successor_makes_the_record_that_a_killed_supervisor_still_owed() -> None:
    """The message that replaces a process is sent, and the supervisor ends before the record of its end follows."""

    async def killed(life: Life) -> None:
        await life.ask("start")
        before = (await life.until_state("RUNNING"))["web"]["pid"]
        with patch.multiple(Publisher, pay=lambda _: [], _pay=lambda *_: None):
            life.shim.kill("web:0")
            await life.until(lambda rows: rows["web"]["state"] == "RUNNING" and rows["web"]["pid"] != before)
        assert not await records(life, "exit")
        life.shim.blobs = held_after(life.shim.messages, "owed:web:0")

    async def taken_over(life: Life) -> None:
        (end,) = await records(life, "exit")
        assert (end["signal"], end["state"], end["decided"]["key"]) == ("SIGKILL", "STARTING", "retried")
        assert (await life.rows())["web"]["restarts"] == 1

    with in_a_folder(PROGRAM) as shim:
        shim.live(killed)
        shim.live(taken_over)
        assert "owed:web:0" not in shim.blobs


def test_the_last_words_of_a_process_that_is_replaced_at_once_are_recorded() -> None:
    async def scenario(life: Life) -> None:
        await life.ask("start")
        await life.until_state("RUNNING")
        (writer,) = [fd for name, fd in life.shim.kept.items() if name.startswith("log:") and name.endswith(":err:w")]
        os.write(writer, b"no space left on the moon\n")
        life.shim.kill("web:0")

        async def words() -> list[dict[str, Any]]:
            return await records(life, "stderr")

        await until(words, "the last words")
        assert [record["lines"] for record in await words()] == [["no space left on the moon"]]

    with in_a_folder(PROGRAM) as shim:
        shim.live(scenario)
