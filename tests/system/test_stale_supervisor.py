"""A supervisor that is stopped while its shim is killed holds the lock and the sockets, and decides nothing: it is evicted."""

from __future__ import annotations

import os
import signal
import subprocess

import census
from instance import Instance, Status, wait_for

ONE = "[program:p]\ncommand = sleep 300\n"


def stale(impetusd: Instance) -> Status:
    """What was there before its supervisor was stopped and its shim killed."""
    before = impetusd.settle()
    impetusd.kill(before.supervisor, signal.SIGSTOP)
    wait_for(lambda: stopped(before.supervisor), "the supervisor to stop")
    impetusd.kill(before.shim)
    wait_for(lambda: (shim := census.read(before.shim)) is None or shim.zombie, "the shim to be dead")
    return before


def stopped(pid: int) -> bool:
    process = census.read(pid)
    return process is not None and process.state == "T"


def test_start_and_run_take_over_what_it_has_left_and_stop_ends_it(impetusd: Instance) -> None:
    impetusd.start(ONE)
    before = stale(impetusd)
    impetusd.run("start")
    after = impetusd.settle()
    assert after.pids == before.pids
    assert {after.shim, after.supervisor}.isdisjoint({before.shim, before.supervisor})

    stale(impetusd)
    daemon = impetusd.popen("run", stdout=subprocess.DEVNULL)
    wait_for(lambda: impetusd.run("status", code=None).code in {0, 1}, "it to be up")
    assert impetusd.settle().pids == before.pids
    impetusd.run("stop")
    impetusd.finish(daemon)

    impetusd.run("start")
    stale(impetusd)
    assert "; stopped 1 process that it had started\n" in impetusd.run("stop").out
    assert not impetusd.members()

    impetusd.run("start")
    stale(impetusd)
    assert "stopped 1 process: " in impetusd.run("reap-leftovers").out
    assert not impetusd.members()


def test_a_supervisor_that_is_about_to_take_over_is_left_alone(impetusd: Instance) -> None:
    """It lets go of nothing: its pids, and those of the programs, are the same."""
    before = impetusd.start(ONE)
    impetusd.kill(before.shim)
    impetusd.run("start")
    after = impetusd.settle()
    assert after.shim == before.supervisor
    assert after.pids == before.pids
    assert os.path.exists(f"/proc/{before.supervisor}")
