"""Finding the INI file, `check`, `init`, `describe`, `version`, help: what needs no daemon, or next to nothing of it."""

from __future__ import annotations

import os
import sys

import click
import pytest
from fake_supervisor import FakeSupervisor, paths_in, row

from impetusd import __version__
from impetusd.cli import app, main, place
from impetusd.cli.failure import Failure
from impetusd.core.config import sample
from impetusd.linux.host import this_host


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    """Run a command in this process, in an empty directory; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMPETUSD_CONF", raising=False)
    monkeypatch.setattr(place, "LOOKED_AT", (*place.LOOKED_AT[:2], f"{tmp_path}/etc/impetusd.ini"))

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["impetusd", *args])
        code = main.main()
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


class TestWhichFile:
    def test_the_first_that_is_there(self, cli, tmp_path, monkeypatch):
        order = [tmp_path / "etc/impetusd.ini", tmp_path / "conf/impetusd.ini", tmp_path / "impetusd.ini"]
        for file in order:
            file.parent.mkdir(exist_ok=True)
            file.write_text("[program:a]\ncommand = true\n")
            assert cli("check")[1].startswith(f"{file} is OK")
        monkeypatch.setenv("IMPETUSD_CONF", str(order[0]))
        assert cli("check")[1].startswith(f"{order[0]} is OK")
        assert cli("-c", "conf/impetusd.ini", "check")[1].startswith(f"{order[1]} is OK")
        assert cli("-c", "conf/impetusd.ini", "check", "-c", "impetusd.ini")[1].startswith(f"{order[2]} is OK")
        assert cli("check", "conf/impetusd.ini")[1].startswith(f"{order[1]} is OK")

    @pytest.mark.parametrize("command", [("status",), ("start",), ("stop",), ("logs",), ("check",), ("run",)])
    def test_none_says_where_it_looked_and_what_to_do(self, cli, command, tmp_path):
        code, out, err = cli(*command)
        assert (code, out) == (2, "")
        assert "./impetusd.ini, ./conf/impetusd.ini, " in err
        assert f"{tmp_path}/etc/impetusd.ini" in err
        assert err.endswith("impetusd init\n")
        assert err.count("\n") == 1

    def test_one_that_was_named_must_be_there(self, cli, tmp_path, monkeypatch):
        (tmp_path / "impetusd.ini").write_text("")
        assert cli("-c", "nope.ini", "status")[::2] == (
            2,
            "impetusd: -c nope.ini: no such file; `impetusd init` creates one\n",
        )
        monkeypatch.setenv("IMPETUSD_CONF", "gone.ini")
        assert "IMPETUSD_CONF=gone.ini" in cli("status")[2]

    def test_a_directory_is_none(self, cli, tmp_path):
        assert "is a directory" in cli("-c", str(tmp_path), "status")[2]

    def test_bytes_that_are_no_utf8_are_told_with_their_line(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_bytes(b"[impetusd]\n; \xe9\n")
        assert f"{tmp_path}/impetusd.ini:2: this is not UTF-8" in cli("check")[1]

    def test_directories_that_cannot_be_told_are_a_mistake_of_the_operator(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_text("[impetusd]\nrun_dir = ${NOT_SET_ANYWHERE}\n")
        code, _, err = cli("status")
        assert code == 2
        assert f"{tmp_path}/impetusd.ini:2:" in err

    def test_reading_for_the_paths_only_is_lenient(self, tmp_path):
        file = tmp_path / "f.ini"
        file.write_bytes(b"[program:a]\n; \xe9\nnonsense\n")
        assert place.find(str(file)).paths.run_dir == f"{tmp_path}/var/f/run"


class TestCheck:
    def test_every_problem_is_printed_and_counted(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_text("[program:a]\ncomand = true\ninstances = many\n[programm:b]\n")
        code, out, err = cli("check")
        assert code == 2
        assert all(line.startswith(f"{tmp_path}/impetusd.ini:") for line in out.splitlines())
        assert err == f"impetusd: {len(out.splitlines())} problems in {tmp_path}/impetusd.ini\n"
        assert len(out.splitlines()) >= 3

    def test_a_good_file_is_one_line(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_text("[program:a]\ncommand = true\n")
        assert cli("check") == (0, f"{tmp_path}/impetusd.ini is OK: 1 unit (a)\n", "")

    def test_timers_and_health_checks_are_counted_too(self, cli, tmp_path):
        text = "[program:a]\ncommand = a\n[timer:t]\ncommand = t\nevery = 1h\n[timer:u]\ncommand = u\nevery = 1h\n"
        (tmp_path / "impetusd.ini").write_text(f"{text}[health:a]\ntcp = localhost:1\n")
        _, out, _ = cli("check")
        assert out == f"{tmp_path}/impetusd.ini is OK: 1 unit (a), 2 timers (t, u), 1 health check (a)\n"

    def test_what_this_host_lacks_is_a_warning_and_counts_with_host(self, cli, tmp_path):
        text = f"""
