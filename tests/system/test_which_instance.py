"""Which daemon is meant: two files never reach each other's, and a link that is switched never makes two of one."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import census
from instance import Instance, Status, program, wait_for

READY = f"command = {program('tell_ready', 'self')}\nwait_ready = yes\n"


def status(instance: Instance, conf: Path) -> Status:
    return Status(json.loads(instance.run("-c", conf, "status", "--json").out))


def shims(instance: Instance) -> list[census.Process]:
    return [each for each in instance.members() if "shim/__main__.py" in each.command]


def start_as_before(instance: Instance, conf: Path) -> None:
    """Start a daemon where former versions had it, without looking at anything, as these did."""
    code = (
        "import os, sys; from impetusd.client import control, launch; from impetusd.core.config.location import locate\n"
        "conf = sys.argv[1]; paths = locate(open(conf).read(), conf, os.environ, former=True)\n"
        "launch.ensure_running(paths); control.call(paths, 'start', {'names': [], 'wait': True})\n"
    )
    subprocess.run([sys.executable, "-c", code, str(conf)], env=instance.environ, cwd="/", check=True, timeout=45)


def test_two_files_in_a_folder_are_two_instances(impetusd: Instance) -> None:
    api, worker = (impetusd.write(f"[program:{name}]\n{READY}", f"{name}.ini") for name in ("api", "worker"))
    for conf in (api, worker):
        impetusd.run("-c", conf, "start")
    before = status(impetusd, api)
    assert set(before.pids) == {"api"}
    assert set(status(impetusd, worker).pids) == {"worker"}
    assert impetusd.run("-c", worker, "plan").out.startswith("nothing to change")
    impetusd.run("-c", worker, "stop")
    assert status(impetusd, api).pids == before.pids
    impetusd.run("-c", worker, "status", code=3)
    impetusd.run("-c", api, "stop")


def test_a_daemon_in_the_folders_of_another_file_is_left_alone(impetusd: Instance) -> None:
    """Also while only its programs live: what a killed one has left is its own file's."""
    dirs = "[impetusd]\nrun_dir = var/run\nstate_dir = var/lib\nlog_dir = var/log\n"
    before = impetusd.start(f"{dirs}[program:api]\n{READY}")
    other = impetusd.write(f"{dirs}[program:worker]\n{READY}", "worker.ini")
    for command in (["stop"], ["start"], ["plan"], ["apply"], ["restart"], ["status"], ["logs"], ["run"], ["why"]):
        refused = impetusd.run("-c", other, *command, code=2)
        assert str(impetusd.conf) in refused.err
        assert str(other) in refused.err
    assert impetusd.settle().pids == before.pids
    for pid in (before.supervisor, before.shim):
        impetusd.kill(pid, signal.SIGSTOP)  # neither starts the other again
    for pid in (before.shim, before.supervisor):
        impetusd.kill(pid)
    wait_for(lambda: not shims(impetusd), "the end of the shim")
    for command in (["stop"], ["start"], ["reap-leftovers"], ["run"], ["events"]):
        assert str(impetusd.conf) in impetusd.run("-c", other, *command, code=2).err
    assert impetusd.start().pids == before.pids


def test_the_same_file_by_other_names(impetusd: Instance) -> None:
    before = impetusd.start(f"[program:p]\n{READY}")
    text = impetusd.conf.read_text()
    impetusd.write(f"{text}# edited\n", "new").rename(impetusd.conf)
    assert impetusd.status().pids == before.pids
    folder = impetusd.root / "link"
    folder.symlink_to(impetusd.root)
    assert status(impetusd, folder / "impetusd.ini").pids == before.pids
    elsewhere = impetusd.root / "etc"
    elsewhere.mkdir()
    (elsewhere / "impetusd.ini").symlink_to(impetusd.conf)
    # By that name it would live elsewhere, and everything would run twice.
    refused = impetusd.run("-c", elsewhere / "impetusd.ini", "start", code=2)
    assert str(impetusd.conf) in refused.err
    assert impetusd.settle().pids == before.pids


