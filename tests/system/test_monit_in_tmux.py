"""`impetusd monit` in tmux, as an operator sees it, on a real daemon."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest
from instance import COMMAND, Instance
from waiting import wait_for


class Tmux:
    """A server of its own with one window of 80 x 24."""

    def __init__(self, impetusd: Instance) -> None:
        self._impetusd = impetusd
        self._path = str(impetusd.root / "tmux.sock")

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", self._path, "-f", "/dev/null", *words],
            capture_output=True,
            text=True,
            check=False,
            env={**self._impetusd.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm"},
        )
        return done.stdout

    def begin(self, *command: str) -> None:
        self.run("new-session", "-d", "-x", "80", "-y", "24", "-s", "m", f"exec {shlex.join(command)}")
        self.run("set-option", "-g", "remain-on-exit", "on")

    def press(self, *keys: str) -> None:
        self.run("send-keys", "-t", "m", *keys)

    def screen(self) -> str:
        return self.run("capture-pane", "-p", "-t", "m")

    def until(self, holds: Callable[[str], object]) -> str:
        wait_for(lambda: holds(self.screen()), lambda: f"another screen than\n{self.screen()}", apart=0.05)
        return self.screen()


@pytest.fixture
def tmux(impetusd: Instance) -> Iterator[Tmux]:
    if shutil.which("tmux") is None:
        pytest.skip("there is no tmux")
    found = Tmux(impetusd)
    yield found
    found.run("kill-server")


WRITES = "sh -c 'echo one; echo \"\\033]0;owned\\007\\033[2Jtwo\"; exec sleep 300'"


def test_an_operator_looks_and_acts(impetusd: Instance, tmux: Tmux) -> None:
    impetusd.start(
        f"[program:api]\ncommand = {WRITES}\n[program:db]\ncommand = sleep 300\ninstances = 2\n"
        "[program:bad]\ncommand = /no/such\nautostart = no\n"
    )
    tmux.begin(*COMMAND, "monit", "-c", str(impetusd.conf))
    first = tmux.until(lambda text: "q quit" in text and "3 up" in text).splitlines()
    assert [line.split()[:2] for line in first[1:6]] == [
        ["NAME", "STATE"],
        ["api", "RUNNING"],
        ["db:0", "RUNNING"],
        ["db:1", "RUNNING"],
        ["bad", "STOPPED"],
    ]
    assert len(first) == 24

    tmux.press("l")
    log = tmux.until(lambda text: "two" in text).splitlines()
    assert log[0].startswith("stdout of api  all 3 up, 1 stopped  ")
    assert log[1:3] == ["one", "two"]
    tmux.press("q", "j", "w")
    tmux.until(lambda text: "db:0 has been RUNNING since" in text and "logs db" in text)
    tmux.press("q", "G", "s")
    tmux.until(lambda text: "Start bad?  y: yes" in text)
    tmux.press("n")
    tmux.until(lambda text: "nothing was done" in text)
    tmux.press("s", "y")
    failed = tmux.until(lambda text: "1 of 4 not OK" in text and "start bad failed" in text).splitlines()
    assert failed[1].startswith("bad is FATAL: executing /no/such failed: no such file")
    tmux.press("/", "d", "b", "Enter", "S", "y")
    tmux.until(lambda text: "stop db:0: done" in text)
    assert impetusd.status()["db:0"].state == "STOPPED"
    tmux.press("Escape")

    before = impetusd.status()
    impetusd.kill(before.supervisor)
    os.kill(before["api"].pid, signal.SIGKILL)
    tmux.until(lambda text: str(impetusd.status()["api"].pid) in text and text.splitlines()[0].endswith("live"))
    tmux.run("resize-window", "-t", "m", "-x", "50", "-y", "12")
    tmux.until(lambda text: len(text.splitlines()) == 12 and "RESTARTS" in text and "CPU" not in text)
    tmux.press("q")
    wait_for(lambda: tmux.run("list-panes", "-t", "m", "-F", "#{pane_dead}").strip() == "1", "it to end")
