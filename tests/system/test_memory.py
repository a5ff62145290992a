"""Memory ceilings: what outgrows one is replaced before it hurts, and a kill by the kernel is told as such."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from instance import Instance, pool, program, wait_for
from load import Load, fetch

MB = 1024 * 1024
PID_NAMESPACE = "pid:[4026531836]"  # the first one, whose pids the kernel logs


def test_a_leaking_worker_is_replaced_and_no_request_fails(impetusd: Instance) -> None:
    port = impetusd.port()
    impetusd.start(f"[pool:web]\n{pool(port, 'leak_app:make', max_memory_restart='120M', kill_timeout='30s')}")
    with Load(port) as load:
        before = impetusd.status().pids  # the one that grows may be gone at the next look
        leaking = fetch(port, "/grow")
        name = next(name for name, pid in before.items() if str(pid) == leaking)
        wait_for(lambda: str(impetusd.status()[name].pid) != leaking, "the leaking worker to be replaced")
        impetusd.wait_state(name, "RUNNING")
        load.go_on(200)
    status = impetusd.settle()
    assert status[name].restarts == 1
    other = next(each for each in ("web:0", "web:1") if each != name)
    assert status[other].restarts == 0
    impetusd.says("above max_memory_restart = 120 MB")
    size = re.search(r"uses (\d+) MB, above max_memory_restart = 120 MB", impetusd.log())
    assert size is not None, impetusd.log()
    assert int(size[1]) >= 120


def test_a_program_is_measured_with_its_children_and_its_restart_is_counted(anyone: Instance) -> None:
    anyone.start(f"""
[program:p]
command = {program("leak_memory", "--in-child", "--from", 40, "--to", 90, 5)}
max_memory_restart = 64M
wait_ready = yes
""")
    wait_for(lambda: anyone.status()["p"].restarts >= 1, "one restart")
    anyone.says("above max_memory_restart = 64 MB")
    assert re.search(r"uses \d+ MB, above max_memory_restart = 64 MB", anyone.log())
    wait_for(lambda: (anyone.status()["p"].memory_bytes or 0) > 40 * MB, "the tree's memory to be shown")


def test_over_max_memory_kill_nothing_is_waited_for(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:p]
command = {program("leak_memory", "--from", 30, "--to", 90, 5)}
max_memory_kill = 50M
min_uptime = 0
kill_timeout = 1h
exp_backoff_restart_delay = 1h
exp_backoff_max_delay = 1h
""")
    wait_for(lambda: impetusd.status()["p"].last_exit, "its end")
    row = impetusd.status()["p"]
    assert row.last_exit["signal"] == "SIGKILL"
    assert "oom" not in row.last_exit
    impetusd.says("above max_memory_kill = 50 MB")
    assert re.search(r"uses \d+ MB, above max_memory_kill = 50 MB", impetusd.log())


def test_how_long_it_has_been_over_is_not_forgotten_when_the_supervisor_dies(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:p]
command = {program("leak_memory", "--from", 60, 0)}
max_memory_restart = 30M
memory_hold = 4s
""")

    def restarted() -> bool:
        """Each supervisor lives for much less than memory_hold."""
        status = impetusd.status()
        if status["p"].restarts:
            return True
        impetusd.kill(status.supervisor)
        wait_for(lambda: impetusd.status().supervisor != status.supervisor, "another supervisor")
        return False

    wait_for(restarted, "the restart")
    impetusd.says("above max_memory_restart = 30 MB for 4s")


@pytest.fixture
def cramped(as_root: None) -> Iterator[str]:
    """The cgroup.procs of a memory cgroup of 60 MB, on a host whose kernel tells us of its kills."""
    if os.readlink("/proc/self/ns/pid") != PID_NAMESPACE or not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("the kernel's log cannot be read here")
    path = f"/sys/fs/cgroup/memory/impetusd-system-test-{os.getpid()}"
    try:
        os.mkdir(path)
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    with open(f"{path}/memory.limit_in_bytes", "w", encoding="ascii") as file:
        file.write(str(60 * MB))
    yield f"{path}/cgroup.procs"

    def removed() -> bool:
        try:
            os.rmdir(path)
        except OSError:
            return False
        return True

    wait_for(removed, "the cgroup to be empty")


def test_a_kill_by_the_kernel_for_memory_is_told_as_such(cramped: str, impetusd: Instance) -> None:
    impetusd.start(f"""
[program:p]
command = {program("leak_memory", "--cgroup", cramped, 500)}
min_uptime = 0
autorestart = never
""")
    wait_for(lambda: impetusd.status()["p"].last_exit, "its end")
    row = impetusd.status()["p"]
    assert row.last_exit["signal"] == "SIGKILL"
    assert row.last_exit["oom"]
    assert row.why.find("killed").facts["oom"]
    assert "out of memory" in impetusd.run("status", code=None).out
    impetusd.run("stop")


def test_anybody_elses_sigkill_is_not_called_that(impetusd: Instance) -> None:
    impetusd.start(f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\nautorestart = never\n")
    impetusd.kill(impetusd.status()["p"].pid)
    row = impetusd.wait_state("p", "EXITED", "FATAL")
    assert row.why.find("killed").facts["signal"] == "SIGKILL"
    assert not row.why.find("killed").facts["oom"]