def test_a_file_that_was_moved_is_gone_by(impetusd: Instance) -> None:
    """With `apply`, and by no other file while the one until now is there."""
    text = f"[impetusd]\nrun_dir = r\nstate_dir = s\nlog_dir = l\n[program:p]\n{READY}"
    before = impetusd.start(text)
    moved = impetusd.write(f"{text}[program:q]\n{READY}", "moved.ini")
    impetusd.run("-c", moved, "apply", code=2)
    impetusd.conf.unlink()
    impetusd.run("-c", moved, "status", code=2)
    assert f"now uses {moved}" in impetusd.run("-c", moved, "apply").out
    after = status(impetusd, moved)
    assert after["p"].pid == before["p"].pid
    assert after["q"].state == "RUNNING"
    impetusd.kill(after.supervisor)
    assert impetusd.run("-c", moved, "plan").out.startswith("nothing to change")
    impetusd.run("-c", moved, "stop")


class TestReleases:
    """current -> releases/1, which has the INI file; then another is switched to."""

    @staticmethod
    def made(instance: Instance, text: str) -> Path:
        for release in ("1", "2"):
            (instance.root / "releases" / release).mkdir(parents=True)
            (instance.root / "releases" / release / "impetusd.ini").write_text(text)
        (instance.root / "current").symlink_to("releases/1")
        return instance.root / "current" / "impetusd.ini"

    @staticmethod
    def switch(instance: Instance) -> None:
        (instance.root / "next").symlink_to("releases/2")
        os.rename(instance.root / "next", instance.root / "current")

    def test_folders_in_the_release_are_refused(self, impetusd: Instance) -> None:
        conf = self.made(impetusd, f"[program:p]\n{READY}")
        for command in (["start"], ["run"], ["restart"], ["check"]):
            refused = impetusd.run("-c", conf, *command, code=2)
            assert f"state_dir = {impetusd.root}/var/lib" in refused.out + refused.err
        by_shell = {"PWD": str(conf.parent)}
        impetusd.run("-c", "impetusd.ini", "start", code=2, cwd=conf.parent, env=by_shell)
        assert impetusd.members() == []
        assert not list(impetusd.root.glob("releases/*/var"))

    def test_folders_outside_of_it_are_as_ever(self, impetusd: Instance) -> None:
        dirs = "".join(f"{key} = {impetusd.root}/var/{key}\n" for key in ("run_dir", "state_dir", "log_dir"))
        conf = self.made(impetusd, f"[impetusd]\n{dirs}[program:p]\n{READY}")
        impetusd.run("-c", conf, "start")
        before = status(impetusd, conf)
        self.switch(impetusd)
        impetusd.run("-c", conf, "start")
        assert status(impetusd, conf).pids == before.pids
        impetusd.run("-c", conf, "apply")
        impetusd.run("-c", conf, "stop")
        for folder in impetusd.root.glob("var/*_dir"):
            shutil.rmtree(folder)

    def test_one_that_lives_there_already_is_found_and_not_doubled(self, impetusd: Instance) -> None:
        conf = self.made(impetusd, f"[program:p]\n{READY}")
        start_as_before(impetusd, conf)
        self.switch(impetusd)
        conf.write_text(f"[program:p]\n{READY}[program:q]\n{READY}")
        before = status(impetusd, conf)
        assert "through the symbolic link" in impetusd.run("-c", conf, "start").err
        assert status(impetusd, conf).pids == before.pids
        impetusd.run("-c", conf, "apply")
        after = status(impetusd, conf)
        assert after["p"].pid == before["p"].pid
        assert after["q"].state == "RUNNING"
        impetusd.kill(after.supervisor)
        assert status(impetusd, conf).pids == after.pids
        assert len(shims(impetusd)) == 1
        impetusd.run("-c", conf, "stop")
        assert impetusd.members() == []
        impetusd.run("-c", conf, "start", code=2)


