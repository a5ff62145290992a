"""What a program is started with: exactly what the INI says, and nothing of whoever started the daemon."""

from __future__ import annotations

import json
import os
import pwd
import resource
import shutil
import sys
from typing import Any

import pytest
from instance import Instance, program

GIVEN = {"INVOCATION_ID", "IMPETUSD_DAEMON", "IMPETUSD_UNIT", "IMPETUSD_NAME", "INSTANCE", "NOTIFY_SOCKET"}


def seen(
    instance: Instance, keys: str = "", *, more: str = "", python: str = sys.executable, **how: Any
) -> dict[str, Any]:
    """Start a program with these keys; what it saw."""
    folder = instance.root / "seen"
    folder.mkdir()
    folder.chmod(0o777)
    command = program("show_surroundings", folder / "p").replace(sys.executable, python, 1)
    instance.write(f"[program:p]\ncommand = {command}\nwait_ready = yes\n{keys}\n{more}\n")
    instance.root.chmod(0o755)
    instance.run("start", **how)
    found: dict[str, Any] = json.loads((folder / "p").read_text(encoding="utf-8"))
    return found


def assert_exact(fds: dict[str, str]) -> None:
    """stdin, its log pipes, and their other ends: with those it outlives all of impetusd without SIGPIPE."""
    assert fds.keys() == {"0", "1", "2", "3", "4"}
    assert fds["0"] == "/dev/null"
    assert (fds["3"], fds["4"]) == (fds["1"], fds["2"])
    assert fds["1"].startswith("pipe:")


def test_nothing_of_the_callers_environment_leaks(anyone: Instance) -> None:
    found = seen(
        anyone, env={"SECRET": "1", "PYTHONPATH": "/tmp", "LD_DEBUG": "", "IFS": "x", "LANG": "C.UTF-8", "TERM": "vt52"}
    )
    env = found["env"]
    assert set(env) == GIVEN | {"PATH", "HOME", "TMPDIR", "LANG"}
    assert env["PATH"].split(":")[1:] == anyone.environ["PATH"].split(":")
    assert (env["IMPETUSD_UNIT"], env["IMPETUSD_NAME"], env["INSTANCE"]) == ("p", "p:0", "0")
    assert_exact(found["fds"])
    assert set(found["masks"].values()) == {"0000000000000000"} or found["masks"]["SigIgn"].endswith("1000")
    assert found["session"] is True
    assert (found["umask"], found["nice"], found["cwd"]) == (0o022, 0, str(anyone.root))


def test_environment_files_and_sections_and_who_wins(impetusd: Instance) -> None:
    impetusd.write("# a comment\nexport A=file\nB='quoted words'\nC=file\n\nHOME=/nowhere\n", "one.env")
    impetusd.write("C=second\nD=d=e\n", "two.env")
    found = seen(
        impetusd,
        "env_file = one.env, two.env",
        more="[env:p]\nA = section\nF = a;b % $${x}\nPATH = /only/here\nTZ = UTC\n",
    )
    env = found["env"]
    assert {name: env[name] for name in "ABCDF"} == {
        "A": "section", "B": "quoted words", "C": "second", "D": "d=e", "F": "a;b % ${x}",
    }  # fmt: skip
    assert (env["HOME"], env["PATH"], env["TZ"]) == ("/nowhere", "/only/here", "UTC")
    assert env["IMPETUSD_NAME"] == "p:0"


def test_an_environment_file_is_read_anew_at_each_start(impetusd: Instance) -> None:
    impetusd.write("WORD=one\n", "p.env")
    assert seen(impetusd, "env_file = p.env")["env"]["WORD"] == "one"
    impetusd.write("WORD=two\n", "p.env")
    impetusd.run("restart", "p")
    assert json.loads((impetusd.root / "seen" / "p").read_text())["env"]["WORD"] == "two"


def test_an_environment_file_that_is_missing_is_told_by_its_name(impetusd: Instance) -> None:
    told = impetusd.write(GOOD_WITH_FILE)
    failed = impetusd.run("start", code=None)
    assert failed.code != 0
    assert "missing.env" in failed.out + failed.err
    assert told.exists()
    impetusd.write("A=1\n", "missing.env")
    impetusd.run("start")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs programs of others")
def test_root_does_not_go_by_an_environment_file_that_others_may_write(impetusd: Instance) -> None:
    impetusd.write(GOOD_WITH_FILE)
    file = impetusd.write("A=1\n", "missing.env")
    file.chmod(0o666)
    failed = impetusd.run("start", code=1)
    assert f"reading env_file {file} failed: every user can write it" in failed.out + failed.err
    file.chmod(0o600)
    impetusd.run("start")


GOOD_WITH_FILE = f"""[program:p]
command = {program("tell_ready", "self")}
wait_ready = yes
env_file = missing.env
max_restarts = 0
"""


def test_limits_priority_mask_and_folder(impetusd: Instance) -> None:
    below = impetusd.root / "a folder"
    below.mkdir()
    found = seen(
        impetusd,
        f"umask = 027\nnice = 5\noom_score_adj = 300\ncwd = a folder\nrlimits = nofile=100:200, core=0\n"
        f"cpu_affinity = {min(os.sched_getaffinity(0))}",
    )
    assert (found["umask"], found["nice"], found["oom_score_adj"]) == (0o027, 5, 300)
    assert found["cwd"] == str(below)
    assert (found["nofile"], found["core"]) == ([100, 200], [0, 0])
    assert found["affinity"] == [min(os.sched_getaffinity(0))]


