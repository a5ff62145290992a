"""Who floods a notify socket holds up nobody but itself, and costs next to nothing."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest
from instance import Instance, program, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about other users")
MOST = 0.05  # of a core
TICKS = os.sysconf("SC_CLK_TCK")


def spent(*pids: int) -> float:
    """Seconds of processor time."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / TICKS


def test_a_flood_costs_little_and_delays_nobody(impetusd: Instance, python_of_nobody: str) -> None:
    flood = (
        program("flood", "-", "{size}", "orphan").replace(sys.executable, python_of_nobody)
        + "\nuser = nobody\nwait_ready = yes\nmin_uptime = 0\n"
    )
    impetusd.root.chmod(0o755)
    before = impetusd.start(
        f"[program:small]\ncommand = {flood.format(size=10)}[program:large]\ncommand = {flood.format(size=60_000)}"
        f"[program:api]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\nlisten_timeout = 20s\n"
    )
    pids = before.shim, before.supervisor
    impetusd.says("small: it sends notify messages faster than impetusd reads them")
    begun, used = time.monotonic(), spent(*pids)
    impetusd.run("restart", "api", code=0)
    wait_for(lambda: time.monotonic() > begun + 4.0, "four seconds of it")
    asked = 0.3  # what the commands of this test take
    assert spent(*pids) - used < MOST * (time.monotonic() - begun) + asked
    after = impetusd.status()
    assert after.all_running
    assert (after.shim, after.supervisor) == pids
    assert (impetusd.run_dir / "table").stat().st_size < 200_000
    impetusd.run("stop")


def test_strangers_do_not_get_there(impetusd: Instance, python_of_nobody: str) -> None:
    impetusd.root.chmod(0o755)
    keys = f"command = {program('tell_ready', 'self')}\nwait_ready = yes\n"
    of_bin = keys.replace(sys.executable, python_of_nobody) + "user = bin\n"
    status = impetusd.start(f"[program:of-root]\n{keys}[program:of-bin]\n{of_bin}")
    addresses = [impetusd.notify_address(pid) for pid in status.pids.values()]
    pid = os.fork()
    if pid == 0:
        got_there = 0
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            for address in addresses:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                    try:
                        sock.sendto(b"READY=1", address)
                    except PermissionError:
                        continue
                got_there += 1
        finally:
            os._exit(got_there)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(addresses) == 2
