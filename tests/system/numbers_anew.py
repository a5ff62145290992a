"""A pid that is given again: to be run in a pid namespace of its own, as test_hardship.py does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from instance import Instance

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def test_a_stranger_with_the_number_of_an_ended_process_is_left_alone(impetusd: Instance) -> None:
    """In short: around the stop, and over the death of a supervisor."""
    impetusd.start("[program:api]\ncommand = sleep 300\nautorestart = never\n")
    for kill_supervisor in (False, True):
        before = impetusd.status()
        pid = before["api"].pid
        impetusd.kill(pid)
        impetusd.wait_state("api", "FATAL", "EXITED")
        stranger = with_number(impetusd, pid)
        if kill_supervisor:
            impetusd.kill(before.supervisor)
        for command in (("stop", "api"), ("start", "api"), ("restart", "api")):
            impetusd.run(*command)
        assert stranger.poll() is None
        assert impetusd.status()["api"].pid != pid


def with_number(impetusd: Instance, pid: int) -> subprocess.Popen[bytes]:
    """A process that is none of impetusd's, with this pid, which must be free; others take numbers, too: tried again."""
    for _ in range(1000):
        LAST_PID.write_text(str(pid - 1))
        stranger = impetusd.stranger()
        if stranger.pid == pid:
            return stranger
    raise AssertionError(f"no process got the number {pid} in 1000 tries")
