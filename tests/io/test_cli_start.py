"""`start`, `stop`, `restart`, `run`: starting the daemon, finding it there, seeing it gone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from fake_supervisor import FakeSupervisor, failed_row, row
from waiting import wait_for

from impetusd.cli import app
from impetusd.client import control, launch, reaper
from impetusd.core.protocol import FAILED, ProtocolError, progress_line
from impetusd.linux import proc

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
# The command line, with the fake in the place of the shim.
DRIVER = """
import json, sys
sys.path[:0] = [{root!r}, {here!r}]
from impetusd.client import launch
real = launch.shim_argv
launch.shim_argv = lambda paths, **how: [sys.executable, {here!r} + "/fake_shim.py", *real(paths, **how)[-2:], {how!r}, {starts!r}]
from impetusd.cli.main import main
sys.exit(main())
"""


class Daemons:
    """Runs the command line with a fake shim, and ends what it started."""

    def __init__(self, paths) -> None:
        self.paths = paths
        self.starts_file = f"{paths.base_dir}/starts"

    def popen(self, *args, how="serve"):
        script = DRIVER.format(root=ROOT, here=HERE, how=how, starts=self.starts_file)
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{HERE}"}
        return subprocess.Popen(
            [sys.executable, "-c", script, "-c", self.paths.conf, *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ,
        )  # fmt: skip

    def run(self, *args, how="serve"):
        process = self.popen(*args, how=how)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def starts(self):
        try:
            with open(self.starts_file, encoding="utf-8") as file:
                return [tuple(map(int, line.split())) for line in file]
        except FileNotFoundError:
            return []


@pytest.fixture
def daemons(paths):
    made = Daemons(paths)
    yield made
    for pid, _, _ in made.starts():
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass


class TestStartingTheDaemon:
    def test_start_brings_up_a_daemon_and_shows_the_table(self, paths, daemons):
        code, out, err = daemons.run("start")
        assert (code, len(daemons.starts())) == (0, 1), err
        assert "all 2 up" in out
        assert paths.log_file in err
        modes = [os.stat(path).st_mode & 0o777 for path in (paths.run_dir, paths.state_dir, paths.log_dir)]
        assert modes == [0o755, 0o700, 0o750]

    def test_the_daemon_is_nobodys_child_and_leads_no_session(self, daemons):
        daemons.run("start")
        ((pid, boot, session),) = daemons.starts()
        assert boot == 0  # it will be told what to start
        assert session != pid  # so that no terminal that it opens becomes its controlling one
        assert session != os.getsid(0)
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        assert parent != os.getpid()
        fds = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in ("0", "1", "2")}
        assert fds["0"] == "/dev/null"
        assert fds["1"] == fds["2"] == daemons.paths.log_file
        assert os.readlink(f"/proc/{pid}/cwd") == "/"

    def test_no_descriptor_of_the_caller_reaches_the_daemon(self, paths, daemons):
        """A pipe held by the daemon would keep whoever reads from `impetusd start` waiting for ever."""
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        script = DRIVER.format(root=ROOT, here=HERE, how="serve", starts=daemons.starts_file)
        subprocess.run(
            [sys.executable, "-c", script, "-c", paths.conf, "start"],
            close_fds=False, check=True, capture_output=True, timeout=60, env={**os.environ, "PYTHONPATH": HERE},
        )  # fmt: skip
        os.close(writer)
        assert os.read(reader, 1) == b""
        os.close(reader)

    def test_a_second_start_uses_the_first_daemon(self, daemons):
        daemons.run("start")
        code, out, err = daemons.run("start", "web")
        assert (code, len(daemons.starts())) == (0, 1), err
        assert "all 2 up" in out

    def test_twenty_at_once_start_one_daemon_and_all_tell_the_truth(self, daemons):
        processes = [daemons.popen("start") for _ in range(20)]
        ends = [(process.communicate(timeout=90), process.returncode) for process in processes]
        assert [(code, err) for (out, err), code in ends if code != 0 or "all 2 up" not in out] == []
        assert len(daemons.starts()) == 1
        assert sum("impetusd started" in err for (_, err), _ in ends) == 1

    def test_a_daemon_that_ends_at_once_is_told_with_its_last_words(self, daemons):
        code, out, err = daemons.run("start", how="fail")
        assert code == 1
        assert out == ""
        assert err.startswith("impetusd did not start: exit 3; from ")
        assert "no module named x" in err
        assert "Traceback" not in err

    def test_a_wrong_configuration_starts_nothing(self, paths, daemons):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("comand = x\ninstances = many\n")
        code, out, err = daemons.run("start")
        assert (code, out) == (2, "")
        assert "2 problems" in err
        assert f"{paths.conf}:8:" in err
        assert not os.path.exists(paths.run_dir)

    def test_a_slip_in_a_name_starts_nothing(self, paths, daemons):
        code, _, err = daemons.run("start", "wbe")
        assert code == 4
        assert "did you mean web?" in err
        assert not os.path.exists(paths.run_dir)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_directory_that_cannot_be_made_is_named(self, paths, daemons):
        os.chmod(paths.base_dir, 0o500)
        code, _, err = daemons.run("start")
        os.chmod(paths.base_dir, 0o700)
        assert code == 1
        assert "cannot create run_dir" in err

    def test_a_file_in_the_place_of_a_directory_is_named(self, paths, daemons):
        with open(f"{paths.base_dir}/var", "w", encoding="utf-8"):
            pass
        code, _, err = daemons.run("start")
        assert code == 1
        assert f"cannot create run_dir {paths.run_dir}" in err


def test_a_daemon_that_does_not_answer_in_time_is_told(paths, daemons, monkeypatch):
    monkeypatch.setattr(launch, "UP_WITHIN", 0.5)
    real = launch.shim_argv
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{HERE}")
    monkeypatch.setattr(
        launch,
        "shim_argv",
        lambda paths, *, profile: [
            sys.executable,
            f"{HERE}/fake_shim.py",
            *real(paths)[-2:],
            "mute",
            daemons.starts_file,
        ],
    )
    before = proc.children()
    with pytest.raises(control.ControlError, match="has not responded"):
        launch.ensure_running(paths)
    assert proc.children() == before  # the witness is gone


def test_the_shim_is_started_isolated(paths):
    argv = launch.shim_argv(paths)
    assert argv[:5] == [sys.executable, "-I", "-S", "-X", "utf8"]
    assert argv[5].endswith("/impetusd/shim/__main__.py")
    assert argv[6] == paths.conf


class TestStartWhenItRuns:
    def test_what_is_not_up_is_told_with_its_traceback_once(self, paths, cli):
        rows = [failed_row("web:template", state="FATAL", reason="exit 78"), failed_row("web:0"), failed_row("web:1")]
        with FakeSupervisor(paths, start={"ok": False, "units": [*rows, row("db")]}):
            code, out, _ = cli("start")
        assert code == 1
        assert out.count("ValueError: no") == 1
        assert "web:template is FATAL: exit 78\n    Traceback" in out
        assert "web:1 is BACKOFF: exit 1; retrying in 3.2 s (3 of 16)" in out
        assert f"impetusd -c {paths.conf} why web" in out

    def test_two_failures_of_one_unit_that_differ_are_both_told(self, paths, cli):
        rows = [failed_row("db:0", tail=["no disk"]), failed_row("db:1", tail=["no memory at 0x7f12"])]
        rows.append(failed_row("db:2", tail=["no memory at 0x8e34"]))
        with FakeSupervisor(paths, start={"ok": False, "units": rows}):
            _, out, _ = cli("start")
        assert out.count("    no disk\n") == 1
        assert out.count("    no memory") == 1

    def test_progress_is_silent_where_nobody_watches(self, paths, cli):
        def start(_params, send):
            send(progress_line("web", "STARTING", "waits for db"))
            return {"ok": True, "units": [row("web")]}

        with FakeSupervisor(paths, start=start):
            assert cli("start") == (0, cli_table("web"), "")

    def test_names_are_passed_and_an_unknown_one_exits_4(self, paths, cli):
        with FakeSupervisor(paths, start=ProtocolError(FAILED, "no unit or slot x", exit=4)) as fake:
            code, _, err = cli("start", "web", "x")
        assert (code, err) == (4, "impetusd: no unit or slot x\n")
        assert fake.asked == [("start", {"names": ["web", "x"], "wait": True})]

    def test_a_stop_that_came_between_is_told(self, paths, cli):
        stopped = row("web", state="STOPPED", want="down", ready=False, pid=None)
        with FakeSupervisor(paths, start={"ok": False, "units": [stopped]}):
            code, _, err = cli("start")
        assert code == 1
        assert "another command stopped some of it" in err

    def test_a_wrong_configuration_changes_nothing_that_runs(self, paths, cli):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("comand = x\n")
        with FakeSupervisor(paths) as fake:
            code, _, err = cli("start")
        assert (code, fake.asked) == (2, [])
        assert "nothing was changed" in err


def cli_table(*names):
    width = max(4, *map(len, names))
    rows = "".join(f"{name:<{width}}  RUNNING  4242     12m         0   48 MB  0.3%\n" for name in names)
    count = f"all {len(names)} up" if len(names) > 1 else "1 up"
    return f"{'NAME':<{width}}  STATE     PID  UPTIME  RESTARTS  MEMORY   CPU\n{rows}\n{count}\n"


class TestRestartScaleSignal:
    def test_restart(self, paths, cli):
        with FakeSupervisor(paths, restart={"ok": True, "units": [row("web")]}) as fake:
            code, out, _ = cli("restart", "web")
        assert (code, fake.asked) == (0, [("restart", {"names": ["web"], "wait": True, "rolling": False})])
        assert "1 up" in out

    def test_restart_without_a_daemon_starts_it(self, daemons):
        code, out, err = daemons.run("restart")
        assert (code, len(daemons.starts())) == (0, 1), err
        assert "all 2 up" in out

    def test_scale(self, paths, cli):
        with FakeSupervisor(paths, scale={"ok": True, "units": [row("web:0"), row("web:1")]}) as fake:
            assert cli("scale", "web", "2")[0] == 0
        assert fake.asked == [("scale", {"name": "web", "n": 2, "token": ""})]

    @pytest.mark.parametrize("args", [("scale", "web", "2"), ("signal", "HUP", "web"), ("describe", "web")])
    def test_what_needs_a_daemon_says_so(self, cli, args):
        code, _, err = cli(*args)
        assert code == 3
        assert "is not running" in err

    @pytest.mark.parametrize("said", ["HUP", "SIGHUP", "hup", "sighup", "1"])
    def test_signal(self, paths, cli, said):
        with FakeSupervisor(paths, signal={"ok": True, "signalled": ["web:0", "web:1"]}) as fake:
            assert cli("signal", said, "web") == (0, "SIGHUP sent to web:0, web:1\n", "")
        assert fake.asked == [("signal", {"names": ["web"], "signal": "HUP"})]

    def test_signal_that_reaches_nobody_is_no_success(self, paths, cli):
        with FakeSupervisor(paths, signal={"ok": True, "signalled": []}):
            assert cli("signal", "HUP", "web")[0] == 1

    def test_no_such_signal(self, cli):
        code, _, err = cli("signal", "HUMP", "web")
        assert code == 2
        assert "unknown signal 'HUMP'" in err


class TestStop:
    def test_without_a_daemon_is_success(self, cli):
        code, out, err = cli("stop")
        assert (code, err) == (0, "")
        assert out.startswith("impetusd is not running")

    def test_what_sigkill_does_not_end_is_named_as_by_reap_leftovers(self, cli, monkeypatch):
        stuck = [proc.Member(os.getpid(), 1, 1, 1, 1, zombie=False)]
        monkeypatch.setattr(reaper, "left_behind", lambda paths: reaper.Left(stuck, ""))
        monkeypatch.setattr(reaper, "reap", lambda *_: reaper.Reaped([7], stuck))
        for command in ("stop", "reap-leftovers"):
            code, out, err = cli(command)
            assert (code, "stopped 1 process" in out) == (1, True)
            assert err == f"SIGKILL has no effect on {reaper.named(stuck)}: left running\n"

    def test_everything_and_the_daemon_returns_when_it_is_gone(self, paths, daemons):
        daemons.run("start")
        code, out, err = daemons.run("stop")
        assert code == 0, err
        assert out == "killed after kill_timeout: web\nstopped; impetusd is not running\n"
        assert not control.daemon_alive(paths)

    def test_some(self, paths, cli):
        rows = [
            row("web:0", state="STOPPED", want="down", pid=None),
            row("web:1", state="STOPPED", want="down", pid=None),
        ]
        with FakeSupervisor(paths, stop={"ok": True, "killed": [], "units": rows}) as fake:
            assert cli("stop", "web") == (0, "stopped: web:0, web:1\n", "")
        assert fake.asked == [("stop", {"names": ["web"]})]

    def test_a_daemon_that_stays_is_told(self, paths, cli, monkeypatch):
        monkeypatch.setattr(launch, "GONE_WITHIN", 0.1)
        with FakeSupervisor(paths, stop={"ok": True, "killed": [], "units": []}):
            code, _, err = cli("stop")
        assert code == 1
        assert "still holds" in err


def test_run_refuses_a_second_daemon(paths, cli):
    with FakeSupervisor(paths):
        code, _, err = cli("run")
    assert (code, err.startswith("impetusd is already running")) == (73, True)


def test_run_becomes_the_daemon(daemons):
    process = daemons.popen("run")
    try:
        wait_for(lambda: daemons.starts() or process.poll() is not None, "its start")
        pid, boot, _ = daemons.starts()[0]
        assert (pid, boot) == (process.pid, 1)
    finally:
        process.kill()
        process.communicate()


class TestScaleByDifference:
    @pytest.mark.parametrize("n", ["+1", "-1", "+10"])
    def test_it_is_the_daemon_that_counts(self, paths, cli, n):
        with FakeSupervisor(paths, scale={"ok": True, "units": [row("web:0")]}) as fake:
            assert cli("scale", "web", n)[0] == 0
        ((method, asked),) = fake.asked
        assert (method, asked["name"], asked["n"]) == ("scale", "web", n)
        assert asked["token"]

    @pytest.mark.parametrize("n", ["+", "-", "--1", "1.5", "many", "10001", "+10001", "²"])
    def test_what_is_no_number(self, paths, cli, n):
        code, _, err = cli("scale", "web", n)
        assert code == 2
        assert "use a number" in err or "No such option" in err


class TestWordsOfOthers:
    """Of PM2 and supervisorctl."""

    @pytest.mark.parametrize("word", ["list", "ls", "ps", "top", "l"])
    def test_what_shows_is_status(self, paths, cli, word):
        pong = {"version": "0", "shim": {"pid": 1}, "supervisor": {"pid": 2}}
        with FakeSupervisor(paths, status={**pong, "units": [row("web")], "attention": []}):
            code, out, err = cli(word)
        assert (code, "web" in out, err) == (0, True, "")

    def test_update_is_apply_and_says_so(self, paths, cli):
        with FakeSupervisor(paths, apply={"ok": True, "changes": [], "units": []}) as fake:
            code, _, err = cli("update")
        assert (code, err) == (0, "impetusd: update runs impetusd apply\n")
        assert [method for method, _ in fake.asked] == ["apply"]

    def test_reread_is_plan_and_tail_is_logs(self, paths, cli):
        with FakeSupervisor(paths, plan={"changes": []}, logs={"files": []}) as fake:
            assert cli("reread")[0] == 0
            assert cli("tail", "web")[0] == 0
        assert [method for method, _ in fake.asked] == ["plan", "logs"]

    def test_each_word_is_a_command_here_and_no_command_is_hidden(self):
        assert {words.split()[0] for words in app.WORDS.values()} <= set(app.COMMANDS)
        assert not set(app.COMMANDS) & (set(app.WORDS) | set(app.EXPLAINED))
        assert set(app.COMMANDS) >= app.ENDING

    @pytest.mark.parametrize(
        "word", ["reset", "clear", "kill", "delete", "stpo", "restrat", "rset", "flsh", "scael", "topp", "xyzzy"]
    )
    def test_nothing_that_ends_anything_is_suggested(self, paths, cli, word):
        with FakeSupervisor(paths) as fake:
            code, _, err = cli(word, "web")
        assert (code, fake.asked) == (2, [])
        assert not any(f"did you mean {name!r}" in err for name in app.ENDING)
        assert not any(f"impetusd {name}\n" in err or f"impetusd {name}." in err for name in app.ENDING)


def test_who_may_ask_the_daemon_but_not_open_its_state_dir_starts_and_stops_all_the_same(paths, cli, monkeypatch):
    """An operator by role, whom only the control socket lets in."""

    def denied(_):
        raise control.ControlError("you may not look")

    with FakeSupervisor(paths, start={"ok": True, "units": [row("web")]}, stop={"ok": True, "killed": [], "units": []}):
        monkeypatch.setattr(control, "daemon_alive", denied)
        monkeypatch.setattr("os.access", lambda path, mode: path != paths.state_dir)
        assert cli("start", "web")[0] == 0
        assert cli("stop", "web")[0] == 0


@pytest.mark.parametrize("lives", [True, False])
def test_what_still_holds_the_lock_after_a_stop_is_named_as_what_it_is(paths, monkeypatch, lives):
    """When the disk of state_dir hangs, that is not the shim, but what it has left to write there."""
    monkeypatch.setattr(launch, "GONE_WITHIN", 0.01)
    monkeypatch.setattr(control, "daemon_alive", lambda _: True)
    process = subprocess.Popen(["sleep", "1000"])
    try:
        if not lives:
            process.kill()
            process.wait()
        told = f"its process {process.pid} still holds" if lives else "the disk does not respond"
        with pytest.raises(control.ControlError, match=told):
            launch.wait_gone(paths, process.pid)
    finally:
        process.kill()
        process.wait()
