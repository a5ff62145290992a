"""impetusd killed under a real systemd: its programs live on, under the next one; and after a stop nothing does."""

from __future__ import annotations

import signal
import threading

import pytest
from instance import Status, program
from systemd_service import SLEEPER, Service
from waiting import wait_for


def started(service: Service) -> Status:
    """A program that numbers its lines, one that listens (and nobody accepts), one that sleeps."""
    ini = f"""
[program:numbers]
command = {program("numbers", "n", "100/s")}
wait_ready = yes
out_file = {service.folder}/numbers
[program:api]
command = {program("tell_ready", "self")}
wait_ready = yes
"""
    return service.start(SLEEPER + ini)


def succeeded(service: Service, before: Status, restarts: int = 1) -> Status:
    """The status once the next daemon is in charge."""
    wait_for(lambda: service.show("NRestarts") == str(restarts) and service.show("ActiveState") == "active", "the next")
    wait_for(service.all_running, "everything to run")
    after = service.status()
    assert after.shim != before.shim
    assert service.show("MainPID") == str(after.shim)
    return after


def whole(service: Service) -> None:
    """No line of the numbers is lost, none is there twice."""
    service.run("stop", "numbers")
    *lines, end = service.written("numbers").splitlines()
    assert end == f"n end {len(lines)}"
    assert lines == [f"n {number}" for number in range(len(lines))]


@pytest.mark.parametrize("victims", [("shim",), ("shim", "supervisor"), ("supervisor", "shim")])
def test_killed_its_programs_go_on_under_the_next_and_no_line_is_lost(
    service: Service, victims: tuple[str, ...]
) -> None:
    before = started(service)
    stored = service.show("NFileDescriptorStore")
    assert int(stored) > 12  # four pipes a program, its own two sockets, its journal
    for round_ in (1, 2):
        now = service.status()
        service.host.run("kill", "-KILL", *(str(getattr(now, victim)) for victim in victims), code=None)
        after = succeeded(service, now, round_)
        assert after.pids == before.pids
        assert {row.restarts for row in after.rows.values()} == {0}
    wait_for(lambda: service.show("NFileDescriptorStore") == stored, "the store to hold what it held, and no more")
    whole(service)


def test_one_that_hangs_is_replaced_by_the_watchdog_and_its_programs_go_on(service: Service) -> None:
    service.drop_in("[Service]\nWatchdogSec=10\n")
    before = started(service)
    service.kill(before.shim, signal.SIGSTOP)
    assert succeeded(service, before).pids == before.pids
    whole(service)


def test_the_store_outlives_systemd_itself(service: Service) -> None:
    before = started(service)
    service.host.run("systemctl", "daemon-reexec")
    service.kill(before.shim, signal.SIGKILL)
    assert succeeded(service, before).pids == before.pids
    whole(service)


def test_a_stop_after_that_leaves_nothing(service: Service) -> None:
    """Not even of a program that was started by the daemon before, or that has left a daemon which impetusd spares."""
    folder = service.folder
    before = service.start(
        f"{SLEEPER}[program:forks]\ncommand = {program('double_fork', folder + '/pid')}\nwait_ready = yes\n"
        "kill_timeout = 100ms\ntreekill = no\n"
    )
    service.kill(before.shim, signal.SIGKILL)
    succeeded(service, before)
    service.systemctl("stop")
    assert service.leftovers() == []
    assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")


def test_what_is_left_when_it_is_not_started_again_can_be_ended(service: Service) -> None:
    service.drop_in("[Service]\nRestart=no\n")
    before = started(service)
    service.kill(before.shim, signal.SIGKILL)
    service.wait_shown("ActiveState", "failed")
    assert before["p"].pid in service.host.processes()
    told = service.run("reap-leftovers")
    assert told.startswith("stopped 3 processes: ")
    assert str(before["p"].pid) in told
    assert not set(before.pids.values()) & service.host.processes().keys()
    assert service.run("reap-leftovers") == "no programs were left running\n"


def test_an_upgrade_leaves_systemd_in_peace(service: Service) -> None:
    before = started(service)
    service.run("upgrade")
    after = service.status()
    assert (after.shim, after.pids) == (before.shim, before.pids)
    assert after.supervisor != before.supervisor
    assert (service.show("MainPID"), service.show("NRestarts")) == (str(before.shim), "0")
    service.wait_shown("StatusText", "3 of 3 up")
    service.kill(after.shim, signal.SIGKILL)
    assert succeeded(service, after).pids == before.pids
    whole(service)


def test_a_supervisor_that_is_stopped_when_its_shim_is_killed_does_not_stand_in_the_way(service: Service) -> None:
    before = started(service)
    service.kill(before.supervisor, signal.SIGSTOP)
    service.kill(before.shim, signal.SIGKILL)
    assert succeeded(service, before, int(service.show("NRestarts")) or 1).pids == before.pids
    whole(service)


@pytest.mark.parametrize(("deploy", "victims"), [("reload", ("shim",)), ("apply", ("shim", "supervisor"))])
def test_killed_amid_a_deploy_the_next_goes_on_with_it(service: Service, deploy: str, victims: tuple[str, ...]) -> None:
    """It is killed while the new process serves beside the old one, which has the first half of reload_watch behind it."""

    def ini(version: int) -> str:
        keys = f"wait_ready = yes\nlisten = unix:{service.folder}/api.sock\nreload_watch = 10s\n"
        return f"[program:api]\ncommand = {program('tell_ready', 'self')}\n{keys}[env:api]\nV = {version}\n"

    before = service.start(ini(1))
    if deploy == "apply":
        service.write(ini(2))
    words = ["reload", "api"] if deploy == "reload" else ["apply"]
    command = threading.Thread(target=service.run, args=words, kwargs={"code": None})
    command.start()
    try:
        wait_for(lambda: any("next" in name for name in service.status().pids), "two to serve")
        now = service.status()
        service.host.run("kill", "-KILL", *(str(getattr(now, victim)) for victim in victims), code=None)
        wait_for(lambda: service.show("NRestarts") == "1" and service.show("ActiveState") == "active", "the next")
        wait_for(lambda: [*service.status().pids] == ["api"], "one to serve")
    finally:
        command.join()
    after = service.status()
    assert after.shim != before.shim
    assert after["api"].pid not in before.pids.values()
    assert after["api"].generation == before["api"].generation + 1
    assert service.environ(after["api"].pid)["V"] == ("2" if deploy == "apply" else "1")
    assert "nothing to change" in service.run("plan")
