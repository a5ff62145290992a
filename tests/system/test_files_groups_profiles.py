"""A configuration of several files, groups and profiles, on a real impetusd."""

from __future__ import annotations

import json
import os
from pathlib import Path

from instance import Instance, program, wait_for

READY = f"command = {program('tell_ready', 'self')}\nwait_ready = yes\n"
THREE = f"[program:one]\n{READY}[program:two]\n{READY}[program:three]\n{READY}"
GROUP = "[group:pair]\nmembers = one, two\n"


def running(instance: Instance) -> set[str]:
    return {name for name, row in instance.status().rows.items() if row.state == "RUNNING"}


def test_a_group_stands_for_its_members_in_every_command(impetusd: Instance) -> None:
    impetusd.start(THREE + GROUP)
    before = impetusd.settle().pids
    assert "stopped: one, two" in impetusd.run("stop", "pair").out
    assert running(impetusd) == {"three"}
    assert {row["name"] for row in json.loads(impetusd.run("status", "--json", "pair", code=None).out)["units"]} == {
        "one",
        "two",
    }
    impetusd.run("start", "pair")
    assert running(impetusd) == {"one", "two", "three"}
    second = impetusd.status().pids
    impetusd.run("restart", "pair")
    third = impetusd.status().pids
    assert [before["three"], third["one"] != second["one"], third["two"] != second["two"]] == [
        third["three"],
        True,
        True,
    ]
    out = impetusd.run("describe", "pair").out
    assert out.startswith(f"pair (group), configured in {impetusd.conf}:10\n  members     one, two\n")
    assert "three" not in out
    assert "disabled" not in impetusd.run("logs", "pair").err
    assert "pair is a group; scale its members" in impetusd.run("scale", "pair", "2", code=2).err
    impetusd.run("disable", "pair")
    assert running(impetusd) == {"three"}
    assert "pair is disabled" in impetusd.run("start", "pair", code=1).err
    impetusd.run("enable", "pair")
    assert running(impetusd) == {"one", "two", "three"}
    assert "did you mean pair?" in impetusd.run("stop", "pairr", code=4).err
    assert impetusd.status().pids["three"] == before["three"]


def test_a_groups_change_touches_no_process(impetusd: Instance) -> None:
    before = impetusd.start(THREE + GROUP)
    impetusd.write(THREE + GROUP.replace("one, ", "three, "))
    assert "members: one, two" in impetusd.run("plan", code=1).out
    impetusd.run("apply")
    assert impetusd.status().pids == before.pids
    impetusd.run("stop", "pair")
    assert running(impetusd) == {"one"}
    impetusd.run("stop")
    impetusd.run("start", "pair")  # its name is known where no daemon runs, too
    assert running(impetusd) == {"two", "three"}


def test_what_is_included_is_kept_with_the_rest(ordinary: Instance) -> None:
    (ordinary.root / "conf.d").mkdir()
    ordinary.write(f"[program:two]\n{READY}", "conf.d/two.ini")
    before = ordinary.start(f"[include]\nfiles = conf.d/*.ini\n[program:one]\n{READY}")
    assert set(before.pids) == {"one", "two"}
    ordinary.write("[program:two]\ncomand = x\n", "conf.d/two.ini")
    for command in ("check", "plan", "apply"):
        result = ordinary.run(command, code=2)
        assert f"{ordinary.root}/conf.d/two.ini:2: unknown key 'comand' in [program:two]" in result.out + result.err
    ordinary.kill(before.supervisor)  # what is in force does not depend on the disk
    wait_for(lambda: ordinary.status().supervisor != before.supervisor, "the next supervisor")
    assert ordinary.status().pids == before.pids
    ordinary.write(f"[program:three]\n{READY}", "conf.d/two.ini")
    ordinary.run("apply")
    assert set(ordinary.settle().pids) == {"one", "three"}


def test_root_does_not_go_by_what_others_may_write(impetusd: Instance, as_root: None) -> None:
    (impetusd.root / "conf.d").mkdir()
    more = impetusd.write(f"[program:two]\n{READY}", "conf.d/two.ini")
    before = impetusd.start(f"[include]\nfiles = conf.d/*.ini\n[program:one]\n{READY}")
    told = f"{more}:1: every user can write it, but impetusd runs the commands in this file as root; run: chmod go-w {more}"
    more.chmod(0o646)
    for command in ("plan", "apply", "start"):
        assert told in impetusd.run(command, code=2).err
    assert told in impetusd.run("check", code=2).out
    more.chmod(0o644)
    os.chown(more, 12345, 12345)
    assert "it belongs to user" in impetusd.run("apply", code=2).err
    os.chown(more, 0, 0)
    impetusd.conf.chmod(0o666)
    assert f"{impetusd.conf}:1: every user can write it" in impetusd.run("apply", code=2).err
    impetusd.conf.chmod(0o644)
    os.chown(impetusd.conf, 12345, 12345)
    assert f"run: chown root {impetusd.conf}" in impetusd.run("apply", code=2).err
    os.chown(impetusd.conf, 0, 0)
    impetusd.root.chmod(0o777)
    for command in ("apply", "check", "start"):
        result = impetusd.run(command, code=2)
        assert f"every user can write to the folder {impetusd.root}, but impetusd runs" in result.out + result.err
    impetusd.root.chmod(0o700)
    impetusd.run("apply")
    assert impetusd.status().pids == before.pids


def test_a_profile_is_planned_kept_and_shown(impetusd: Instance) -> None:
    text = f"{THREE}[env:one@production]\nSIZE = large\n[env:two@staging]\nSIZE = small\n"
    impetusd.write(text)
    impetusd.run("start", "--env", "production")
    before = impetusd.settle()

    def sees(name: str) -> str:
        text = Path(f"/proc/{impetusd.status().pids[name]}/environ").read_text(encoding="utf-8")
        environ = (line.partition("=") for line in text.split("\0"))
        return {key: value for key, _, value in environ}.get("SIZE", "")

    assert (sees("one"), sees("two")) == ("large", "")
    assert impetusd.run("status").out.endswith("\nprofile production\n")
    assert "profile production" in impetusd.run("describe", "one").out
    impetusd.run("apply")
    assert impetusd.status().pids == before.pids  # without --env it is the one in force
    assert "apply --env staging" in impetusd.run("start", "--env", "staging", code=1).err
    out = impetusd.run("plan", "--env", "staging", code=1).out
    assert "profile: production" in out
    assert out.endswith("apply --env staging\n")
    impetusd.run("apply", env={**impetusd.environ, "IMPETUSD_ENV": "staging"})
    after = impetusd.settle()
    assert (sees("one"), sees("two")) == ("", "small")
    assert after.pids["three"] == before.pids["three"]
    assert "no section uses the profile prod" in impetusd.run("apply", "--env", "prod", code=2).err
    impetusd.run("stop")
    impetusd.run("start")  # over the daemon's end, too
    assert (sees("one"), sees("two")) == ("", "small")
    impetusd.run("apply", "--env", "")
    assert (sees("one"), sees("two")) == ("", "")
    assert "profile" not in impetusd.run("status").out
