"""`impetusd exec`: a command by hand is in the surroundings of the unit, and in front of whoever gave it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, program
from waiting import PATIENCE, wait_for

SECRET = "s3cret-of-the-unit"
LOOKS, RUNS, RULES = 61001, 61002, 61003
GROUP = 61027
INI = f"""
[impetusd]
viewers = {LOOKS}
operators = {RUNS}
admins = {RULES}
[program:p]
command = {program("tell_ready", "self")}
wait_ready = yes
env_file = {{root}}/p.env
[program:two]
command = sleep 1000
instances = 2
depends_on = p
[program:off]
command = sleep 1000
enabled = no
[timer:t]
command = sh -c "env | sort"
every = 1d
[group:both]
members = p, two
[env:p]
API_TOKEN = {SECRET}
[env:p@staging]
STAGE = yes
[env:two]
PORT = 80${{{{INSTANCE}}}}
[env:off]
OFF = yes
[env:t]
OF_T = yes
"""


def begin(instance: Instance) -> None:
    instance.write("FROM_FILE=1\n", "p.env").chmod(0o600)
    instance.start(INI.format(root=instance.root))


def variables(instance: Instance, unit: str, **how: object) -> dict[str, str]:
    out = instance.run("exec", unit, "--", "env", "-0", **how).out  # type: ignore[arg-type]
    return dict(each.split("=", 1) for each in out.split("\0") if each)


def records(instance: Instance) -> list[dict[str, Any]]:
    return [record for record in instance.ledger() if record.get("method") == "exec"]


def test_the_environment_is_that_of_the_next_start_and_nothing_of_the_callers(impetusd: Instance) -> None:
    begin(impetusd)
    row = impetusd.status()["p"]
    started = dict(each.split("=", 1) for each in Path(f"/proc/{row.pid}/environ").read_text().split("\0") if each)
    its_own = {"INVOCATION_ID", "NOTIFY_SOCKET", "IMPETUSD_DAEMON"}
    found = variables(impetusd, "p", env={"LD_PRELOAD": "", "MINE": "1"})
    assert {name: found[name] for name in found if name not in its_own} == {
        name: started[name] for name in started if name not in its_own
    }
    assert found.keys() - started.keys() == set()
    assert found["INVOCATION_ID"] != started["INVOCATION_ID"]
    assert found["API_TOKEN"] == SECRET
    assert "NOTIFY_SOCKET" not in found  # or it could say for the unit that it is ready
    # Of an instance, of what is disabled, stopped, a timer.
    assert variables(impetusd, "two:1")["PORT"] == "801"
    assert variables(impetusd, "off")["OFF"] == "yes"
    assert variables(impetusd, "t")["OF_T"] == "yes"
    impetusd.run("stop", "p")
    impetusd.write("FROM_FILE=2\n", "p.env").chmod(0o600)
    assert variables(impetusd, "p")["FROM_FILE"] == "2"
    # The ledger has who ran what, and nobody's log has what the unit knows.
    impetusd.run("exec", "p", "--", "true", "--password=x", SECRET)
    wait_for(lambda: len(records(impetusd)) == 6, "the commands in the ledger")
    last = records(impetusd)[-1]
    assert (last["names"], last["params"], last["uid"]) == (
        ["p"],
        {"command": ["true", "--password=***", "***"]},
        os.geteuid(),
    )
    assert f"impetusd exec two:1 -- env -0, by {last['user']}: done" in impetusd.run("events").out
    # A daemon that is not there is no hindrance: the INI file counts, and the profile that was in force.
    impetusd.run("apply", "--env", "staging")
    assert variables(impetusd, "p")["STAGE"] == "yes"
    impetusd.run("stop")  # from here on nobody writes these files
    for path in [*impetusd.root.glob("var/log/*"), *impetusd.root.glob("var/lib/*.json*")]:
        assert SECRET not in path.read_text(errors="replace"), path
    result = impetusd.run("exec", "p", "--", "printenv", "FROM_FILE", "STAGE")
    assert result.out == "2\nyes\n"
    assert result.err == f"impetusd is not running; exec uses {impetusd.conf}\n"
    assert impetusd.run("exec", "q", "--", "true", code=4).err == "impetusd: no unit 'q'; units: p, two, off, t, both\n"
    assert "OF_T=yes\n" in impetusd.run("exec", "--own", "t").out  # its own command
    assert (
        impetusd.run("exec", "both", "--", "true", code=2).err
        == "impetusd: both is p, two; exec needs exactly one unit\n"
    )


def test_mistakes_are_told_in_a_sentence_and_exit_codes_are_the_commands(impetusd: Instance) -> None:
    begin(impetusd)
    unit = "impetusd exec p --"
    for arguments, code, told in (
        (("p", "ls", "-l"), 2, f"put -- before the command: {unit} ls -l\n"),
        (("p",), 2, f"put -- before the command: {unit} COMMAND\n"),
        (("p", "--"), 2, f"no command after --: {unit} COMMAND\n"),
        (("q", "--", "ls"), 4, "no unit 'q'; units: p, two, off, t\n"),
        (("two:2", "--", "ls"), 4, "no unit 'two:2'; did you mean two:1?\n"),
        (("both", "--", "ls"), 2, "both is p, two; exec needs exactly one unit\n"),
        (("q", "--own"), 4, "no unit 'q'; units: p, two, off, t\n"),
        (
            ("t", "--own", "--", "ls"),
            2,
            "--own runs the unit's own command; omit either --own or the command after the unit\n",
        ),
        (("p", "--", "no-such-program"), 127, "executing no-such-program failed: no such program in PATH\n"),
        (("p", "--", "./none"), 127, "executing ./none failed: no such file\n"),
        (("p", "--", impetusd.conf), 126, f"executing {impetusd.conf} failed: Permission denied\n"),
    ):
        result = impetusd.run("exec", *arguments, code=code)
        assert (result.out, result.err) == ("", f"impetusd: {told}")
    assert impetusd.run("exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 7", code=7).out == "out\n"
    impetusd.run("exec", "p", "--", "sh", "-c", "kill -KILL $$", code=128 + 9)
    # What is said of ours goes before --, what stands behind it is the command's.
    assert impetusd.run("exec", "p", "--", "echo", "-c", "--help", "--", "x").out == "-c --help -- x\n"
    assert "UNIT -- COMMAND" in impetusd.run("exec", "--help").out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_for_the_command_line_is_the_commands(impetusd: Instance, number: signal.Signals) -> None:
    impetusd.write("[program:p]\ncommand = sleep 1000\n")
    process = impetusd.popen("exec", "p", "--", "sleep", "1000")
    wait_for(lambda: _commands_below(process.pid) == ["sleep"], "the command")
    process.send_signal(number)
    impetusd.finish(process, 128 + number)


def test_a_unit_that_runs_with_older_values_is_named(impetusd: Instance) -> None:
    begin(impetusd)
    impetusd.write(f"FROM_FILE={SECRET}\n", "p.env").chmod(0o600)
    pid = impetusd.status()["p"].pid
    result = impetusd.run("exec", "p", "--", "true")
    assert result.err == (
        f"impetusd: p (pid {pid}) was started with different values of FROM_FILE than this command gets"
        f" → impetusd -c {impetusd.conf} restart p\n"
    )
    impetusd.run("restart", "p")
    assert impetusd.run("exec", "p", "--", "true").err == ""
    impetusd.write(INI.format(root=impetusd.root).replace("OF_T = yes", "OF_T = no"))
    result = impetusd.run("exec", "t", "--", "printenv", "OF_T")
    assert (result.out, result.err.count("\n")) == ("yes\n", 1)
    assert "has changes that are not applied" in result.err


@pytest.mark.usefixtures("as_root")
def test_it_is_the_units_user_with_its_groups_limits_and_privileges(impetusd: Instance) -> None:
    """What the timer's own run prints, and what the same command prints by hand."""
    script = impetusd.write(
        "env | grep -v -e INVOCATION_ID -e IMPETUSD_DAEMON | sort; umask; pwd; ulimit -a; id\n"
        "cat /proc/self/oom_score_adj; grep -E '^(Sig[BIC]|Cap|NoNew|Groups|Uid|Gid|Cpus_allowed_list)' /proc/self/status\n"
        "nice\n",
        "look.sh",
    )
    impetusd.root.chmod(0o755)
    impetusd.start(
        f"[timer:t]\ncommand = sh {script}\nevery = 1d\nuser = nobody:{GROUP}\numask = 027\ncwd = /usr\nnice = 3\n"
        "rlimits = nofile=500:600, core=0\noom_score_adj = 77\ncapabilities = net_bind_service\ncpu_affinity = 0\n"
        f"[env:t]\nAPI_TOKEN = {SECRET}\n"
    )
    by_timer = impetusd.run("trigger", "t")
    by_hand = impetusd.run("exec", "t", "--", "sh", script)
    assert by_hand.out == by_timer.out
    assert f"API_TOKEN={SECRET}\n" in by_hand.out
    with open("/etc/shadow", "rb") as ours:  # what the caller has open is not for the command
        listed = subprocess.run(
            [*impetusd.command, "-c", impetusd.conf, "exec", "t", "--", "ls", "/proc/self/fd"],
            pass_fds=[ours.fileno()], env=impetusd.environ, capture_output=True, text=True, check=True,
        )  # fmt: skip
    assert listed.stdout.split() == ["0", "1", "2", "3"]  # 3 is where ls reads this


