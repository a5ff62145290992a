"""What goes wrong in one corner of a daemon with 200 other programs, and a pool under load, is noticed by none of these.

One daemon lives through all of it, so these tests are in an order, and need what the ones before have left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import census
import pytest
from instance import Instance, Status, in_all_log_modes, pool
from lending import Lend
from load import fetch
from own_passwd import GHOST, Passwd
from waiting import wait_for

OTHERS = 200
RATE, CLIENTS = 500, 10  # requests a second
CLIENT = Path(__file__).parent.parent / "chaos" / "client.py"
LINES = 20_000
LINE = "an ordinary line of a program, number {}\n"
WRITERS = ("plain", "time", "json", "many:0", "many:1", "many:2")
AT_A_REQUEST = 3000  # lines that app_prints_at_request prints
CHANGES_BY_ITSELF = {"web:template", "loud:template", "ghost", "job"}  # a template forks for one shim, and ends with it


class Many:
    """The daemon, the client of its pool, and what runs from the beginning to the end."""

    def __init__(self, impetusd: Instance, passwd: Passwd, stack: ExitStack) -> None:
        self.impetusd = impetusd
        self.passwd = passwd
        port, self.loud = impetusd.port(), impetusd.port()
        impetusd.write("".join(LINE.format(number) for number in range(LINES)), "text")
        cat = f"command = cat {impetusd.root}/text\nautorestart = never\nautostart = no"
        impetusd.start(f"""
