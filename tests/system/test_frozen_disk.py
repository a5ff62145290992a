"""A disk under log files freezes: what writes there hangs in the kernel, be it killed, and nothing else waits for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import census
import pytest
from freezing import Disk, disk
from instance import Instance, program, wait_for
from mounts import CannotMount

LINES = 200  # a second


@pytest.fixture
def ice(impetusd: Instance) -> Iterator[Disk]:
    try:
        with disk(impetusd) as found:
            yield found
    except CannotMount as error:
        pytest.skip(str(error))


def whole(text: str) -> None:
    """Every numbered line is there, once, in its order."""
    numbers = [int(line.split()[1]) for line in text.splitlines() if line.startswith("line ")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > LINES


def ini(ice: Disk, **log_dir: Path) -> str:
    own = "".join(f"{key} = {path}\n" for key, path in log_dir.items())
    return (
        f"[impetusd]\n{own}"
        f"[program:cold]\ncommand = {program('torrent', 'line', LINES)}\nout_file = {ice.folder}/cold.log\n"
        f"[program:warm]\ncommand = {program('torrent', 'line', LINES)}\nmin_uptime = 0\n"
    )


def test_a_killed_supervisor_that_hangs_in_the_disk_is_succeeded_at_once(impetusd: Instance, ice: Disk) -> None:
    before = impetusd.start(ini(ice))
    wait_for(lambda: "line 50" in ice.read("cold.log"), "lines on the disk")
    with ice.frozen():
        ice.has_hung(before.supervisor)
        os.kill(before.supervisor, signal.SIGKILL)
        status = impetusd.status()
        assert status.supervisor != before.supervisor
        assert (status.shim, status.pids) == (before.shim, before.pids)
        wait_for(lambda: (it := census.read(before.supervisor)) and it.zombie, "the dead one not to be reaped")
        said = f"the supervisor (pid {before.supervisor}) was killed but is stuck in the kernel"
        impetusd.says(said)
        os.kill(status["warm"].pid, signal.SIGKILL)
        again = impetusd.wait_status(lambda now: now["warm"].pid not in {None, before["warm"].pid} and now.all_running)
        assert again["warm"].pid != before["warm"].pid
        assert again["cold"].pid == before["cold"].pid
        here = len(impetusd.log("warm-out.log"))
        wait_for(lambda: len(impetusd.log("warm-out.log")) > here + 1000, "more lines of the other program")
    wait_for(lambda: census.read(before.supervisor) is None, "the dead one to be reaped")
    here = len(ice.read("cold.log"))
    wait_for(lambda: len(ice.read("cold.log")) > here + 5000, "more lines on the disk")
    whole(ice.read("cold.log"))


def test_with_its_own_log_on_that_disk_impetusd_goes_on_and_ends(impetusd: Instance, ice: Disk) -> None:
    """Whoever of shim and supervisor is killed; what was on its way to the log comes after the thaw, or is dropped."""
    before = impetusd.start(ini(ice, log_dir=ice.folder))
    wait_for(lambda: "line 50" in ice.read("cold.log"), "lines on the disk")
    with ice.frozen():
        ice.has_hung(before.supervisor)
        os.kill(before.supervisor, signal.SIGKILL)
        second = impetusd.status()
        assert (second.shim, second.pids) == (before.shim, before.pids)
        ice.has_hung(second.supervisor)
        os.kill(before.shim, signal.SIGKILL)
        third = impetusd.wait_status(lambda now: now.shim != before.shim)
        assert third.pids == before.pids
        ice.has_hung(third.supervisor)
        impetusd.run("stop")
        impetusd.run("status", code=3)
        assert not [each for each in impetusd.members() if not (each.zombie or each.state == "D")]
    wait_for(lambda: not impetusd.members(), "the dead to end")