def test_no_other_peer_gets_what_the_unit_knows_an_admin_neither(
    impetusd: Instance, command_of_anyone: list[str]
) -> None:
    """For it could not become the unit's user, and whoever can needs no admin's role."""
    begin(impetusd)
    impetusd.root.chmod(0o755)
    for uid, told in (
        (LOOKS, "exec requires the role admin, but yours is viewer"),
        (RUNS, "exec requires the role admin, but yours is operator"),
        (RULES, "exec must be run as the user that impetusd runs as"),
    ):
        refused = subprocess.run(
            [*command_of_anyone, "-c", str(impetusd.conf), "exec", "p", "--", "id"],
            user=uid, group=uid, extra_groups=[], env=impetusd.environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (refused.returncode, refused.stdout) == (1, "")
        assert told in refused.stderr
        assert SECRET not in refused.stderr
    wait_for(
        lambda: (
            [(each["uid"], each["outcome"]) for each in records(impetusd)]
            == [(uid, "refused") for uid in (LOOKS, RUNS, RULES)]
        )
    )


def test_root_is_not_made_to_become_whom_another_users_daemon_names(ordinary: Instance, as_root: None) -> None:
    ordinary.start("[program:p]\ncommand = sleep 1000\n")
    assert ordinary.run("exec", "p", "--", "id", "-un").out == f"{ordinary.user}\n"
    ordinary.user, user = None, ordinary.user
    refused = ordinary.run("exec", "p", "--", "id", code=1)
    ordinary.user = user
    assert "exec must be run as the user that impetusd runs as" in refused.err


def _commands_below(pid: int) -> list[str]:
    """The names of a process's descendants."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found += [Path(f"/proc/{child}/comm").read_text().strip(), *_commands_below(child)]
    return found


class Terminal:
    """A terminal with the command in front of it."""

    def __init__(self, argv: list[str], env: dict[str, str]) -> None:
        self.master, slave = os.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("4H", 30, 90, 0, 0))
        self.before = termios.tcgetattr(slave)
        take = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", take, *argv],
            stdin=slave, stdout=slave, stderr=slave, env={**env, "TERM": "vt100"}, start_new_session=True,
        )  # fmt: skip
        self.slave = slave
        self.seen = ""

    def expect(self, pattern: str) -> str:
        """Read until it is there."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.seen)):
            assert select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0], self.seen
            with contextlib.suppress(OSError):
                self.seen += os.read(self.master, 4096).decode()
        self.seen = self.seen[found.end() :]
        return found[0]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal(impetusd: Instance) -> Iterator[Terminal]:
    impetusd.write("[program:p]\ncommand = sleep 1000\n")
    argv = [*impetusd.command, "-c", str(impetusd.conf), "exec", "p", "--", "sh"]
    found = Terminal(argv, {**impetusd.environ, "PS1": "$ "})
    yield found
    found.close()