class TestFormerFolders:
    """api.ini once lived in var/run, var/lib and var/log, as every file of its folder."""

    def test_a_daemon_there_is_used_and_moved_at_its_next_start(self, impetusd: Instance) -> None:
        api = impetusd.write(f"[program:api]\n{READY}", "api.ini")
        start_as_before(impetusd, api)
        worker = impetusd.write(f"[program:worker]\n{READY}", "worker.ini")
        before = status(impetusd, api)
        impetusd.run("-c", worker, "status", code=3)
        impetusd.run("-c", worker, "start")
        impetusd.run("-c", api, "start")
        impetusd.run("-c", api, "disable", "api")
        impetusd.run("-c", api, "enable", "api")
        impetusd.kill(status(impetusd, api).supervisor)
        assert status(impetusd, api).shim == before.shim
        impetusd.run("-c", api, "stop")
        impetusd.run("-c", worker, "stop")
        assert "api" in impetusd.run("-c", api, "events").out
        impetusd.run("-c", api, "start")
        assert not {"ledger.jsonl", "state.json", "instance"} & {path.name for path in impetusd.root.glob("var/lib/*")}
        assert "enable" in impetusd.run("-c", api, "events", "-n", "100").out
        assert (impetusd.root / "var/api/log/impetusd.log").read_text().count("supervisor: began") == 2
        impetusd.run("-c", api, "stop")

    def test_what_a_killed_one_has_left_there_is_taken_over_there(self, impetusd: Instance) -> None:
        api = impetusd.write(f"[program:api]\n{READY}", "api.ini")
        start_as_before(impetusd, api)
        before = status(impetusd, api)
        impetusd.kill(before.supervisor, signal.SIGSTOP)
        impetusd.kill(before.shim)
        impetusd.kill(before.supervisor)
        wait_for(lambda: not shims(impetusd), "the end of the shim")
        impetusd.run("-c", api, "start")
        assert status(impetusd, api).pids == before.pids
        impetusd.run("-c", api, "stop")


def test_a_file_that_was_moved_with_its_default_folders_starts_nothing_twice(impetusd: Instance) -> None:
    api = impetusd.write(f"[program:api]\n{READY}", "api.ini")
    impetusd.run("-c", api, "start")
    before = status(impetusd, api)
    moved = impetusd.root / "web.ini"
    api.rename(moved)
    assert status(impetusd, moved).pids == before.pids
    impetusd.run("-c", moved, "start")
    assert len(shims(impetusd)) == 1
    refused = impetusd.run("-c", moved, "apply", code=1)
    assert f"write in [impetusd]: run_dir = {impetusd.root}/var/api/run" in refused.err
    impetusd.run("-c", moved, "stop")
    assert impetusd.members() == []


def test_a_users_own_file_is_found_from_anywhere_and_its_daemon_without_the_session(ordinary: Instance) -> None:
    """cron has no XDG_RUNTIME_DIR, so there the socket would be looked for in another folder."""
    home, runtime = ordinary.root, ordinary.root / "r"
    session = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "PWD": "/"}
    conf = home / ".config/impetusd/impetusd.ini"
    ordinary.elsewhere = True
    ordinary.conf = conf
    person = pwd.getpwnam(ordinary.user) if ordinary.user else None
    for folder in (runtime, conf.parent.parent, conf.parent):
        folder.mkdir()
        if person:
            os.chown(folder, person.pw_uid, person.pw_gid)
    conf.write_text("[program:a]\ncommand = sh -c 'echo hello; exec sleep 300'\nready = log:hello\n")

    def run(*arguments: str, code: int = 0, **environ: str) -> str:
        done = subprocess.run(
            [*ordinary.command, *arguments],
            env={"PATH": ordinary.environ["PATH"], **environ},
            cwd="/",
            user=ordinary.user,
            group=person.pw_gid if person else None,
            extra_groups=[] if person else None,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done
        return done.stdout + done.stderr

    run("start", **session)
    try:
        assert (runtime / "impetusd/control.sock").exists()
        assert (home / ".local/state/log/impetusd/a-out.log").exists()
        assert "a " in run("status", HOME=str(home))
        assert not (conf.parent / "var").exists()
    finally:
        run("stop", HOME=str(home))
    assert "not running" in run("status", code=3, **session)
