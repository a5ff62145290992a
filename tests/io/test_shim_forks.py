"""A shim that is killed in the instant in which a worker is forked: nobody would know the worker, so it never begins."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

import pytest
from shim_harness import CGROUPS, Shim, read, state
from taken_over import configuration, row, slot, taken_over
from test_shim_tree import fork, template
from waiting import wait_for

from impetusd.core.rules.lifecycle import State
from impetusd.linux import proc
from impetusd.shim import leftovers, table
from impetusd.supervisor.start.channels import Channels

DIES = """
import os
act = {where}
def dies(self):
    if shims[0].state.forked:
        os.kill(os.getpid(), 9)
    act(self)
{where} = dies
"""
MOMENTS = {
    "asked": "",
    "answered": DIES.format(where="main.Shim.write_down"),
    "written down": DIES.format(where="forks.Forks.open_gates"),
}


def others(shim, life):
    """Who is left of a life, reaping the dead as init does."""
    found = [pid for pid in proc.snapshot() if proc.variable(pid, leftovers.MARK) == life]
    for pid in proc.children():
        if state(pid) == "Z" and pid != shim.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return found


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("cgroups", [True, False], ids=["cgroups", "no cgroups"])
def test_a_worker_that_nobody_will_know_never_begins(moment, cgroups):
    if cgroups and not CGROUPS:
        pytest.skip("no writable cgroup")
    with Shim(setup=MOMENTS[moment], cgroups=cgroups) as shim:
        via, _ = template(shim)
        shim.echo()
        life = table.read(shim.paths["run_dir"], shim.paths["state_dir"])["life"]
        process, out = fork(shim, via, DO="late" if moment == "asked" else "fork")
        if moment == "asked":
            wait_for(
                lambda: str(process) in table.read(shim.paths["run_dir"], shim.paths["state_dir"])["children"], "it"
            )
            shim.process.kill()
        shim.process.wait(30)
        shim.supervisor.kill()
        wait_for(lambda: not others(shim, life), lambda: f"the end of {others(shim, life)}")
        told = {row["process"]: row for row in shim.succeed().hello["table"]}
        assert told[process]["ended"]["unknown"]
        assert not told[process]["left"]
        shim.say({"op": "drop", "name": f"worker:{process}"})
        assert read(out, "the end of what it writes") == b""


def test_one_that_still_waits_when_the_next_shim_comes_is_said_to_have_ended_with_its_shim():
    """By its exit alone it would be a failed start."""
    with Shim(setup=MOMENTS["written down"]) as shim:
        via, _ = template(shim)
        shim.echo()
        process, _ = fork(shim, via, DO="frozen")
        shim.process.wait(30)
        shim.supervisor.kill()
        (row,) = (row for row in shim.succeed().hello["table"] if row["process"] == process)
        os.kill(row["pid"], signal.SIGCONT)
        assert shim.wait("exited", process)["unknown"]


def test_it_ends_too_when_its_template_dies_before_it_has_answered():
    with Shim() as shim:
        via, _ = template(shim)
        process, out = fork(shim, via, DO="unanswered")
        assert shim.wait("exited", process)["error"] == "its template process exited"
        shim.wait("exited", via)
        shim.say({"op": "drop", "name": f"worker:{process}"})
        assert read(out, "the end of what it writes") == b""


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_to_the_supervisor_it_is_no_failed_start_and_what_is_left_of_it_goes_before_the_next(
    paths, known, left, monkeypatch
):
    """`known`: its pid had been told, and its end is heard after the take-over."""
    end = {"unknown": True, "at": 1.0}
    monkeypatch.setattr(Channels, "reaches", lambda *_: True)  # it held its channel itself

    async def scenario():
        blobs = {
            "slot:web:template": slot(1, started=1.0),
            "slot:web:0": slot(2, State.STARTING),
            "unit:web": '{"instances":1,"generation":1}',
        }
        text = "[pool:web]\napp = a:b\nlisten = unix:web.sock\ninstances = 1\nstandby = 0\n"
        started = {**row(2, None if known else end), "left": left and not known}
        async with taken_over(paths, configuration(text), None, blobs, [row(1), started]) as (daemon, link):
            if known:
                daemon.engine.rounds.receive([{"event": "exited", "process": 2, "left": left, **end}])
            entry = daemon.engine.slots.entries["web:0"]
            if known and left:
                daemon.engine.rounds.receive([{"event": "gone", "process": 2}])
            assert (entry.slot.state, entry.slot.failures, entry.slot.restarts) == (State.STARTING, 0, 0)
            ops = [(op["op"], op.get("number")) for op in link.ops if op["op"] in {"signal", "fork"}]
            assert [name for name, _ in ops].count("fork") == 1
            assert ops[-1][0] == "fork"
            assert not left or ops[0][0] == "signal"

    asyncio.run(scenario())
