"""What `impetusd run` tells whoever started it with a NOTIFY_SOCKET, as systemd does; see sd_notify(3)."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator

import pytest
from instance import Instance, program
from waiting import PATIENCE, wait_for

SLEEPER = "[program:p]\ncommand = sleep 300\nmin_uptime = 10ms\n"


class Manager:
    """The receiving end, and what has come: pairs of the sender's pid and the fields of one message."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[tuple[int, dict[str, str]]] = []
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self._sock.settimeout(PATIENCE)
        if not address.startswith("@"):
            os.chmod(address, 0o777)

    def wait(self, name: str, value: str | None = None) -> dict[str, str]:
        """The next message with a field of that name (and value)."""
        while True:
            data, ancillary, _, _ = self._sock.recvmsg(65536, socket.CMSG_SPACE(12))
            pid = struct.unpack("3i", ancillary[0][2])[0]
            fields = dict(line.split("=", 1) for line in data.decode().splitlines())  # type: ignore[misc]  # two parts
            self.heard.append((pid, fields))
            if name in fields and value in {None, fields[name]}:
                return fields

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, impetusd: Instance) -> Iterator[Manager]:
    """One that listens at a path, and one in the abstract namespace."""
    path = f"{impetusd.root}/manager"
    listening = Manager(path if request.param == "path" else f"@{path}")
    yield listening
    listening.close()


def run(impetusd: Instance, manager: Manager, ini: str = SLEEPER, **variables: str) -> object:
    impetusd.write(ini)
    return impetusd.popen("run", env={"NOTIFY_SOCKET": manager.address, **variables})


def test_ready_status_and_stopping_come_from_the_main_process(impetusd: Instance, manager: Manager) -> None:
    process = run(impetusd, manager)
    assert manager.wait("READY", "1")["STATUS"] == "1 of 1 up"
    impetusd.run("stop", "p")
    manager.wait("STATUS", "0 of 0 up")
    process.send_signal(signal.SIGTERM)
    manager.wait("STOPPING", "1")
    impetusd.finish(process)
    assert {pid for pid, _ in manager.heard} == {process.pid}


def test_stopping_says_how_long_it_may_take_along_the_dependencies(impetusd: Instance, manager: Manager) -> None:
    """The longest way is 20 s + 7 s of kill_timeout, and 15 s for what comes after it."""
    process = run(
        impetusd,
        manager,
        "[program:db]\ncommand = sleep 300\nmin_uptime = 10ms\nkill_timeout = 20s\n"
        "[program:web]\ncommand = sleep 300\nmin_uptime = 10ms\nkill_timeout = 7s\ndepends_on = db\n"
        "[program:other]\ncommand = sleep 300\nmin_uptime = 10ms\nkill_timeout = 22s\n",
    )
    manager.wait("READY")
    impetusd.finish(impetusd.popen("stop"))
    assert manager.wait("STOPPING")["EXTEND_TIMEOUT_USEC"] == "42000000"
    impetusd.finish(process)


def test_signs_of_life_come_from_the_shim_at_half_the_period(impetusd: Instance, manager: Manager) -> None:
    """Also while there is no supervisor that works."""
    process = run(impetusd, manager, WATCHDOG_USEC="100000")
    manager.wait("READY")
    supervisor = impetusd.status().supervisor
    impetusd.kill(supervisor, signal.SIGSTOP)
    for _ in range(4):
        manager.wait("WATCHDOG", "1")
    impetusd.kill(supervisor)
    assert {pid for pid, _ in manager.heard} == {process.pid}


def test_a_watchdog_that_is_somebody_elses_is_not_fed(impetusd: Instance, manager: Manager) -> None:
    run(impetusd, manager, WATCHDOG_USEC="1000", WATCHDOG_PID="1")
    manager.wait("READY")
    assert not [fields for _, fields in manager.heard if "WATCHDOG" in fields]


def test_a_supervisor_that_takes_over_before_it_was_ready_says_so_later(impetusd: Instance, manager: Manager) -> None:
    go = impetusd.root / "go"
    run(impetusd, manager, f"[program:p]\ncommand = {program('tell_ready', 'when', go)}\nwait_ready = yes\n")
    manager.wait("STATUS", "0 of 1 up; p is STARTING")
    before = impetusd.status().supervisor
    impetusd.kill(before)
    wait_for(lambda: impetusd.status().supervisor != before, "the next supervisor")
    go.touch()
    assert manager.wait("READY")["STATUS"] == "1 of 1 up"


def test_a_new_configuration_is_told_as_a_reload(impetusd: Instance, manager: Manager) -> None:
    run(impetusd, manager)
    manager.wait("READY")
    impetusd.write(f"{SLEEPER}[program:q]\ncommand = sleep 300\nmin_uptime = 10ms\n")
    impetusd.run("apply")
    assert manager.wait("RELOADING", "1")["MONOTONIC_USEC"].isdecimal()
    assert manager.wait("READY")["STATUS"] == "2 of 2 up"


def test_one_in_the_background_tells_nobody(impetusd: Instance, manager: Manager) -> None:
    """`impetusd start` in a service's script must not speak for that service."""
    impetusd.write(SLEEPER)
    impetusd.run("start", env={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000"})
    impetusd.run("stop")
    manager._sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.wait("READY")


def test_one_impetusd_may_run_another_that_tells_it_when_it_is_ready(impetusd: Instance) -> None:
    inner = impetusd.write(f"[impetusd]\nbase_dir = {impetusd.root}/inner\n{SLEEPER}", "inner.ini")
    (impetusd.root / "inner").mkdir()
    status = impetusd.start(
        f"[program:inner]\ncommand = impetusd -c {inner} run\nwait_ready = yes\nwatchdog = 30s\nlisten_timeout = 1m\n"
    )
    assert status["inner"].state == "RUNNING"
    impetusd.run("stop")
    assert impetusd.members() == []
