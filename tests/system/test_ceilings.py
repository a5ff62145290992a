"""memory_max and cpu_max: enforced by the kernel where impetusd has a cgroup v2 for it, and said not to be where it has none."""

from __future__ import annotations

import sys

import pytest
from instance import Instance, pool, wait_for

from impetusd.linux.cgroup import cgroup_of, offered

EATER = "held = []\nwhile True: held.append(bytearray(1 << 20))"
enforced = pytest.mark.skipif(
    not {"memory", "cpu"} <= offered(), reason="needs the memory and cpu controllers in a writable cgroup v2"
)


@pytest.mark.skipif("memory" in offered(), reason="this host has what is to be missing")
def test_where_the_kernel_cannot_it_is_said_and_the_unit_runs(impetusd: Instance) -> None:
    impetusd.write(
        "[program:p]\ncommand = sleep 300\nmin_uptime = 0\nmemory_max = 64M\n[program:q]\ncommand = sleep 300\nmin_uptime = 0\n"
    )
    warned = impetusd.run("check", "--host", code=1).err
    assert (
        "impetusd.ini:4: memory_max: not enforced, because impetusd cannot use the cgroup v2 controller memory here"
        in warned
    )
    assert impetusd.run("check").code == 0
    impetusd.run("start")
    status = impetusd.settle()
    (notice,) = status.fields["attention"]
    assert notice.startswith("memory_max of p cannot be enforced: ")
    impetusd.kill(status.supervisor)
    after = impetusd.settle(lambda now: now.supervisor != status.supervisor)
    assert after.pids == status.pids
    assert after.fields["attention"] == [notice]
    impetusd.write(
        "[program:p]\ncommand = sleep 300\nmin_uptime = 0\n[program:q]\ncommand = sleep 300\nmin_uptime = 0\n"
    )
    assert "memory_max: 64M → 0" in impetusd.run("plan", code=1).out
    impetusd.run("apply")
    assert impetusd.settle().fields["attention"] == []


@enforced
def test_what_outgrows_memory_max_is_killed_and_why_names_it(impetusd: Instance) -> None:
    (impetusd.root / "eater.py").write_text(EATER)
    command = f"sh -c '{sys.executable} -ISc 0; {sys.executable} -IS {impetusd.root}/eater.py & wait'"
    impetusd.start(
        f"[program:eater]\ncommand = {command}\nautorestart = never\nautostart = no\nmemory_max = 64M\n"
        "[program:held]\ncommand = sleep 300\nmin_uptime = 0\nmemory_max = 64M\ncpu_max = 50%\n"
    )
    status = impetusd.status()
    assert status.fields["attention"] == []
    place = cgroup_of(status["held"].pid)
    with open(f"{place}/cpu.max", encoding="ascii") as cpu, open(f"{place}/memory.max", encoding="ascii") as memory:
        assert (cpu.read(), memory.read()) == ("50000 100000\n", f"{64 << 20}\n")
    impetusd.run("start", "eater", code=None)
    row = impetusd.wait_state("eater", "FATAL", "EXITED")
    assert "killed by the kernel: above memory_max = 64 MB" in row.reason
    wait_for(lambda: "memory_max ended it" in impetusd.run("why", "eater", code=None).out, "why to name it")


@enforced
def test_a_pools_workers_are_held_each_by_itself(impetusd: Instance) -> None:
    port = impetusd.port()
    status = impetusd.start(f"[pool:web]\n{pool(port, memory_max='256M', standby=0)}")

    def limits() -> set[str]:
        places = {cgroup_of(status[name].pid) for name in ("web:0", "web:1", "web:template")}
        found = set()
        for place in places if len(places) == 3 else ():
            with open(f"{place}/memory.max", encoding="ascii") as file:
                found.add(file.read())
        return found

    wait_for(lambda: limits() == {f"{256 << 20}\n"}, "each to be in a cgroup of its own")
