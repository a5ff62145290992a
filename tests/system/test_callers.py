"""Whoever types a command: with closed streams, ignored signals, in a folder that is gone, in an ASCII locale."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from instance import COMMAND, Instance, program
from waiting import PATIENCE, wait_for

IGNORING = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
IN_MAIN = re.compile(r"cli/main\.py\", line \d+, in main\n")  # in a traceback
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture
def conf(impetusd: Instance) -> str:
    """In a folder with a name that is not ASCII."""
    folder = impetusd.root / "é"
    folder.mkdir()
    text = f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n"
    impetusd.conf = folder / "impetusd.ini"
    impetusd.conf.write_text(text)
    return str(impetusd.conf)


def test_a_caller_may_be_anyone(impetusd: Instance, conf: str) -> None:
    def told(*command: str, **how: object) -> str:
        given = {"env": impetusd.environ, "cwd": impetusd.root, "timeout": PATIENCE, "text": True, **how}
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **given)  # type: ignore[call-overload]
        assert (done.returncode, "Traceback" in done.stdout) == (0, False), done.stdout
        return str(done.stdout)

    start, stop, show = ([*COMMAND, "-c", conf, word] for word in ("start", "stop", "status"))
    for closed in (">&-", "2>&-", "<&-", "<&- >&- 2>&-"):
        told("sh", "-c", f'"$@" {closed}', "sh", *start)
        told("sh", "-c", f'"$@" {closed}', "sh", *show)
        assert impetusd.settle()["p"].state == "RUNNING"
        told("sh", "-c", f'"$@" {closed}', "sh", *stop)
    told(sys.executable, "-c", IGNORING, *start)
    assert impetusd.settle()["p"].state == "RUNNING"
    told(sys.executable, "-c", IGNORING, *stop)
    told(*start)
    ascii_only = {**impetusd.environ, **ASCII}
    for words in (["logs"], ["logs", "impetusd"], ["status"], ["why", "p"], ["events"], ["check"], ["describe", "p"]):
        told(*COMMAND, "-c", conf, *words, env=ascii_only)
    assert "\\xe9/impetusd.ini is OK" in told(*COMMAND, "-c", conf, "check", env=ascii_only)


def test_the_folder_of_the_caller_may_be_gone(impetusd: Instance, conf: str) -> None:
    gone = impetusd.root / "gone"
    gone.mkdir()
    script = 'rmdir "$PWD"; exec "$@"'
    for words, code in ((["-c", conf, "status"], 3), (["-c", "x.ini", "status"], 2), (["status"], 2), (["init"], 2)):
        gone.mkdir(exist_ok=True)
        done = subprocess.run(
            ["sh", "-c", script, "sh", *COMMAND, *words],
            env=impetusd.environ,
            cwd=gone,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        if words[-1] != "init":
            assert done.returncode == code, done
    wait_for(lambda: not impetusd.members(), "nobody to be there")


def test_ctrl_c_ends_a_command_and_nothing_else(impetusd: Instance) -> None:
    """Whenever it comes: while the command is only being imported, while the daemon is launched, while programs start."""
    never = "command = sleep 1000\nwait_ready = yes\nlisten_timeout = 1h\n"
    impetusd.write(f"[program:slow]\n{never}[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n")

    def interrupted(words: str, after: float) -> subprocess.CompletedProcess[str]:
        command = subprocess.Popen(
            [*COMMAND, "-c", str(impetusd.conf), *words.split()],
            env=impetusd.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            command.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(command.pid, signal.SIGINT)
        out, _ = command.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(words, command.returncode, out)

    for tenths in range(8):
        done = interrupted("start", tenths / 20)
        assert not IN_MAIN.search(done.stdout), done  # before that it is Python's own, which is only just starting
        assert done.returncode in {130, -signal.SIGINT, 1}, done
    impetusd.run("start", "p")
    before = impetusd.status()
    assert before["p"].state == "RUNNING"
    assert len([each for each in impetusd.members() if "shim/__main__.py" in each.command]) == 1
    for words in ("start slow", "restart slow", "status", "logs -f", "events -f"):
        done = interrupted(words, 0.4)
        assert not IN_MAIN.search(done.stdout), done
        assert done.returncode in {130, 0, 1, -signal.SIGINT}, done
    assert any("continues without this command" in interrupted("start slow", after).stdout for after in (1, 3, 9, 27))
    after = impetusd.status()
    assert (after.shim, after["p"].pid) == (before.shim, before["p"].pid)