def test_without_limits_a_program_gets_those_of_the_daemons_start(impetusd: Instance) -> None:
    """The daemon raises its own number of descriptors; that is not for its children (select() breaks above 1024)."""
    found = seen(impetusd)
    assert tuple(found["nofile"]) == resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/proc/self/oom_score_adj", encoding="ascii") as file:
        assert found["oom_score_adj"] == int(file.read())


def test_a_limit_that_cannot_be_had_is_told(ordinary: Instance) -> None:
    ordinary.write(
        f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\nnice = -5\nmax_restarts = 0\n"
    )
    failed = ordinary.run("start", code=None)
    assert failed.code != 0
    assert "nice" in failed.out + failed.err


def test_a_folder_that_is_not_there_is_told(impetusd: Instance) -> None:
    impetusd.write(f"[program:p]\ncommand = {program('tell_ready', 'self')}\ncwd = nowhere\nmax_restarts = 0\n")
    failed = impetusd.run("start", code=None)
    assert failed.code != 0
    assert f"{impetusd.root}/nowhere" in failed.out + failed.err


def test_another_user_has_exactly_its_rights(impetusd: Instance, python_of_nobody: str) -> None:
    person = pwd.getpwnam("nobody")
    found = seen(impetusd, "user = nobody", python=python_of_nobody)
    assert (found["uid"], found["gid"]) == ([person.pw_uid] * 3, [person.pw_gid] * 3)
    assert found["groups"] == sorted(set(os.getgrouplist("nobody", person.pw_gid)))
    assert set(found["caps"].values()) == {"0000000000000000"}
    assert found["no_new_privs"] == "1"
    env = found["env"]
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == (person.pw_dir, "nobody", "nobody")
    assert_exact(found["fds"])


def test_another_group_and_a_user_by_number(impetusd: Instance, python_of_nobody: str) -> None:
    found = seen(impetusd, f"user = {pwd.getpwnam('nobody').pw_uid}\ngroup = daemon", python=python_of_nobody)
    assert found["uid"] == [pwd.getpwnam("nobody").pw_uid] * 3
    assert found["gid"] == [1, 1, 1]
    assert 0 not in found["groups"]


def test_a_program_of_another_user_is_supervised_like_any_other(impetusd: Instance, python_of_nobody: str) -> None:
    seen(impetusd, "user = nobody\nmin_uptime = 0", python=python_of_nobody)
    before = impetusd.settle()
    impetusd.kill(before["p"].pid)
    impetusd.settle(lambda now: now["p"].restarts == 1)
    impetusd.run("stop", "p")
    assert impetusd.status()["p"].last_exit["signal"] == "SIGTERM"


@pytest.mark.usefixtures("as_root")
def test_a_user_who_may_not_enter_the_folder_is_told_and_nothing_runs_half_privileged(impetusd: Instance) -> None:
    impetusd.write(
        f"[program:p]\ncommand = {program('show_surroundings', impetusd.root / 'no')}\nuser = nobody\nmax_restarts = 0\n"
    )
    impetusd.root.chmod(0o700)
    failed = impetusd.run("start", code=None)
    assert failed.code != 0
    assert not (impetusd.root / "no").exists()


def test_an_ordinary_user_is_refused_another_one_in_a_sentence(ordinary: Instance) -> None:
    ordinary.write(f"[program:p]\ncommand = {program('tell_ready', 'self')}\nuser = root\ngroup = root\n")
    refused = ordinary.run("start", code=2)
    lines = [line for line in refused.err.splitlines() if line.startswith(f"{ordinary.conf}:")]
    assert len(lines) == 2
    assert all("root" in line for line in lines)
    assert ordinary.members() == []


@pytest.mark.usefixtures("as_root")
def test_a_user_that_does_not_exist_is_refused(impetusd: Instance) -> None:
    impetusd.write(
        "[program:p]\ncommand = sleep 1000\nuser = no-such-user\n[program:q]\ncommand = sleep 1\ngroup = no-such-group\n"
    )
    for command in ("start", "run"):
        refused = impetusd.run(command, code=2)
        assert "no-such-user" in refused.err
        assert "no-such-group" in refused.err
    warned = impetusd.run("check", "--host", code=1)
    assert "no-such-user" in warned.err


def test_the_command_is_found_in_path_and_its_words_are_kept(impetusd: Instance) -> None:
    folder = impetusd.root / "bin"
    folder.mkdir()
    (folder / "own-tool").write_text("#!/bin/sh\nprintf '[%s]' \"$@\"\n")
    (folder / "own-tool").chmod(0o755)
    impetusd.write(
        "[program:p]\ncommand = own-tool 'two words' \"\" $$HOME a%b ; and a comment\nautorestart = never\n"
        f"[env:p]\nPATH = {folder}:/usr/bin:/bin\n"
    )
    impetusd.run("start")
    impetusd.run("stop")
    assert impetusd.log("p-out.log") == "[two words][][$HOME][a%b]"
    assert shutil.which("own-tool") is None
