"""That the kernel has killed a child for memory is told as its own cgroup counts it, and never guessed."""

from __future__ import annotations

import os
import signal
import sys

import pytest
from shim_harness import CGROUPS, Shim

from impetusd.linux.cgroup import Cgroups

EATER = "held = []\nwhile True: held.append(bytearray(1 << 20))"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("low 0\nhigh 0\nmax 41\noom 3\noom_kill 2\noom_group_kill 0\n", 2),
        ("low 0\noom 3\noom_kill 0\n", 0),
        ("low 0\noom 1\n", 0),
        ("oom_kill many\n", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_the_kernels_count_is_read(tmp_path, text, count):
    if text is not None:
        (tmp_path / "memory.events").write_text(text)
    assert Cgroups.oom_kills(str(tmp_path)) == count


@pytest.fixture
def counting(tmp_path):
    """A shim whose cgroups count as many kills for memory as there are bytes in a file, none to begin with."""
    count = tmp_path / "count"
    count.write_text("")
    with Shim(setup=f"cgroup.Cgroups.oom_kills = lambda path: len(open({str(count)!r}).read())") as shim:
        yield shim, count


@pytest.mark.skipif(not CGROUPS, reason="needs a writable cgroup v2")
@pytest.mark.parametrize(
    ("number", "counted", "oom"), [(signal.SIGKILL, True, True), (signal.SIGKILL, False, False), (15, True, False)]
)
def test_it_is_told_of_a_child_in_whose_cgroup_the_count_has_risen(counting, number, counted, oom):
    shim, count = counting
    process, pid = shim.started("sleep", "300")
    if counted:
        count.write_text("x")
    os.kill(pid, number)
    assert shim.wait("exited", process).get("oom", False) is oom
    shim.supervisor.kill()
    (row,) = shim.next_life().hello["table"]
    assert row["ended"].get("oom", False) is oom


@pytest.mark.skipif(not CGROUPS, reason="needs a writable cgroup v2")
@pytest.mark.parametrize("scope", ["main", "tree"])
def test_a_kill_on_command_is_no_want_of_memory(counting, scope):
    shim, count = counting
    process, _ = shim.started("sleep", "300")
    count.write_text("x")
    shim.signal(process, signal.SIGKILL, scope)
    assert "oom" not in shim.wait("exited", process)


def test_without_a_cgroup_of_its_own_nothing_is_told():
    with Shim(cgroups=False) as shim:
        process, pid = shim.started("sleep", "300")
        os.kill(pid, signal.SIGKILL)
        assert "oom" not in shim.wait("exited", process)


def test_a_child_that_outgrows_its_cgroup_is_told_as_such():
    with Shim() as shim:
        gate = shim.path("gate")
        os.mkfifo(gate)
        process = shim.spawn("sh", "-c", 'read _ < "$0"; exec "$1" -I -S -c "$2"', gate, sys.executable, EATER)
        shim.wait("spawned", process)
        limit = f"{shim.cgroup}/test-{process}/memory.max"
        if not os.path.exists(limit):
            pytest.skip("needs the memory controller in a writable cgroup v2")
        with open(limit, "w", encoding="ascii") as file:
            file.write(str(100 << 20))
        with open(gate, "w", encoding="ascii") as file:
            file.write("go\n")
        ended = shim.wait("exited", process)
        assert (ended["signal"], ended["oom"]) == (signal.SIGKILL, True)
