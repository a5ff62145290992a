"""`kill -9` of the supervisor between any two messages to the shim: each decision is carried out as a whole, or not at all.

What the supervisor does between two messages leaves no trace but in memory. So these are all the points there are.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, pool, program, wait_for
from load import Load

from impetusd.client import control
from impetusd.core import protocol
from impetusd.core.config.location import locate

READY = f"command = {program('tell_ready', 'self')}\nwait_ready = yes\n"
LEDGER = "put:ledger:"  # of a message with nothing else the death before it is that before the next
DROP = "drop:"  # and so it is, to whoever comes after the shim, with one that only lets go of descriptors
NEVER = 1_000_000
EVERY = int(os.environ.get("IMPETUSD_KILL_EVERY", "0"))  # 1: at each message, wherever only some are chosen


@pytest.fixture
def mortal(impetusd: Instance) -> Instance:
    impetusd.command = [sys.executable, str(Path(__file__).with_name("mortal.py"))]
    return impetusd


def ask(instance: Instance, method: str, **params: object) -> str:
    """One question of a client that does not ask again when nobody answers. Returns the answer, if there is one."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(instance.control_socket))
        sock.sendall(protocol.request_line(1, method, params))
        with sock.makefile("rb") as answers, contextlib.suppress(ConnectionError):
            return next((line.decode() for line in answers if b'"progress"' not in line), "")
    return ""


def points(
    instance: Instance,
    act: Callable[[], object],
    *,
    at_least: int,
    at_most: int = 100,
    every: int = 1,
    who: str = "supervisor",
) -> Iterator[str]:
    """Have `act` done once undisturbed, then with a death of `who` at each of the messages that this took, or with
    `every` at each so manieth: yields which.

    `act` returns when nothing more comes of it. `who`: see `mortal`.
    """
    told, at = instance.root / "mortal", instance.root / "mortal.at"

    def act_until(number: int) -> None:
        told.write_text("", encoding="utf-8")
        at.write_text(f"{number} {who}", encoding="utf-8")
        act()
        at.unlink(missing_ok=True)  # it is still there if there were fewer this time

    act_until(NEVER)
    messages = told.read_text(encoding="utf-8").splitlines()
    light = LEDGER if who == "supervisor" else (LEDGER, DROP)
    weighty = {n: text for n, text in enumerate(messages) if not all(op.startswith(light) for op in text.split())}
    assert len(weighty) >= at_least, messages
    yield "undisturbed"
    for number, message in [*weighty.items()][: at_most : EVERY or every]:
        act_until(number)
        yield f"{who} killed at message {number} of {len(messages)}, {message}"


def call(instance: Instance, method: str, **params: object) -> dict[str, Any]:
    """One question of a client that asks again: the command line's own, without its start."""
    return control.call(locate("", str(instance.conf), {}), method, params)


def states(instance: Instance) -> dict[str, str]:
    """By slot; {} while no daemon answers."""
    try:
        return {row["name"]: row["state"] for row in call(instance, "status", names=[])["units"]}
    except control.ControlError:
        return {}


def timer(instance: Instance) -> dict[str, Any]:
    """The only timer."""
    (row,) = call(instance, "timers")["timers"]
    return dict(row)


def test_the_run_of_a_timer_is_recorded_once(mortal: Instance) -> None:
    mortal.start("[timer:job]\ncommand = true\nevery = 1d\n")
    last = ""

    def act() -> None:
        ask(mortal, "trigger", name="job", wait=True)
        wait_for(lambda: timer(mortal)["state"] == "waiting", "the end of the run")

    for point in points(mortal, act, at_least=4):
        call(mortal, "trigger", name="job", wait=True)  # whatever is to be recorded is, before this one
        found = [run for run in timer(mortal)["runs"] if run["at"] > last]
        assert {(run["why"], run["result"]) for run in found} == {("trigger", "exit 0")}, point
        # Killed before the first message, nothing has become of the command.
        assert len(found) == 2 or (len(found) == 1 and "message 0 " in point), (point, found)
        last = found[0]["at"]


