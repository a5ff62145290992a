"""READY=1: who may say it, and what happens when nobody does."""

from __future__ import annotations

import os
import signal
import socket

import census
import pytest
from instance import Instance, program, wait_for

from impetusd.core.reasons import because


def test_ready_said_by_the_program_itself(impetusd: Instance) -> None:
    gate = impetusd.root / "gate"
    impetusd.write(f"[program:p]\ncommand = {program('tell_ready', 'when', gate)}\nwait_ready = yes\n")
    starting = impetusd.popen("start")
    impetusd.wait_state_of_daemon("p", "STARTING")
    assert starting.poll() is None
    row = impetusd.status()["p"]
    assert (row.state, row.ready) == ("STARTING", False)
    impetusd.run("status", code=1)
    gate.touch()
    impetusd.finish(starting)
    assert impetusd.status()["p"].ready is True


def test_ready_said_by_a_child_of_the_program(anyone: Instance) -> None:
    """As a shell script does with systemd-notify."""
    status = anyone.start(f"[program:p]\ncommand = {program('tell_ready', 'child')}\nwait_ready = yes\n")
    assert status["p"].state == "RUNNING"


def test_ready_that_never_comes_is_a_failed_start(impetusd: Instance) -> None:
    impetusd.write(f"""
[program:p]
command = {program("tell_ready", "never")}
wait_ready = yes
listen_timeout = 300ms
max_restarts = 1
exp_backoff_restart_delay = 10ms
""")
    failed = impetusd.run("start", code=1)
    assert "not ready within 0.3 s" in failed.out + failed.err
    row = impetusd.wait_state("p", "FATAL")
    assert row.why == because("gave_up", end=because("not_ready", within_s=0.3), restarts=1, window_s=60.0)
    assert row.last_exit["signal"] == "SIGTERM"
    status = impetusd.status()
    wait_for(
        lambda: {each.pid for each in impetusd.members()} == {status.shim, status.supervisor},
        "its processes to be gone",
    )


def test_ready_said_by_a_stranger_counts_for_nobody(impetusd: Instance) -> None:
    impetusd.write(f"[program:p]\ncommand = {program('tell_ready', 'never')}\nwait_ready = yes\n[program:q]\n"
                   f"command = {program('tell_ready', 'self')}\nwait_ready = yes\n")  # fmt: skip
    starting = impetusd.popen("start")
    impetusd.wait_state_of_daemon("q", "RUNNING")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for message in (f"READY=1\nMAINPID={impetusd.status()['p'].pid}", "READY=1", "X" * 60000, "READY=1\nMAINPID=1"):
            stranger.sendto(message.encode(), impetusd.notify_address(impetusd.status()["p"].pid))
    # What q says after it is read after it: the socket keeps the order.
    impetusd.run("restart", "q")
    assert impetusd.status()["p"].state == "STARTING"
    assert impetusd.status()["p"].ready is False
    starting.terminate()
    starting.communicate()
    impetusd.run("stop", "p")


def test_descriptors_sent_to_the_notify_socket_do_not_pile_up(impetusd: Instance) -> None:
    status = impetusd.start(f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n")
    before = census.descriptors(status.supervisor)
    null = os.open("/dev/null", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(impetusd.notify_address(status["p"].pid))
        for _ in range(20):
            socket.send_fds(stranger, [b"FDSTORE=1"], [null] * 10)
    os.close(null)
    impetusd.run("restart", "p")
    wait_for(lambda: len(census.descriptors(status.supervisor)) <= len(before), "the descriptors to be closed")
    assert impetusd.status().supervisor == status.supervisor


def test_a_program_that_waits_is_ready_across_a_killed_supervisor(impetusd: Instance) -> None:
    """READY=1 is said while no supervisor lives: it waits in the socket."""
    gate = impetusd.root / "gate"
    impetusd.write(f"[program:p]\ncommand = {program('tell_ready', 'when', gate)}\nwait_ready = yes\n")
    starting = impetusd.popen("start")
    impetusd.wait_state_of_daemon("p", "STARTING")
    before = impetusd.status()
    wait_for(lambda: impetusd.status()["p"].pid, "its process")
    pid = impetusd.status()["p"].pid
    impetusd.kill(before.supervisor)
    gate.touch()
    impetusd.finish(starting)  # and the command that waits for it asks the next supervisor
    after = impetusd.settle()
    assert after["p"].pid == pid
    assert after["p"].restarts == 0


@pytest.mark.parametrize("command", ["start", "run"])
def test_what_was_ready_before_its_shim_knew_stays_so(impetusd: Instance, command: str) -> None:
    """The supervisor heard it, the shim was killed before it read that, and nobody says READY=1 twice."""
    gate = impetusd.root / "gate"
    impetusd.write(f"[program:p]\ncommand = {program('tell_ready', 'when', gate)}\nwait_ready = yes\n")
    starting = impetusd.popen(command)
    impetusd.wait_state_of_daemon("p", "STARTING")
    wait_for(lambda: impetusd.status()["p"].pid, "its process")
    before = impetusd.status()
    impetusd.kill(before.shim, signal.SIGSTOP)
    gate.touch()
    impetusd.wait_state("p", "RUNNING")
    impetusd.kill(before.shim)
    if command == "run":  # who has started that starts it again
        impetusd.finish(starting, -signal.SIGKILL)
        impetusd.run("start")
    else:
        impetusd.finish(starting)
    after = impetusd.settle(lambda now: now.shim != before.shim)
    assert after["p"].pid == before["p"].pid
    assert (after["p"].state, after["p"].restarts) == ("RUNNING", 0)
