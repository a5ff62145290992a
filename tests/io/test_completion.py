"""What TAB offers: asked as the scripts ask, and pressed in a real bash, zsh and fish."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import termios
import time

import click
import pytest
from fake_supervisor import FakeSupervisor, row

from impetusd.cli import app, main, place
from impetusd.cli.install import completion

BIN = os.path.dirname(sys.executable)
SHELLS = tuple(completion.SCRIPTS)
ROWS = {"units": [row("web:0"), row("web:10", state="BACKOFF"), row("db")]}
TIMERS = {"timers": [{"name": "nightly", "words": "every day at 3:00"}]}
# Parameters for which nobody can say what comes: not in WANTED, and of no type that knows.
FREE = {
    ("export", "name"),
    ("export", "image"),
    ("health", "url"),
    ("health", "timeout"),
    ("health", "body"),
    ("health", "status"),
    ("health", "headers"),
    ("logs", "since"),
    ("events", "since"),
    ("reload", "watch"),
    ("logs", "grep"),
    ("scale", "n"),
    ("silence", "end"),
    ("silence", "why"),
    ("startup", "name"),
    ("unstartup", "name"),
    ("reap-leftovers", "after"),
    ("init", "app"),
    ("init", "parts"),
    ("", "hosts"),  # ssh knows them
    ("rollout", "text"),
    ("add", "name"),
    ("add", "instances"),
    ("add", "listen"),
    ("add", "variables"),
    ("add", "user"),
    ("token", "name"),
    ("token", "expires"),
    ("passwd", "user"),
}


@pytest.fixture
def offered(paths, monkeypatch, capsys):
    """What is offered at the end of a line behind `impetusd`, as {value: description}, or [type] for files."""

    def ask(line, conf=paths.conf):
        if conf:
            monkeypatch.setenv("IMPETUSD_CONF", conf)
        monkeypatch.setenv(app.COMPLETING, "bash_complete")
        monkeypatch.setenv("COMP_WORDS", f"impetusd {line}")
        monkeypatch.setattr(sys, "argv", ["impetusd"])
        main.main()
        out, err = capsys.readouterr()
        assert err == ""
        fields = [text.split("\t") for text in out.splitlines()]
        return {value: about for kind, value, about in fields if kind == "plain"} or [kind for kind, *_ in fields]

    return ask


class TestWithoutADaemon:
    def test_commands_with_what_they_do(self, offered):
        assert offered("")["stop"] == "Stop NAME, or everything and the daemon."
        assert list(offered("sta")) == [name for name in app.COMMANDS if name.startswith("sta")]

    def test_options(self, offered):
        assert "--rolling" in offered("restart --")
        assert offered("startup --profile h") == {"hardened": ""}

    def test_units_and_timers_of_the_ini_file(self, offered, paths):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("[timer:nightly]\ncommand = true\nevery = 1h\n")
        assert offered("start ") == {"web": "program", "db": "program"}
        assert offered("start web d") == {"db": "program"}
        assert offered("trigger ") == {"nightly": "timer"}
        assert list(offered("enable ")) == ["web", "db", "nightly"]
        assert list(offered("logs -f ")) == ["web", "db", "nightly", "impetusd"]

    def test_a_name_is_offered_once(self, offered):
        assert offered("start web ") == {"db": "program"}

    @pytest.mark.parametrize("where", ["-c {} start ", "--conf {} start ", "--conf={} start ", "start -c {} "])
    def test_the_ini_file_is_the_one_of_the_line(self, offered, paths, where, tmp_path):
        (tmp_path / "other.ini").write_text("[pool:other]\n")
        assert offered(where.format(tmp_path / "other.ini")) == {"other": "pool"}

    def test_home_is_found(self, offered, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "mine.ini").write_text("[pool:mine]\n")
        assert offered("-c ~/mine.ini stop ") == {"mine": "pool"}

    def test_a_broken_ini_file_offers_what_can_be_read_of_it(self, offered, paths):
        with open(paths.conf, "ab") as file:
            file.write(b"\xff\xfe no key\n[impetusd]\nrun_dir = ${UNSET}\n[[[\n[pool:more]\ninstances = many\n")
        assert list(offered("start ")) == ["web", "db", "more"]

    def test_alerts_are_those_of_the_file(self, offered, paths):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("[alert:ops]\nurl = https://ntfy.sh/x\n")
        assert offered("alert test ") == {"ops": "alert"}
        assert list(offered("silence ")) == ["web", "db"]

    @pytest.mark.parametrize("line", ["start ", "trigger ", "scale ", "no-such-command ", "start 'unclosed "])
    def test_nothing_is_offered_where_nothing_is_known(self, offered, line, monkeypatch, tmp_path):
        monkeypatch.setattr(place, "LOOKED_AT", ())
        assert offered(line, conf=f"{tmp_path}/gone.ini") == []

    def test_a_pipe_for_an_ini_file_is_not_waited_for(self, offered, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert offered("start ", conf=f"{tmp_path}/pipe") == []

    def test_the_version_is_not_told_in_the_middle_of_a_line(self, offered):
        assert "stop" in offered("--version ")

    def test_files_are_the_shells_business(self, offered):
        assert offered("check ") == ["file"]
        assert offered("-c ") == ["file"]
        assert offered("start --conf=") == ["file"]
        assert offered("init ") == ["dir"]

    def test_signals(self, offered):
        assert offered("signal US") == {"USR1": "User defined signal 1", "USR2": "User defined signal 2"}

    def test_what_stands_before_the_command_is_no_part_of_it(self, offered, monkeypatch):
        """Fish gives the assignments in front of a command along with it."""
        monkeypatch.setenv("COMP_WORDS", "A=1 B='2 3' impetusd versi")
        assert completion.Answers(app.cli, {}, "impetusd", "").get_completion_args() == ([], "versi")


class TestWithADaemon:
    def test_what_runs_with_its_state(self, offered, paths):
        with FakeSupervisor(paths, status=ROWS, timers=TIMERS) as fake:
            assert offered("start ") == {
                "web": "2 processes",
                "web:0": "RUNNING",
                "web:10": "BACKOFF",
                "db": "RUNNING",
            }
            assert offered("describe web:1") == {"web:10": "BACKOFF"}
            assert offered("scale ") == {"web": "2 processes", "db": "RUNNING"}
            assert offered("trigger ") == {"nightly": "timer, every day at 3:00"}
            assert list(offered("disable ")) == ["web", "db", "nightly"]
        assert {method for method, _ in fake.asked} == {"status", "timers"}

    def test_one_that_does_not_answer_is_not_waited_for(self, offered, paths):
        fake = FakeSupervisor(paths)
        fake.lock()
        fake.bind()
        try:
            assert offered("start ") == {"web": "program", "db": "program"}
        finally:
            fake.unlisten()
            fake.unlock()

    def test_one_whose_socket_is_gone_is_not_waited_for(self, offered, paths):
        fake = FakeSupervisor(paths)
        fake.lock()
        try:
            assert offered("start ") == {"web": "program", "db": "program"}
        finally:
            fake.unlock()


def parameters():
    for name in app.COMMANDS:
        command = app.cli.get_command(click.Context(app.cli), name)
        yield from ((name, each) for each in command.params)
    yield from (("", each) for each in app.cli.params)


def test_every_parameter_is_thought_of():
    for name, parameter in parameters():
        flag = isinstance(parameter, click.Option) and (parameter.is_flag or parameter.flag_value is True)
        knows = not isinstance(parameter.type, (type(click.STRING), completion.Kinds))
        assert flag or knows or completion.wanted(name, parameter) or (name, parameter.name) in FREE, (
            f"say in WANTED what {name} {parameter.name} takes, or in FREE that nobody can"
        )


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed(cli, shell):
    code, out, _ = cli("completion", shell)
    assert (code, out) == (0, completion.SCRIPTS[shell])


class Terminal:
    """A shell on a terminal, with our script loaded, in which somebody types."""

    def __init__(self, shell, folder, environ):
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        script = folder / f"completion.{shell}"
        script.write_text(completion.SCRIPTS[shell])
        start = f"source {shlex.quote(str(script))}"
        command = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}[shell]
        prepare = {
            "bash": f"{start}; PS1='rea''dy> '",
            "zsh": f"autoload -U compinit; compinit -D; {start}; PS1='rea''dy> '",
            "fish": f"{start}; function fish_prompt; echo -n rea'dy> '; end",
        }[shell]
        self.master, slave = pty.openpty()
        path = f"{BIN}:/usr/local/bin:/usr/bin:/bin"
        self.process = subprocess.Popen(
            [shell, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            start_new_session=True,
            # Fish does not run without job control. No thread runs yet.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            env={"PATH": path, "TERM": "xterm", "HOME": str(folder), "LANG": "C.UTF-8", **environ},
        )
        os.close(slave)
        self.seen = b""
        self.prepare = prepare

    def begin(self):
        self.type(self.prepare + "\r")
        self.until(b"ready> ")

    def type(self, text):
        os.write(self.master, text.encode())

    def until(self, wanted):
        end = time.monotonic() + 30
        while wanted not in self.seen:
            assert time.monotonic() < end, f"waited for {wanted!r}, and saw {self.seen!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)

    def close(self):
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.master)


@pytest.fixture(params=SHELLS)
def terminal(request, paths, tmp_path):
    shell = Terminal(request.param, tmp_path, {"IMPETUSD_CONF": paths.conf})
    try:
        shell.begin()
        yield shell
    finally:
        shell.close()


class TestInTheShell:
    def test_a_command_is_completed(self, terminal):
        terminal.type("impetusd versi\t\r")
        terminal.until(b"(python 3.")

    def test_a_command_by_its_path_is_completed(self, terminal):
        terminal.type(f"{BIN}/impetusd versi\t\r")
        terminal.until(b"(python 3.")

    def test_a_slot_of_the_running_daemon_is_completed_behind_its_colon(self, terminal, paths):
        answers = {"status": ROWS, "timers": TIMERS, "describe": {"units": []}}
        with FakeSupervisor(paths, **answers) as fake:
            terminal.type("impetusd describe web:1\t; echo do''ne\r")
            terminal.until(b"done")
        assert fake.asked[-1] == ("describe", {"name": "web:10"})

    def test_a_file_is_completed_behind_an_option(self, terminal, tmp_path):
        (tmp_path / "another.ini").write_text("[program:a]\ncommand = true\n")
        terminal.type("impetusd check --conf=anot\t; echo do''ne\r")
        terminal.until(b"done")
        assert b"another.ini is OK" in terminal.seen
        terminal.type("impetusd check anot\t -c ./anoth\t; echo do''ne aga''in\r")
        terminal.until(b"done again")
        assert terminal.seen.count(b"another.ini is OK") == 2

    def test_nothing_is_said_where_nothing_is_known(self, terminal, paths):
        os.unlink(paths.conf)
        terminal.type("impetusd start \t\t; echo do''ne\r")
        terminal.until(b"done")
        assert b"Traceback" not in terminal.seen
        assert terminal.seen.count(b"no such file") == 1  # what `start` says when it is run
