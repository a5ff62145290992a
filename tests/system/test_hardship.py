"""What a host does to a daemon that is left alone for long: too few descriptors, numbers used anew, what cannot be killed."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import census
import pytest
from instance import COMMAND, Instance, Status, wait_for

from impetusd.core.reasons import errno_of

FREEZER = Path("/sys/fs/cgroup/freezer")


def test_six_programs_killed_again_and_again_are_counted_exactly(impetusd: Instance) -> None:
    names = [f"p{number}" for number in range(6)]
    keys = "command = sleep 300\nmin_uptime = 0\nmax_restarts = 1000\n"
    impetusd.write("".join(f"[program:{name}]\n{keys}" for name in names))
    impetusd.run("start")
    status = impetusd.settle()
    shim, supervisor = census.descriptors(status.shim), census.descriptors(status.supervisor)
    for _ in range(4):
        gone = set(status.pids.values())
        for pid in gone:  # settle() has just seen that they are its own
            os.kill(pid, signal.SIGKILL)
        status = impetusd.settle(lambda now, gone=gone: not gone & set(now.pids.values()))
    assert {name: row.restarts for name, row in status.rows.items()} == dict.fromkeys(names, 4)
    assert {row.last_exit["signal"] for row in status.rows.values()} == {"SIGKILL"}
    for pid, before in (
        (status.shim, shim),
        (status.supervisor, supervisor),
    ):  # which may count one that was being closed
        wait_for(
            lambda pid=pid, before=before: not census.difference(census.descriptors(pid), before),
            lambda pid=pid, before=before: f"{census.difference(census.descriptors(pid), before)} to be closed",
        )


def test_three_hundred_that_die_in_the_same_instant_come_back_once_each(impetusd: Instance) -> None:
    """The daemon stands still until the last of them is dead, so that it finds them all at once."""
    impetusd.write("[program:many]\ncommand = sleep 300\ninstances = 300\nmin_uptime = 0\n")
    impetusd.run("start")
    before = impetusd.settle()
    impetusd.kill(before.shim, signal.SIGSTOP)
    for pid in before.pids.values():  # settle() has just seen that they are its own
        os.kill(pid, signal.SIGKILL)
    victims = [process for process in census.children(before.shim) if process.pid != before.supervisor]
    wait_for(lambda: all((now := census.read(each.pid)) and now.zombie for each in victims), "the last death")
    impetusd.kill(before.shim, signal.SIGCONT)
    after = impetusd.settle(lambda now: not set(before.pids.values()) & set(now.pids.values()))
    assert len(after.pids) == len(victims) == 300
    assert {row.restarts for row in after.rows.values()} == {1}
    assert {row.last_exit["signal"] for row in after.rows.values()} == {"SIGKILL"}
    assert (after.shim, after.supervisor) == (before.shim, before.supervisor)


def test_too_few_descriptors_are_told_and_once_there_are_more_all_come_up(impetusd: Instance) -> None:
    """64 descriptors and 100 programs. What has room runs, the rest says why not, all is answered."""
    impetusd.write(
        "[program:first]\ncommand = sleep 300\n"
        "[program:many]\ncommand = sleep 300\ninstances = 100\nautostart = no\nautorestart = never\n"
    )
    before = impetusd.start()
    limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in (before.shim, before.supervisor)}
    for pid, (_, hard) in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, hard))
    impetusd.run("start", "many", code=1)
    scarce = impetusd.status()
    assert impetusd.log().count("\n") < 5 * len(scarce.rows)  # and none that goes on for ever
    up = {name for name, row in scarce.rows.items() if row.state == "RUNNING"}
    assert {"first", "many:0"} <= up < set(scarce.rows)
    for name in set(scarce.rows) - up:
        assert scarce[name].state == "FATAL"
        assert errno_of(scarce[name].why) == errno.EMFILE
    impetusd.run("stop", "first")
    for pid, limit in limits.items():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    impetusd.run("start", "first", "many")
    after = impetusd.settle()
    assert (after.shim, after.supervisor) == (before.shim, before.supervisor)
    assert {after[name].pid for name in up - {"first"}} == {scarce[name].pid for name in up - {"first"}}


def test_with_64_descriptors_what_runs_is_started_again_and_outlives_the_shim(impetusd: Instance) -> None:
    """Those that find no room try again and again, and must not take what those that run need."""
    often = "min_uptime = 0\nmax_restarts = 1000\nexp_backoff_max_delay = 1s\n"
    impetusd.write(f"[program:many]\ncommand = sleep 300\ninstances = 20\n{often}")
    impetusd.command = ["sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *COMMAND]
    impetusd.run("start", code=1)
    impetusd.command = COMMAND
    first = impetusd.status()

    def is_full(now: Status) -> bool:
        """Whether the same run as at the first look, and each of the rest has found no room since then."""
        nonlocal first
        down = {name for name, row in now.rows.items() if row.state != "RUNNING"}
        if now.pids != first.pids or not down:
            first = now
            return False
        return all(now[name].restarts > first[name].restarts for name in down)

    before = impetusd.wait_status(is_full)
    up = {name: row.pid for name, row in before.rows.items() if row.state == "RUNNING"}
    assert 3 < len(up) < 20
    victim = min(up)
    os.kill(up.pop(victim), signal.SIGKILL)
    impetusd.wait_status(lambda now: now[victim].state == "RUNNING" and now[victim].pid != before[victim].pid)
    impetusd.kill(before.shim)
    after = impetusd.wait_status(lambda now: now.shim != before.shim)
    assert {name: after[name].pid for name in up} == up


@pytest.mark.skipif(not os.access(FREEZER, os.W_OK), reason="needs a writable freezer, which is one of cgroup v1")
def test_what_cannot_be_killed_is_told_as_such_and_holds_up_nobody_else(impetusd: Instance) -> None:
    """What the kernel has frozen ends on SIGKILL only when it is thawed."""
    names = ("stuck", "other", "third")
    keys = "command = sleep 300\nkill_timeout = 100ms\n"
    before = impetusd.start("".join(f"[program:{name}]\n{keys}" for name in names))
    with frozen(impetusd, before["stuck"].pid):
        stop = impetusd.popen("stop", "stuck")
        hangs = "SIGKILL has no effect"
        wait_for(lambda: hangs in impetusd.status()["stuck"].reason, "the end of hope")
        impetusd.run("stop", "other")
        impetusd.run("restart", "third")
        now = impetusd.status()
        assert {name: now[name].state for name in names} == {
            "stuck": "STOPPING",
            "other": "STOPPED",
            "third": "RUNNING",
        }
        assert now["stuck"].pid == before["stuck"].pid
        assert hangs in impetusd.finish(stop, 1).err
    impetusd.wait_state("stuck", "STOPPED")


@pytest.mark.skipif(not os.access(FREEZER, os.W_OK), reason="needs a writable freezer, which is one of cgroup v1")
def test_the_end_of_everything_does_not_wait_for_what_cannot_be_killed(impetusd: Instance) -> None:
    """It is named, left behind, and ends once the kernel lets go of it."""
    keys = "command = sleep 300\nkill_timeout = 100ms\n"
    before = impetusd.start(f"[program:below]\n{keys}[program:stuck]\ndepends_on = below\n{keys}")
    with frozen(impetusd, before["stuck"].pid):
        stopped = impetusd.run("stop", code=1)
        assert f"stuck (pid {before['stuck'].pid}) is STOPPING: SIGKILL has no effect" in stopped.err
        assert [process.pid for process in impetusd.members()] == [before["stuck"].pid]
        impetusd.run("status", code=3)
    wait_for(lambda: not impetusd.members(), "its end")
    impetusd.run("start")
    impetusd.run("stop")  # the next daemon clears away the cgroup that was left
    impetusd.says(f"left running, because SIGKILL has no effect: stuck:0 (pid {before['stuck'].pid})")


@contextlib.contextmanager
def frozen(impetusd: Instance, pid: int) -> Iterator[None]:
    """Have the kernel run none of the process's code meanwhile, that of its end included."""
    ice = FREEZER / impetusd.root.name
    ice.mkdir()
    try:
        (ice / "cgroup.procs").write_text(str(pid))
        (ice / "freezer.state").write_text("FROZEN")
        yield
    finally:
        (ice / "freezer.state").write_text("THAWED")
        wait_for(lambda: not (ice / "cgroup.procs").read_text(), "the freezer to be empty")
        ice.rmdir()


def test_a_stranger_with_the_number_of_an_ended_process_is_left_alone(namespace: list[str]) -> None:
    """Where it chooses the next pid it chooses that of every process, those of other tests, too."""
    file = Path(__file__).with_name("numbers_anew.py")
    inside = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", file]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    reaping = ["sh", "-c", '"$@"; exit $?', "sh"]  # PID 1
    done = subprocess.run(
        [*namespace, *reaping, *inside], env=environ, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