def test_what_an_operator_stopped_stays_stopped_whenever_the_next_daemons_first_supervisor_dies(
    mortal: Instance,
) -> None:
    mortal.start(f"[program:one]\n{READY}[program:two]\n{READY}[timer:job]\ncommand = true\nevery = 1d\n")
    call(mortal, "trigger", name="job", wait=True)
    mortal.run("stop", "two")
    mortal.run("stop")
    daemon: subprocess.Popen[str]

    def act() -> None:
        nonlocal daemon
        daemon = mortal.popen("run")  # as a boot does it: of its own accord it starts what is not stopped
        wait_for(lambda: states(mortal).get("one") == "RUNNING", "one to run")

    for point in points(mortal, act, at_least=4, at_most=2):
        os.kill(call(mortal, "ping")["supervisor"]["pid"], signal.SIGKILL)  # what only its memory had is gone
        assert states(mortal) == {"one": "RUNNING", "two": "STOPPED"}, point
        assert len(timer(mortal)["runs"]) == 1, point
        mortal.run("stop")
        mortal.finish(daemon)
        saved = json.loads((mortal.root / "var" / "lib" / "state.json").read_text(encoding="utf-8"))
        assert saved["slots"]["two:0"]["stopped"], point


def test_an_apply_is_all_of_it_or_nothing(mortal: Instance) -> None:
    names = ("two", "three")
    texts = [f"[program:one]\n{READY}[program:{name}]\n{READY}[env:one]\nA = {name}\n" for name in names]
    now = before = mortal.start(texts[0])

    def act() -> None:
        nonlocal before, now
        before = now
        mortal.write(texts["two" in before.rows])
        ask(mortal, "apply")
        # What is in force, and still replaces `one`, has a change of that alone.
        kept = any(change["name"] in names for change in call(mortal, "plan")["changes"])
        now = mortal.settle(lambda now: (set(now.rows) == set(before.rows)) is kept)

    for point in points(mortal, act, at_least=4, every=3):
        if set(now.rows) == set(before.rows):
            assert now.pids == before.pids, point
            assert "message 0 " in point, point  # any later one finds the new configuration in force
        else:
            assert now.pids["one"] != before.pids["one"], point
        assert {row.restarts for row in now.rows.values()} == {0}, point


def test_a_reload_is_done_once(mortal: Instance) -> None:
    listen = f"listen = 127.0.0.1:{mortal.port()}\nreload_watch = 10ms\n"
    before = mortal.start(f"[program:p]\ncommand = {program('answer_pid')}\nwait_ready = yes\n{listen}")
    after = before
    token = 0

    def act() -> None:
        nonlocal after, token
        token += 1
        told = call(mortal, "reload", names=["p"], token=str(token))  # asks the next supervisor again
        assert told["ok"], told
        after = mortal.settle(lambda now: set(now.rows) == {"p"})

    for point in points(mortal, act, at_least=6, every=2):
        assert after.pids["p"] != before.pids["p"], point
        assert (after["p"].generation, after["p"].restarts) == (before["p"].generation + 1, 0), point
        before = after


def test_a_reload_of_a_pool_is_done_once_and_no_request_is_lost(mortal: Instance) -> None:
    """Template, worker, the one that takes its place and the one that leaves: of one version afterwards, and none twice."""
    port = mortal.port()
    before = mortal.start(f"[pool:web]\n{pool(port, instances=1, standby=0, reload_watch='10ms')}")
    names, after, token = set(before.rows), before, 0

    def act() -> None:
        nonlocal after, token
        token += 1
        told = call(mortal, "reload", names=["web"], token=str(token))
        assert told["ok"], told
        after = mortal.settle(lambda now: set(now.rows) == names)

    with Load(port, kept=1, fresh=1) as load:
        for point in points(mortal, act, at_least=8, every=3):
            assert not set(after.pids.values()) & set(before.pids.values()), point
            assert {(row.generation, row.restarts) for row in after.rows.values()} == {
                (before["web:0"].generation + 1, 0)
            }, point
            left = {process.pid for process in mortal.members()} - {*after.pids.values(), after.shim, after.supervisor}
            wait_for(lambda left=left: not any(os.path.exists(f"/proc/{pid}") for pid in left), point)  # type: ignore[misc]
            load.go_on(5)
            before = after
