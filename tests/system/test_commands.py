"""restart, scale, signal, describe: what they do, to whom, and what they say of it."""

from __future__ import annotations

import json
import os

import pytest
from instance import Instance, pool, program, wait_for

import impetusd as package

MANY = f"""
[program:many]
command = {program("note_signals")}
wait_ready = yes
instances = 3
[program:single]
command = {program("note_signals")}
wait_ready = yes
"""


def test_restart_gives_new_processes_to_those_that_are_named(impetusd: Instance) -> None:
    before = impetusd.start(MANY)
    impetusd.run("restart", "many:1", "single")
    after = impetusd.settle()
    changed = {name for name in before.rows if before[name].pid != after[name].pid}
    assert changed == {"many:1", "single"}
    assert {row.restarts for row in after.rows.values()} == {0}  # they were asked for
    impetusd.run("restart", "many*")
    again = impetusd.settle()
    assert {name for name in before.rows if again[name].pid != after[name].pid} == {"many:0", "many:1", "many:2"}
    impetusd.run("restart")
    last = impetusd.settle()
    assert not set(last.pids.values()) & set(again.pids.values())
    assert last.shim == before.shim


def test_restart_starts_what_does_not_run_the_daemon_included(impetusd: Instance) -> None:
    impetusd.write(MANY)
    impetusd.run("restart")
    impetusd.settle()
    impetusd.run("stop", "single")
    impetusd.run("restart", "single")
    impetusd.settle()


def test_restart_that_does_not_come_up_says_why(impetusd: Instance) -> None:
    told = impetusd.root / "told"
    impetusd.start(f"[program:p]\ncommand = {program('exit_as_told', told)}\nwait_ready = yes\nmax_restarts = 0\n")
    told.write_text("8")
    failed = impetusd.run("restart", "p", code=1)
    assert "p is FATAL: exit 8" in failed.out


def test_scale_of_a_program(impetusd: Instance) -> None:
    before = impetusd.start(MANY)
    impetusd.run("scale", "many", 5)
    up = impetusd.settle()
    assert [name for name in up.rows if name.startswith("many")] == [f"many:{number}" for number in range(5)]
    impetusd.run("scale", "many", 2)
    down = impetusd.settle()
    assert down.pids == {name: before[name].pid for name in ("many:0", "many:1", "single")}
    impetusd.run("scale", "many", 2)
    assert impetusd.settle().pids == down.pids
    impetusd.run("scale", "many", 1)
    assert list(impetusd.settle().rows) == ["many", "single"]


def test_what_cannot_be_scaled_is_said(impetusd: Instance) -> None:
    impetusd.start(MANY)
    assert "scale many instead" in impetusd.run("scale", "many:1", 3, code=2).err
    assert "stop it" in impetusd.run("scale", "many", 0, code=2).err
    impetusd.run("scale", "may", 3, code=4)
    impetusd.run("scale", "many", "lots", code=2)
    impetusd.run("stop")
    impetusd.run("scale", "many", 3, code=3)


def test_instances_of_all_processors_and_of_all_but_one(impetusd: Instance) -> None:
    keys = "command = sleep 300\nmin_uptime = 0\n"
    impetusd.start(f"[program:all]\n{keys}instances = max\n[program:rest]\n{keys}instances = -1\n")
    units = [row.unit for row in impetusd.settle().rows.values()]
    cpus = len(os.sched_getaffinity(0))
    assert (units.count("all"), units.count("rest")) == (cpus, max(1, cpus - 1))


@pytest.mark.parametrize("word", ["HUP", "sighup", "1"])
def test_signal_reaches_the_main_processes_of_those_named(impetusd: Instance, word: str) -> None:
    before = impetusd.start(MANY)
    impetusd.run("signal", word, "many:0", "single")
    for name in ("many-0-out.log", "single-out.log"):
        wait_for(lambda name=name: impetusd.log(name) == "SIGHUP\n", f"SIGHUP in {name}")
    impetusd.run("signal", "USR1", "many")
    for name, told in (("many-0-out.log", "SIGHUP\nSIGUSR1\n"), ("many-1-out.log", "SIGUSR1\n")):
        wait_for(lambda name=name, told=told: impetusd.log(name) == told, f"SIGUSR1 in {name}")
    assert impetusd.settle().pids == before.pids


def test_what_cannot_be_signalled_is_said(impetusd: Instance) -> None:
    impetusd.start(MANY)
    impetusd.run("signal", "NONE", "many", code=2)
    assert "did you mean many?" in impetusd.run("signal", "HUP", "mny", code=4).err
    impetusd.run("stop", "single")
    assert "no process is running in single" in impetusd.run("signal", "HUP", "single", code=1).err
    impetusd.run("stop")
    impetusd.run("signal", "HUP", "many", code=3)


def test_describe_tells_everything_about_a_unit_or_a_slot(impetusd: Instance) -> None:
    port = impetusd.port()
    status = impetusd.start(f"[pool:web]\n{pool(port, env_file='web.env')}\n[env:web]\nTOKEN = secret\n{MANY}".replace(
        "env_file = web.env\n", ""))  # fmt: skip
    page = impetusd.run("describe", "many:1").out
    assert str(status["many:1"].pid) in page
    assert "many:0" not in page
    assert f"{impetusd.conf}:" in page
    assert "many-1-out.log" in page
    impetusd.kill(status["single"].pid)
    impetusd.settle(lambda now: now["single"].restarts == 1)
    row = json.loads(impetusd.run("describe", "--json", "single").out)["units"][0]
    assert len(row["history"]) == 1
    assert row["log_files"]["out"] == str(impetusd.root / "var" / "log" / "single-out.log")
    assert row["spec"]["wait_ready"] in {"yes", True}
    whole = impetusd.run("describe", "web").out
    for name in ("web:template", "web:0", "web:1", "web:standby"):
        assert name in whole
    assert "secret" not in whole
    impetusd.run("describe", "wbe", code=4)
    impetusd.run("stop")
    impetusd.run("describe", "web", code=3)


def test_globs_name_slots_of_several_units(impetusd: Instance) -> None:
    impetusd.start(MANY)
    impetusd.run("stop", "*:[02]", "s*")
    assert {name: row.state for name, row in impetusd.status().rows.items()} == {
        "many:0": "STOPPED", "many:1": "RUNNING", "many:2": "STOPPED", "single": "STOPPED",
    }  # fmt: skip
    impetusd.run("stop", "none*", code=4)
    assert impetusd.status()["many:1"].state == "RUNNING"


def test_one_unknown_name_among_known_ones_changes_nothing(impetusd: Instance) -> None:
    before = impetusd.start(MANY)
    for command in ("stop", "restart", "start"):
        impetusd.run(command, "single", "nobody", code=4)
    assert impetusd.settle().pids == before.pids


def test_every_command_explains_itself(impetusd: Instance) -> None:
    impetusd.write(MANY)
    for command in (
        "start",
        "stop",
        "restart",
        "status",
        "describe",
        "logs",
        "scale",
        "signal",
        "run",
        "check",
        "init",
        "version",
    ):
        assert "Usage:" in impetusd.run(command, "--help").out
    assert impetusd.members() == []


def test_version_is_told_without_a_configuration(impetusd: Instance) -> None:
    assert package.__version__ in impetusd.run("version").out
