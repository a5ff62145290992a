"""A supervisor that ends by itself over a slot, again and again: that slot is held, and all others live as before."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import census
import pytest
from instance import Instance, program
from waiting import wait_for


@pytest.fixture
def faulty(impetusd: Instance) -> Instance:
    impetusd.command = [sys.executable, str(Path(__file__).with_name("faulty.py"))]
    return impetusd


def go_wrong(instance: Instance, **told: object) -> None:
    instance.write(json.dumps(told), "aside")
    (instance.root / "aside").rename(instance.root / "faulty")


def go_right(instance: Instance) -> None:
    (instance.root / "faulty").unlink()


def programs(*names: str) -> str:
    return "".join(f"[program:{name}]\ncommand = sleep 1000\nkill_timeout = 2s\nmin_uptime = 0\n" for name in names)


def test_a_slot_over_which_it_ends_twice_is_held_and_the_others_keep_their_processes(faulty: Instance) -> None:
    text = programs("exits", "hangs", "good")
    text += f"[program:faults]\ncommand = {program('family', 'setsid')}\nkill_timeout = 1s\nmin_uptime = 0\n"
    pids = faulty.start(text).pids
    for name, how in (("exits", "exit"), ("faults", "fault"), ("hangs", "hang")):
        go_wrong(faulty, how=how, slot=f"{name}:0", event="Start")
        result = faulty.run("start", name, code=1)  # what is asked again kills the next supervisor, too
        assert f"{name} is quarantined: impetusd's supervisor crashed twice within 60 s" in result.err
        assert f"run: impetusd stop {name}, then impetusd start {name}" in result.err
        status = faulty.status()
        assert status.pids == pids
        assert status[name].held["key"] == "quarantined"
        assert status[name].held["stage"] == "deciding on Start"
        assert status.fields["held"] is None
    assert faulty.run("status", code=1)
    why = " ".join(faulty.run("why", "faults").out.split())
    assert f"faults is quarantined: RUNNING, pid {pids['faults']}" in why
    assert "killed by SIGSEGV" in why
    assert "stop faults" in why
    assert "quarantined" in faulty.run("describe", "faults").out
    assert "quarantined" in faulty.run("events", "faults").out

    # What is not held goes on as always, also over somebody's SIGKILL of the supervisor, which counts against nobody.
    before = faulty.status().supervisor
    faulty.kill(before)
    faulty.wait_status(lambda status: status.supervisor != before)
    faulty.kill(pids["good"])
    status = faulty.wait_status(lambda status: status["good"].pid not in {None, pids["good"]})
    assert {name: pid for name, pid in status.pids.items() if name != "good"} == {
        name: pid for name, pid in pids.items() if name != "good"
    }
    assert status.fields["held"] is None

    child = int(wait_for(lambda: faulty.log("faults-out.log").partition("child ")[2], "its child's pid").split()[0])
    assert census.read(child) is not None
    faulty.run("stop", "faults")
    assert census.read(pids["faults"]) is None
    assert census.read(child) is None
    go_right(faulty)
    faulty.run("stop", "exits", "hangs")
    faulty.run("start")
    assert not any(row.held for row in faulty.status().rows.values())
    assert faulty.run("status")


def test_one_that_raises_outside_of_everything_ends_with_70_and_twice_has_everything_held(faulty: Instance) -> None:
    pids = faulty.start(programs("a", "b")).pids
    go_wrong(faulty, how="raise")
    before = faulty.status()
    faulty.kill(before.supervisor)  # which counts against nobody; the two after it do
    status = faulty.wait_status(lambda status: status.fields["held"] is not None)
    faulty.says("ended: exit 70; restarting it", 2)
    log = faulty.log()
    assert "RuntimeError: of nobody's" in log
    assert "Traceback" in log
    assert status.pids == pids
    assert status.fields["held"] == {
        **status.fields["held"],
        "key": "hold-only",
        "how": "exit 70",
        "stage": "",
    }

    told = faulty.run("status", code=1).out
    assert "nothing is started, restarted or recycled; run: impetusd upgrade" in told
    why = faulty.run("why").out
    assert "hold-only mode" in why
    assert "upgrade" in why
    faulty.kill(pids["a"], signal.SIGTERM)
    faulty.wait_status(lambda status: status["a"].pid is None)
    assert "hold-only mode" in faulty.run("start", "a", code=1).err
    assert "hold-only mode" in faulty.run("restart", code=1).err
    assert "killed by SIGTERM" in faulty.run("events", "a").out
    assert faulty.run("logs", "a").code == 0
    faulty.run("stop", "b")
    assert census.read(pids["b"]) is None

    go_right(faulty)
    faulty.run("upgrade")
    status = faulty.wait_status(lambda status: status["a"].state == "RUNNING")
    assert status.fields["held"] is None
    assert status["b"].state == "STOPPED"
    faulty.run("start", "b")
    faulty.settle()


def test_without_any_supervisor_stop_ends_everything_in_the_time_that_each_process_has(faulty: Instance) -> None:
    deaf = f"[program:deaf]\ncommand = {program('ignore_term')}\nkill_timeout = 500ms\nmin_uptime = 0\n"
    status = faulty.start(programs("a", "b") + deaf)
    go_wrong(faulty, starts=False)
    faulty.kill(status.supervisor)
    wait_for(lambda: faulty.log().count("restarting it") > 3, "failures")
    told = faulty.run("stop", env={"FAULTY_PATIENCE": "1"}).out
    assert "stopped; impetusd is not running (it did not answer and was sent SIGTERM" in told
    wait_for(lambda: not faulty.members(), "the end of everything")