def test_terminal_keys_window_and_ctrl_c_are_the_commands(terminal: Terminal) -> None:
    terminal.expect(r"[$#] ")
    terminal.type("stty size; echo $TERM-$(ps -o tty= -p $$)-\n")
    assert terminal.expect(r"30 90\s+vt100-\S+-")
    outer = os.ttyname(terminal.slave).removeprefix("/dev/")
    terminal.type("test $(readlink /proc/$$/fd/0) = /dev/" + outer + " && echo sa''me || echo ot''her\n")
    terminal.expect("other")
    fcntl.ioctl(terminal.master, termios.TIOCSWINSZ, struct.pack("4H", 31, 91, 0, 0))
    terminal.type("trap 'echo win''ch' WINCH; until stty size | grep '31 9''1'; do sleep 0.01; done\n")
    terminal.expect("31 91")
    terminal.type("sleep 1000; echo inter''rupted $?\n")
    terminal.expect(r"rupted \$\?")
    wait_for(lambda: "sleep" in _commands_below(terminal.process.pid), "the sleep")
    terminal.type("\x03")
    terminal.expect("\r\n")
    terminal.type("echo still he''re; exit 5\n")
    terminal.expect("still here")
    assert terminal.process.wait(PATIENCE) == 5
    assert termios.tcgetattr(terminal.slave) == terminal.before