[impetusd]
run_dir = var/run
state_dir = var/lib
log_dir = var/log
[program:other]
command = /bin/sleep 1000
instances = {OTHERS}
[pool:web]
{pool(port)}
[pool:loud]
{pool(self.loud, "app_prints_at_request:make", instances=1, time="yes")}
[program:ghost]
command = /bin/sleep 1000
user = ghost
min_uptime = 0
exp_backoff_max_delay = 1s
max_restarts = 1000
[timer:job]
command = sleep 0.05
every = 1d
{in_all_log_modes(cat)}""")
        self.began = impetusd.wait_status(lambda now: all(now[name].pid for name in ("ghost", "web:1", "web:standby")))
        self.lasting = self._lasting(self.began)
        assert len([name for name in self.lasting if name.startswith("other:")]) == OTHERS
        client = subprocess.Popen(
            [sys.executable, CLIENT, str(port), str(RATE), str(CLIENTS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        stack.callback(client.communicate)
        self._client = client
        wait_for(lambda: self._seen()["answered"], "the first answers")

    @staticmethod
    def _lasting(now: Status) -> dict[str, int]:
        return {name: pid for name, pid in now.pids.items() if name not in CHANGES_BY_ITSELF | set(WRITERS)}

    def _seen(self) -> dict[str, Any]:
        assert self._client.stdin is not None
        assert self._client.stdout is not None
        print(file=self._client.stdin, flush=True)
        seen: dict[str, Any] = json.loads(self._client.stdout.readline())
        return seen

    def none_noticed(self) -> None:
        """The same processes run as at the beginning, none of anything twice, and no request has failed."""
        trouble = ""

        def whole() -> bool:
            nonlocal trouble
            now = self.impetusd.status()
            trouble = self.impetusd.discrepancy(now)
            return not trouble and "web:template" in now.pids and "loud:template" in now.pids

        wait_for(whole, lambda: f"each to run once: {trouble}\n{self.impetusd.log()}", apart=0.05)
        assert self._lasting(self.impetusd.status()) == self.lasting
        seen = self._seen()
        assert seen["failed"] == []
        assert seen["answered"]
        assert "Traceback" not in self.impetusd.log()

    def kill_both(self) -> Status:
        """The shim and the supervisor, neither of which has time to start the other again."""
        now = self.impetusd.status()
        for pid in (now.supervisor, now.shim):
            self.impetusd.kill(pid, signal.SIGSTOP)
        for pid in (now.shim, now.supervisor):
            self.impetusd.kill(pid)
        templates = [now[name].pid for name in ("web:template", "loud:template")]
        wait_for(lambda: all(map(_dead, (now.shim, now.supervisor, *templates))), "their end")
        return now

    def descriptors(self) -> dict[str, list[str]]:
        """All that two of the programs have, and the pipes that the daemon has for what runs."""
        now = self.impetusd.status()
        theirs = {name: census.descriptors(now[name].pid) for name in ("web:0", "other:7")}
        return {**theirs, "shim": [each for each in census.descriptors(now.shim) if each == "pipe"]}

    def more(self, before: dict[str, list[str]]) -> dict[str, list[str]]:
        """What they have now, and had not before."""
        now = self.descriptors()
        return {name: found for name in now if (found := census.difference(now[name], before[name]))}


def _dead(pid: int) -> bool:
    process = census.read(pid)
    return process is None or process.zombie


@pytest.fixture(scope="module")
def made(lend: Lend) -> Iterator[Many]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with lend(None) as impetusd, ExitStack() as stack:
        yield Many(impetusd, Passwd(impetusd), stack)


@pytest.fixture
def many(made: Many) -> Iterator[Many]:
    yield made
    made.none_noticed()


def test_writes_beyond_what_a_pipe_holds_in_every_form_of_a_log(many: Many) -> None:
    impetusd = many.impetusd
    impetusd.run("start", "plain", "time", "json", "many")
    assert fetch(many.loud) == "printed"
    counts = {"plain-out.log": LINES, "time-out.log": LINES, "json-out.log": LINES, "many-out.log": 3 * LINES}
    for name, count in {**counts, "loud-0-out.log": AT_A_REQUEST}.items():
        wait_for(lambda name=name, count=count: impetusd.log(name).count("\n") >= count, f"all lines in {name}")
        assert impetusd.log(name).count("\n") == count
    impetusd.wait_status(lambda now: not any(now[name].pid for name in WRITERS))


def test_a_user_that_the_host_does_not_know_any_more(many: Many) -> None:
    impetusd = many.impetusd
    many.passwd.write()
    impetusd.kill(impetusd.status()["ghost"].pid)
    assert "user ghost does not exist on this host" in impetusd.wait_state("ghost", "BACKOFF").reason
    impetusd.kill(impetusd.status().supervisor)
    impetusd.wait_state("ghost", "BACKOFF")
    many.none_noticed()
    many.passwd.write(GHOST)
    impetusd.run("restart", "ghost")


def test_a_run_dir_that_cannot_be_made(many: Many) -> None:
    """Of another instance, that is started beside it."""
    text = (
        "[impetusd]\nrun_dir = /proc/run\nstate_dir = b/lib\nlog_dir = b/log\n[program:p]\ncommand = /bin/sleep 1000\n"
    )
    refused = many.impetusd.run("-c", many.impetusd.write(text, "b.ini"), "start", code=1)
    assert "run_dir" in refused.err
    assert len(refused.err.splitlines()) == 1


def test_a_timers_job_that_ends_while_it_is_switched_and_applied(many: Many) -> None:
    impetusd = many.impetusd
    for _ in range(2):
        triggered = impetusd.popen("trigger", "job")
        at_once = [impetusd.popen("disable", "job"), impetusd.popen("apply")]
        for command in at_once:
            impetusd.finish(command)
        impetusd.finish(triggered, code=None)  # it may have come too late
        impetusd.run("enable", "job")


def test_a_second_file_in_the_same_folders_and_another_name_of_the_first(many: Many) -> None:
    impetusd = many.impetusd
    dirs = "[impetusd]\nrun_dir = var/run\nstate_dir = var/lib\nlog_dir = var/log\n"
    second = impetusd.write(f"{dirs}[program:other]\ncommand = /bin/sleep 1000\ninstances = {OTHERS}\n", "second.ini")
    for command in ("start", "apply", "restart", "stop"):
        refused = impetusd.run("-c", second, command, code=2)
        assert str(impetusd.conf) in refused.err
        assert str(second) in refused.err
    (impetusd.root / "link").symlink_to(impetusd.root)
    impetusd.run("-c", impetusd.root / "link" / "impetusd.ini", "start")


def test_a_lost_table(many: Many) -> None:
    impetusd = many.impetusd
    table = impetusd.run_dir / "table"
    many.kill_both()
    whole = table.read_text()
    table.unlink()
    refused = impetusd.run("start", code=1)
    assert "its table is missing" in refused.err
    assert f"impetusd -c {impetusd.conf} stop" in refused.err
    table.write_text(whole)
    impetusd.run("start")


def test_descriptors_after_a_double_kill(many: Many) -> None:
    before = many.descriptors()  # the kill before has ended the pipes of what had ended
    many.kill_both()
    many.impetusd.run("start")
    many.none_noticed()
    assert fetch(many.loud) == "printed"
    wait_for(lambda: many.impetusd.log("loud-0-out.log").count("\n") == 2 * AT_A_REQUEST, "what it printed")
    wait_for(lambda: not many.more(before), lambda: f"{many.more(before)} to be closed", apart=0.05)


def test_stop_half_a_second_after_a_crash(made: Many) -> None:
    """The last: it ends everything."""
    impetusd = made.impetusd
    now = impetusd.status()
    impetusd.kill(now.shim)
    impetusd.run("stop")
    assert not [each for each in impetusd.members() if each.pid in {*made.lasting.values(), now.supervisor}]
    impetusd.run("status", code=3)
