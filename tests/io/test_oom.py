"""The kernel's word on a kill for memory: from a log that is made up, and from the real one."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time

import pytest
from waiting import wait_for

from impetusd.linux.oom import FIRST_NAMESPACE, KEPT, Oom

PROGRAMS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "programs")
CHOSEN = "6,421,{at},-;oom-kill:constraint={why},nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/x,task_memcg=/x,task={name},pid={pid},uid=0\n"
KILLED = "3,422,{at},-;{what}: Killed process {pid} ({name}) total-vm:53512kB, anon-rss:208896kB, file-rss:5780kB, shmem-rss:0kB, UID:0 pgtables:144kB oom_score_adj:0\n"


def chosen(pid, at, name="python", why="CONSTRAINT_MEMCG"):
    return CHOSEN.format(pid=pid, at=int(at * 1e6), name=name, why=why)


def killed(pid, at, name="python", what="Memory cgroup out of memory"):
    return KILLED.format(pid=pid, at=int(at * 1e6), name=name, what=what)


@pytest.fixture
def oom():
    """An Oom whose log is empty."""
    oom = Oom(os.devnull)
    yield oom
    oom.close()


def told(oom, *records):
    for record in records:
        oom._note(record.encode())
    return oom


def test_a_kill_within_a_cgroup_is_told_with_its_size(oom):
    told(oom, chosen(42, 100), killed(42, 100.1))
    assert oom.killed(42, 50.0) == "out of memory in its cgroup: the kernel killed it (anon-rss 204 MB)"


def test_a_kill_for_the_whole_host(oom):
    told(oom, chosen(42, 100, why="CONSTRAINT_NONE"), killed(42, 100.1, what="Out of memory"))
    assert oom.killed(42, 50.0) == "out of memory: the kernel killed it (anon-rss 204 MB)"


def test_the_choice_alone_is_enough(oom):
    assert told(oom, chosen(42, 100, why="CONSTRAINT_NONE")).killed(42, 50.0) == "out of memory: the kernel killed it"


def test_of_another_process_nothing_is_said(oom):
    assert told(oom, killed(42, 100)).killed(43, 50.0) is None


def test_what_befell_an_earlier_process_with_that_pid_is_not_told_of_this_one(oom):
    told(oom, killed(42, 100))
    assert oom.killed(42, 100 + 10 + time.monotonic() * 1e-3) is None


@pytest.mark.parametrize("name", ["a) total-vm:1kB, anon-rss:7kB", ",task=x,pid=7,uid=0", "x (y) z"])
def test_a_process_cannot_name_itself_into_the_record_of_another(oom, name):
    told(oom, chosen(42, 100, name), killed(42, 100.1, name))
    assert oom.killed(7, 50.0) is None
    assert "anon-rss 204 MB" in oom.killed(42, 50.0)


def test_what_a_user_writes_into_the_log_is_not_the_kernels_word(oom):
    assert told(oom, killed(42, 100).replace("3,", "11,", 1)).killed(42, 50.0) is None


def test_other_records_are_passed_over(oom):
    told(oom, "6,1,5,-;Memory cgroup out of memory? no\n", "4,2,6,-;oom-kill:\n", "6,3,7,-;eth0: up\n SUBSYSTEM=net\n")
    assert oom.killed(1, 0.0) is None


def test_it_remembers_the_last_ones_alone(oom):
    told(oom, *(killed(pid, 100) for pid in range(1, KEPT + 10)))
    assert len(oom._kills) == KEPT
    assert oom.killed(1, 50.0) is None
    assert oom.killed(KEPT + 9, 50.0) is not None


def test_where_the_log_may_not_be_read_nothing_is_known(tmp_path):
    assert Oom(str(tmp_path / "kmsg")).killed(1, 0.0) is None


# The real log.


@pytest.fixture
def cramped():
    """A memory cgroup of 40 MB: its cgroup.procs."""
    for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        path = f"{base}/impetusd-test-{os.getpid()}"
        try:
            os.mkdir(path)
        except OSError:
            continue
        try:
            with open(f"{path}/{limit}", "w", encoding="ascii") as file:
                file.write(str(40 << 20))
        except OSError:
            os.rmdir(path)
            continue
        yield f"{path}/cgroup.procs"
        wait_for(functools.partial(_removed, path), f"{path} to be empty")  # what ended in it is not gone at once
        return
    pytest.skip("no memory cgroup can be made here")


def _removed(cgroup):
    try:
        os.rmdir(cgroup)
    except OSError:
        return False
    return True


@pytest.fixture
def kmsg(cramped):
    """An Oom on the real log, opened before anything happens."""
    if os.readlink("/proc/self/ns/pid") != FIRST_NAMESPACE:
        pytest.skip("in a pid namespace the kernel's pids are others")
    oom = Oom()
    if oom._fd < 0:
        pytest.skip("/dev/kmsg may not be read")
    yield oom
    oom.close()


def leak(procs, rate):
    return subprocess.Popen([sys.executable, "-ES", f"{PROGRAMS}/leak_memory.py", "--cgroup", procs, str(rate)])


def test_the_kernels_own_kill_is_told(cramped, kmsg):
    since = time.monotonic()
    process = leak(cramped, 1000)
    assert process.wait(60) == -signal.SIGKILL
    text = kmsg.killed(process.pid, since)
    assert text is not None
    assert text.startswith("out of memory in its cgroup: the kernel killed it (anon-rss ")


def test_anybody_elses_sigkill_is_not_taken_for_it(cramped, kmsg):
    since = time.monotonic()
    process = leak(cramped, 0)
    process.kill()
    process.wait(60)
    assert kmsg.killed(process.pid, since) is None
