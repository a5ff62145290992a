"""`plan` and `apply`: exactly what has changed is touched, and whatever is killed meanwhile, it is all of it or nothing."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import census
import pytest
from instance import Instance, pool, program, wait_for
from load import Load

from impetusd.client import control
from impetusd.core.config.location import locate

READY = f"command = {program('tell_ready', 'self')}\nwait_ready = yes\n"
TWO = f"[program:one]\n{READY}[program:two]\n{READY}"
GROUP = "[group:both]\nmembers = one, two\n"


def effects(instance: Instance) -> dict[str, str]:
    """What `plan` says, by section."""
    result = instance.run("plan", "--json", code=None)
    changes = json.loads(result.out)["changes"]
    assert result.code == (1 if changes else 0)
    return {f"{change['kind']}:{change['name']}": change["effect"] for change in changes}


def pids(instance: Instance) -> dict[str, int]:
    return instance.settle().pids


def test_nothing_has_changed(impetusd: Instance) -> None:
    impetusd.start(TWO)
    before = impetusd.status()
    assert impetusd.run("plan").out == "nothing to change: the INI file is already applied\n"
    assert impetusd.run("apply").out == "nothing to change: the INI file is already applied\n"
    assert (impetusd.status().pids, impetusd.status().supervisor) == (before.pids, before.supervisor)


def test_a_policy_key_restarts_nothing_and_is_in_force(ordinary: Instance) -> None:
    ordinary.start(TWO)
    before = pids(ordinary)
    ordinary.write(TWO + "autorestart = never\nmax_restarts = 3\nout_file = other.log\n")
    assert effects(ordinary) == {"program:two": "live"}
    assert "max_restarts: 16" in ordinary.run("plan", code=1).out
    ordinary.run("apply")
    assert pids(ordinary) == before
    assert effects(ordinary) == {}
    assert json.loads(ordinary.run("describe", "two", "--json").out)["units"][0]["spec"]["autorestart"] == "never"
    ordinary.kill(before["two"])
    ordinary.wait_state("two", "FATAL")


def test_one_changed_program_restarts_alone_once(impetusd: Instance) -> None:
    impetusd.start(GROUP + TWO)
    before = pids(impetusd)
    impetusd.write(GROUP + TWO + "[env:two]\nCOLOUR = red\n")
    assert effects(impetusd) == {"program:two": "restart"}
    out = impetusd.run("apply").out
    assert "COLOUR: (none)" in out
    assert "red" not in out
    after = impetusd.settle()
    assert after.pids["one"] == before["one"]
    assert after.pids["two"] != before["two"]
    assert [row.restarts for row in after.rows.values()] == [0, 0]
    impetusd.says(f"two:0: RUNNING (pid {after.pids['two']}")
    impetusd.says("two:0: STOPPING", 1)


def test_added_and_removed_units_scaled_ones_and_timers(impetusd: Instance) -> None:
    impetusd.start(f"{TWO}instances = 3\n[timer:old]\ncommand = true\nevery = 1d\n")
    before = pids(impetusd)
    text = f"[program:two]\n{READY}instances = 2\n[program:three]\n{READY}depends_on = two\n"
    impetusd.write(text + "[program:off]\ncommand = sleep 9\nautostart = no\n[timer:new]\ncommand = true\nevery = 1d\n")
    assert effects(impetusd) == {
        "program:two": "live",
        "program:three": "added",
        "program:off": "added",
        "timer:new": "added",
        "program:one": "removed",
        "timer:old": "removed",
    }
    impetusd.run("apply")
    status = impetusd.status()
    assert {name: row.state for name, row in status.rows.items()} == {
        "two:0": "RUNNING",
        "two:1": "RUNNING",
        "three": "RUNNING",
        "off": "STOPPED",
    }
    assert {name: status.pids[name] for name in ("two:0", "two:1")} == {n: before[n] for n in ("two:0", "two:1")}
    assert census.read(before["one"]) is None
    assert [row["name"] for row in json.loads(impetusd.run("timers", "--json").out)["timers"]] == ["new"]
    assert impetusd.run("status", "one", code=4).err.startswith("impetusd: no unit 'one'")
    impetusd.kill(status.supervisor)  # nothing of what is gone comes back
    wait_for(lambda: impetusd.status().supervisor != status.supervisor, "the next supervisor")
    assert impetusd.status().pids == status.pids


def test_what_the_operator_had_stopped_stays_stopped(impetusd: Instance) -> None:
    impetusd.start(TWO)
    impetusd.run("stop", "two")
    impetusd.write(TWO + "[env:two]\nA = b\n")
    impetusd.run("apply")
    assert impetusd.status()["two"].state == "STOPPED"


def test_switching_off_and_on_again(impetusd: Instance) -> None:
    impetusd.start(TWO)
    impetusd.write(TWO + "enabled = no\n")
    assert effects(impetusd) == {"program:two": "removed"}
    impetusd.run("apply")
    assert list(impetusd.status().rows) == ["one"]
    impetusd.write(TWO)
    impetusd.run("apply")
    assert impetusd.settle()["two"].state == "RUNNING"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        pytest.param(TWO + "kill_timeout = 10\n", 2, "impetusd.ini:7: kill_timeout = 10: a duration needs its unit", id="a problem"),
        pytest.param("[impetusd]\nstate_dir = elsewhere\n" + TWO, 1, "changing state_dir from", id="another place"),
        pytest.param(f"[program:one]\n{READY}[timer:two]\ncommand = true\nevery = 1d\n", 1, "two is a running program", id="another kind"),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_changes_nothing(impetusd: Instance, text: str, code: int, said: str) -> None:
    before = impetusd.start(TWO)
    impetusd.write(text)
    for command in ("plan", "apply"):
        assert said in impetusd.run(command, code=code).err
    after = impetusd.status()
    assert (after.pids, after.supervisor) == (before.pids, before.supervisor)
    impetusd.write(TWO)


def test_a_pool_gets_new_workers_without_losing_a_request(impetusd: Instance) -> None:
    port = impetusd.port()
    text = f"[pool:web]\n{pool(port)}"
    impetusd.start(text)
    before = pids(impetusd)
    with Load(port) as load:
        load.go_on(50)
        impetusd.write(text + "[env:web]\nA = b\n")
        assert effects(impetusd) == {"pool:web": "reload"}
        impetusd.run("apply")
        load.go_on(50)
    assert not set(before.values()) & set(pids(impetusd).values())


def test_sighup_applies_and_tells_what_is_wrong(impetusd: Instance) -> None:
    before = impetusd.start(TWO)
    impetusd.write(TWO + "kill_timeout = 10\n")
    impetusd.kill(before.shim, signal.SIGHUP)
    impetusd.says("a duration needs its unit")
    assert impetusd.status().pids == before.pids
    impetusd.write(f"[program:one]\n{READY}")
    impetusd.kill(before.shim, signal.SIGHUP)
    wait_for(lambda: list(impetusd.status().rows) == ["one"], "the other to go")
    assert impetusd.status().pids == {"one": before.pids["one"]}


def test_a_hundred_broken_files_touch_no_process(impetusd: Instance) -> None:
    before = impetusd.start(TWO)
    broken = ["[program:one\n", "[program:x]\ncomand = y\n", "[program:x]\ncommand = y\nuser = nosuchuser\n", "x = 1\n"]
    paths = locate("", str(impetusd.conf), {})
    for turn in range(100):
        impetusd.write(TWO + broken[turn % len(broken)])
        with pytest.raises(control.ControlError, match=f"{impetusd.conf}:") as refused:
            control.call(paths, "apply", {"token": f"{turn}"})
        assert refused.value.exit == 2
    assert f"{impetusd.conf}:" in impetusd.run("apply", code=2).err
    after = impetusd.status()
    assert (after.pids, after.supervisor) == (before.pids, before.supervisor)
    impetusd.write(TWO)


def test_disable_holds_over_apply_and_the_daemons_end_until_enable(impetusd: Instance) -> None:
    rest = "[timer:job]\ncommand = true\nevery = 1d\n[program:off]\ncommand = true\nenabled = no\n"
    before = impetusd.start(f"{TWO}{rest}")
    impetusd.write(f"{TWO}max_restarts = 3\n{rest}")
    assert "program:two" in impetusd.run("disable", "two", "job").out
    status = impetusd.status()
    assert status.pids == {"one": before.pids["one"]}
    assert effects(impetusd) == {}  # of two nothing can change, and the edited file was not applied by the way
    impetusd.run("apply")
    assert "two is disabled; run: impetusd enable two" in impetusd.run("status").out
    assert "two is disabled" in impetusd.run("start", "two", code=1).err
    assert "is disabled" in impetusd.run("trigger", "job", code=1).err
    impetusd.run("stop")
    impetusd.run("start")
    assert list(impetusd.status().rows) == ["one"]
    assert impetusd.run("disable", "two").out == "two: already disabled\n"
    impetusd.run("enable", "two", "job")
    assert set(impetusd.settle().pids) == {"one", "two"}
    impetusd.run("trigger", "job")
    assert "no unit, timer or group 'twoo'; did you mean two?" in impetusd.run("disable", "twoo", code=4).err
    kept = impetusd.run("enable", "off", code=1).err
    assert re.search(r"off stays disabled: .*:\d+ has enabled = no; remove that, then run: impetusd apply", kept)


def test_values_of_an_env_file_that_have_changed_are_a_change(impetusd: Instance) -> None:
    """The INI file is as it was; so are the processes of units that the file is not about."""
    values = impetusd.write("A=1\n", "web.env")
    before = impetusd.start(
        f"[program:a]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\nenv_file = {values}\n"
        f"[program:b]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n"
    )
    assert impetusd.run("plan").out.startswith("nothing to change")
    values.write_text("# a comment\nA=1\n")
    assert impetusd.run("plan").out.startswith("nothing to change")
    values.write_text("A=hush\n")
    told = impetusd.run("plan", code=1).out
    assert "! program:a  restart" in told
    assert "env_file: changed" in told
    assert "hush" not in told
    impetusd.kill(before.supervisor)
    impetusd.run("apply")
    after = impetusd.settle()
    assert after["a"].pid != before["a"].pid
    assert after["b"].pid == before["b"].pid
    assert b"A=hush" in Path(f"/proc/{after['a'].pid}/environ").read_bytes()
    assert impetusd.run("plan").out.startswith("nothing to change")


CHOOSY = """
import os
from aiohttp import web
with open("accepts") as file:
    assert os.environ["V"] in file.read().split(), f"V={os.environ['V']} is none that I know"

