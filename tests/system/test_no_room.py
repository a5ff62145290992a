"""A run_dir that cannot be written, from the start or later: told at once, and what runs goes on until it is told to end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import census
import pytest
from instance import Instance, wait_for
from mounts import CannotMount, mounted

ONE = "[program:p]\ncommand = sleep 300\n"


def refused(impetusd: Instance, command: str, *words: str) -> None:
    """One sentence with these words, and nothing was left."""
    ended = impetusd.run(command, code=1)
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1
    assert [word for word in words if word not in ended.err] == []
    wait_for(lambda: not impetusd.members(), "nobody to be left")
    assert [path for path in (impetusd.root / "var").rglob("*") if not path.is_dir()] == []


@pytest.mark.parametrize("command", ["start", "run"])
@pytest.mark.parametrize("folder", ["run", "lib"])
def test_a_folder_that_the_user_may_not_write_is_named(
    ordinary: Instance, as_root: None, command: str, folder: str
) -> None:
    ordinary.write(ONE)
    (ordinary.root / "var" / folder).mkdir(parents=True)
    (ordinary.root / "var").chmod(0o777)
    field = {"run": "run_dir", "lib": "state_dir"}[folder]
    refused(
        ordinary, command, f"cannot write into {field} {ordinary.root}/var/{folder}: Permission denied", "[impetusd]"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=16k,nr_inodes=1", "cannot write into run_dir|No space left on device"),
        ("size=4k", "cannot write into run_dir|No space left on device"),
        ("ro", "cannot write into run_dir|Read-only file system"),
    ],
)
def test_a_run_dir_without_room_is_named(impetusd: Instance, options: str, words: str) -> None:
    impetusd.write(ONE)
    impetusd.run_dir.mkdir(parents=True)
    try:
        with mounted(impetusd, 'mount -t tmpfs -o "$1" none "$2"', options, impetusd.run_dir):
            refused(impetusd, "start", *words.split("|"))
            refused(impetusd, "run", *words.split("|"))
    except CannotMount as error:
        pytest.skip(str(error))


def test_a_run_dir_that_fills_up_is_told_by_status_and_what_runs_is_kept(impetusd: Instance) -> None:
    impetusd.run_dir.mkdir(parents=True)
    try:
        with mounted(impetusd, 'mount -t tmpfs -o size=128k none "$1"', impetusd.run_dir) as inside:
            before = impetusd.start(f"{ONE}min_uptime = 0\nmax_restarts = 10000\n")
            fill = "cat /dev/zero > $1/filler; true"
            subprocess.run([*inside, "sh", "-c", fill, "sh", impetusd.run_dir], check=True, capture_output=True)

            def told() -> str:
                now = impetusd.settle()
                os.kill(now["p"].pid, signal.SIGKILL)  # each round makes the table longer
                return impetusd.run("status", code=None).out

            wait_for(lambda: f"{impetusd.run_dir}/table cannot be written: No space left on device" in told(), "it")
            alive = impetusd.settle()
            for pid in (before.supervisor, before.shim):
                impetusd.kill(pid, signal.SIGSTOP)
            for pid in (before.shim, before.supervisor):
                os.kill(pid, signal.SIGKILL)
            refused = impetusd.run("start", code=1)
            assert "No space left on device" in refused.err
            assert census.read(alive["p"].pid) is not None
            os.kill(alive["p"].pid, signal.SIGKILL)
            subprocess.run([*inside, "sh", "-c", "rm $1/filler", "sh", impetusd.run_dir], check=True)
            impetusd.run("start")
    except CannotMount as error:
        pytest.skip(str(error))


@pytest.fixture
def covered(impetusd: Instance) -> Iterator[Callable[[], Callable[[], None]]]:
    """Covers the run_dir with an empty one that nobody can write to, until what it gives is called."""
    try:
        with mounted(impetusd, "true") as inside:

            def cover() -> Callable[[], None]:
                mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", impetusd.run_dir]
                subprocess.run([*inside, *mount], check=True)
                return lambda: subprocess.run([*inside, "umount", impetusd.run_dir], check=True) and None

            yield cover
    except CannotMount as error:
        pytest.skip(str(error))


def lost(impetusd: Instance, times: int) -> None:
    """Kill the supervisor, so often; each next one cannot make its socket."""
    told = f"cannot create {impetusd.control_socket}: Read-only file system; retrying"
    for number in range(times):
        (pid,) = wait_for(lambda: supervisors(impetusd), "the supervisor")
        impetusd.kill(pid)
        impetusd.says(told, number + 1)


def test_a_run_dir_that_is_lost_is_told_and_what_runs_goes_on_until_stop(
    impetusd: Instance, covered: Callable[[], Callable[[], None]]
) -> None:
    before = impetusd.start(ONE)
    uncover = covered()
    lost(impetusd, 2)
    assert census.read(before["p"].pid) is not None
    ended = impetusd.run("stop")
    assert f"was sent SIGTERM: pid {before.shim}" in ended.out
    assert not impetusd.members()
    impetusd.says("p:0: STOPPED")  # in order, by its supervisor
    uncover()
    for left in impetusd.run_dir.iterdir():
        left.unlink()


def test_a_run_dir_that_comes_back_is_used(impetusd: Instance, covered: Callable[[], Callable[[], None]]) -> None:
    before = impetusd.start(ONE)
    uncover = covered()
    lost(impetusd, 1)
    uncover()
    impetusd.says(f"{impetusd.control_socket} was created")
    after = impetusd.settle()
    assert (after.shim, after.pids) == (before.shim, before.pids)
    impetusd.control_socket.unlink()
    impetusd.status()  # it is watched again


def supervisors(impetusd: Instance) -> list[int]:
    return [each.pid for each in impetusd.members() if "-m impetusd.supervisor" in each.command]