[include]
files = conf.d/*.ini
[program:a]
command = nosuchprogram x
user = nosuchuser
[program:b]
command = true
cwd = {tmp_path}/gone
[program:c]
command = ./c.sh
env_file = gone.env, fifo, -nowhere/may-be-missing.env
[program:d]
command = ./d.sh
[program:off]
command = nosuchprogram
enabled = no
[timer:t]
command = ./gone
every = 1h
[health:a]
exec = ./impetusd.ini
"""
        (tmp_path / "impetusd.ini").write_text(text)
        for name, first in (("c.sh", "#!/nosuch/sh -e"), ("d.sh", "#! /bin/sh")):
            (tmp_path / name).write_text(f"{first}\n")
            (tmp_path / name).chmod(0o755)
        os.mkfifo(tmp_path / "fifo")
        code, out, err = cli("check")
        assert (code, out) == (
            0,
            f"{tmp_path}/impetusd.ini is OK: 5 units (a, b, c, d, off), 1 timer (t), 1 health check (a)\n",
        )
        told = [line.removeprefix(f"impetusd: warning: {tmp_path}/impetusd.ini:") for line in err.splitlines()]
        assert told == [
            f"3: files: nothing matches {tmp_path}/conf.d/*.ini",
            "5: command: no program nosuchprogram in PATH on this host",
            "6: user = nosuchuser: no such user on this host; create it, or use another",
            f"9: cwd = {tmp_path}/gone: no such folder on this host",
            f"11: command: {tmp_path}/c.sh needs the interpreter /nosuch/sh (first line), which does not exist on this host",
            f"12: env_file = {tmp_path}/gone.env: No such file or directory on this host",
            f"12: env_file = {tmp_path}/fifo: it is not a regular file on this host",
            "19: command: ./gone does not exist on this host",
            "22: command: ./impetusd.ini is not executable; run: chmod +x ./impetusd.ini",
        ]
        code, out, err = cli("check", "--host")
        assert (code, out) == (1, "")
        assert err.endswith("impetusd.ini has no problems, but 9 warnings for this host\n")
        assert cli("start")[0] == 2  # where it is to run, a user that is not there is a mistake

    def test_of_the_units_that_it_makes_itself_nothing_is_lacking(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_text("[gateway]\n")
        (code, _, err) = cli("check")
        assert (code, [line for line in err.splitlines() if "folder" in line]) == (0, [])

    def test_a_mistake_in_an_env_file_is_one_and_a_path_in_it_counts(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_text("[program:a]\ncommand = x\nenv_file = a.env\n")
        (tmp_path / "a.env").write_text("A=1\nB\n")
        code, out, err = cli("check")
        assert (code, err.count("warning: ")) == (2, 1)
        assert out.startswith(f"{tmp_path}/a.env:2: missing '='; write NAME=value")
        (tmp_path / "a.env").write_text(f"PATH={tmp_path}\n")
        (tmp_path / "x").touch(0o755)
        assert cli("check", "--host")[::2] == (0, "")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root goes by no file that others may write")
    def test_an_env_file_that_a_start_as_root_would_refuse_is_refused_by_check(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_text("[program:a]\ncommand = true\nenv_file = a.env\n")
        (tmp_path / "a.env").write_text("A=1\n")
        (tmp_path / "a.env").chmod(0o666)
        told = f"env_file = {tmp_path}/a.env: every user can write it; run: chmod go-w {tmp_path}/a.env"
        assert cli("check")[:2] == (2, f"{tmp_path}/impetusd.ini:3: {told}\n")
        (tmp_path / "a.env").chmod(0o644)
        assert cli("check")[0] == 0


class TestInit:
    def test_what_it_writes_can_be_checked_at_once(self, cli, tmp_path):
        code, out, _ = cli("init", "my app")
        assert code == 0
        assert out.endswith("then: impetusd -c 'my app/impetusd.ini' start\n")
        assert cli("-c", "my app/impetusd.ini", "check")[0] == 0

    def test_here_needs_no_option_afterwards(self, cli):
        assert cli("init")[1] == "wrote ./impetusd.ini and ./app.py; edit, then: impetusd start\n"
        assert cli("check")[0] == 0

    def test_it_is_short_and_about_the_users_own_app(self, cli, tmp_path):
        cli("init")
        files = {path.name: path.read_text() for path in tmp_path.iterdir()}
        assert set(files) == {"impetusd.ini", "app.py"}
        assert len(files["impetusd.ini"].splitlines()) <= 20
        assert "impetus_service" not in files["impetusd.ini"]

    def test_an_app_that_is_there_is_used_as_it_is(self, cli, tmp_path):
        (tmp_path / "app.py").write_text("mine")
        assert cli("init")[1] == "wrote ./impetusd.ini; edit, then: impetusd start\n"
        assert (tmp_path / "app.py").read_text() == "mine"
        assert cli("init", "other", "--app", "shop.web:make")[0] == 0
        assert "app       = shop.web:make\n" in (tmp_path / "other/impetusd.ini").read_text()
        assert not (tmp_path / "other/app.py").exists()

    def test_every_key_is_had_for_the_asking(self, cli, tmp_path):
        assert cli("init", "--all-keys")[0] == 0
        assert (tmp_path / "impetusd.ini").read_text() == sample.sample()
        assert cli("check")[0] == 0
        assert cli("init", "--all-keys", "--app", "a:b", "x")[0] == 2

    def test_nothing_is_overwritten(self, cli, tmp_path):
        (tmp_path / "impetusd.ini").write_text("mine")
        code, _, err = cli("init")
        assert (code, err) == (1, "impetusd: ./impetusd.ini already exists and was left unchanged\n")
        assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"impetusd.ini": "mine"}

    def test_a_place_that_cannot_be_made_is_named(self, cli, tmp_path):
        (tmp_path / "file").write_text("")
        code, _, err = cli("init", "file/x")
        assert code == 1
        assert "cannot write file/x/impetusd.ini" in err


class TestHelp:
    @pytest.mark.parametrize("name", app.COMMANDS)
    def test_every_command_has_help_with_an_example_of_itself(self, cli, name):
        code, out, _ = cli(name, "--help")
        assert code == 0
        assert f"Example: impetusd {name}" in out

    def test_the_whole_lists_them_all(self, cli):
        code, out, _ = cli("--help")
        assert code == 0
        assert all(f"  {name} " in out for name in app.COMMANDS)
        assert cli()[:2] == (0, out)

    def test_a_slip_is_corrected(self, cli):
        code, _, err = cli("statsu")
        assert code == 2
        assert "did you mean 'status'?" in err

    def test_every_command_exists(self):
        for name in app.COMMANDS:
            assert isinstance(app.cli.get_command(click.Context(app.cli), name), click.Command)


@pytest.mark.parametrize("args", [("version",), ("--version",)])
def test_version(cli, args):
    code, out, _ = cli(*args)
    assert (code, out.split()[:2]) == (0, ["impetusd", __version__])


def test_describe_shows_the_slots_and_their_configuration_once(cli, tmp_path):
    paths = paths_in(tmp_path)
    more = {
        "spec": {"command": "sleep 1000", "stop_exit_codes": [], "treekill": True},
        "log_files": {"out": "/l/web-out.log", "error": "/l/web-err.log"},
        "where": f"{paths.conf}:3",
        "history": [5.0, 90.0],
    }
    end = {"signal": "SIGKILL", "at": "2026-11-23T09:00:00+00:00"}
    rows = [
        {**row("web:0", restarts=2, last_exit=end), **more},
        {**row("web:1", dropped_lines=1, dropped_bytes=4096), **more},
    ]
    with FakeSupervisor(paths, describe={"units": rows}) as fake:
        code, out, _ = cli("describe", "web")
    assert (code, fake.asked) == (0, [("describe", {"name": "web"})])
    assert "killed by SIGKILL at 2026-11-23T09:00:00+00:00" in out
    assert "2 unplanned (lately: 5s ago, 1m ago)" in out
    assert "  dropped     1 line (4 kB) that could not be written" in out
    assert out.count("sleep 1000") == 1
    assert f"web, configured in {paths.conf}:3" in out
    assert "treekill         true" in out


class TestHost:
    def test_root_exists_by_name_and_number(self):
        host = this_host()
        assert host.user_exists("root")
        assert host.user_exists("0")
        assert host.group_exists("root")
        assert host.group_exists("0")

    @pytest.mark.parametrize("number", ["12345", "4294967294"])
    def test_a_number_needs_no_name(self, number):
        host = this_host()
        assert host.user_exists(number)
        assert host.group_exists(number)

    @pytest.mark.parametrize("name", ["", "no-such-user-at-all", "a\0b", "-1", "4294967295", "9" * 30, "²"])
    def test_others_do_not(self, name):
        host = this_host()
        assert not host.user_exists(name)
        assert not host.group_exists(name)

    def test_cpus_are_those_that_may_be_used(self):
        host = this_host()
        assert host.cpus == len(os.sched_getaffinity(0))
        assert host.euid == os.geteuid()


def test_a_failure_is_one_sentence(cli, monkeypatch):
    def fails(_given):
        raise Failure("no", 7)

    monkeypatch.setattr(place, "find", fails)
    assert cli("status") == (7, "", "impetusd: no\n")