def make():
    return web.Application()
"""


def test_where_the_old_version_still_runs_is_told_until_it_is_replaced_and_apply_tries_again(
    impetusd: Instance,
) -> None:
    impetusd.write(CHOOSY, "choosy.py")
    impetusd.write("1", "accepts")
    web = pool(impetusd.port(), "choosy:make", cwd=impetusd.root, reload_watch="10ms")

    def text(v: int) -> str:
        return f"[pool:web]\n{web}max_restarts = {v}\n[program:one]\n{READY}[env:web]\nV = {v}\n"

    def pending() -> tuple[dict[str, str], bool]:
        told = json.loads(impetusd.run("status", "--json", code=None).out)
        return effects(impetusd), told["pending"]

    left = {"pool:web": "reload"}, True
    before = impetusd.start(text(1))
    impetusd.write(text(2))
    out = impetusd.run("apply", code=1).out
    assert "the old version keeps serving" in out
    assert impetusd.settle().pids == before.pids
    assert pending() == left
    plan = impetusd.run("plan", code=1).out
    assert "env V: changed" in plan
    assert "max_restarts" not in plan  # that is in force
    said = impetusd.run("status", code=None).out
    assert "Reload of web failed; the old version keeps serving: web:template:next: " in said
    assert "the INI file has changes that are not applied" in said
    # Whatever has been replaced since is not all of it: the old template forks the old version.
    impetusd.kill(impetusd.status()["web:0"].pid)
    impetusd.kill(impetusd.status().supervisor)
    impetusd.settle()
    assert pending() == left
    # It is tried again, and with other changes, too.
    impetusd.write(text(2) + "[env:one]\nA = 1\n")
    assert effects(impetusd) == {"pool:web": "reload", "program:one": "restart"}
    impetusd.run("apply", code=1)
    assert pending() == left
    assert "not applied" in impetusd.run("start").err
    # What is taken back is what runs.
    impetusd.write(text(1) + "[env:one]\nA = 1\n")
    assert effects(impetusd) == {"pool:web": "live"}
    impetusd.run("apply")
    assert pending() == ({}, False)
    assert impetusd.settle().pids["web:template"] == before.pids["web:template"]
    impetusd.write(text(2))
    impetusd.run("apply", code=1)
    impetusd.write("1 2", "accepts")
    impetusd.run("apply")
    assert pending() == ({}, False)
    assert not {*impetusd.settle().pids.values()} & {*before.pids.values()}
    # A reload by itself brings what is in force, as well.
    impetusd.write(text(3))
    impetusd.run("apply", code=1)
    impetusd.write("3", "accepts")
    assert "not applied" not in impetusd.run("reload", "web").err
    assert pending() == ({}, False)
    assert "not reloaded" not in impetusd.run("status").out
