"""A service of a real systemd is stopped just when impetusd has been killed: nothing is left. And nothing else is touched."""

from __future__ import annotations

import signal

import pytest
from instance import Status, program
from systemd_service import ETC, IMPETUSD, SLEEPER, Service
from waiting import wait_for

FORKS = "[program:forks]\ncommand = sh -c 'sleep 300 & exec sleep 300'\nmin_uptime = 10ms\n"
REAP = f"ExecStopPost={IMPETUSD} -c /etc/impetusd/%i.ini reap-leftovers\n"


def killed(service: Service) -> Status:
    """Its main process, that is, with two programs and three processes running."""
    before = service.start(SLEEPER + FORKS)
    service.kill(before.shim, signal.SIGKILL)
    return before


def wait_sub_state(service: Service, name: str) -> None:
    wait_for(lambda: service.show("SubState") == name, f"{service.unit} to be {name}")


def nothing_is_left(service: Service) -> None:
    wait_for(lambda: service.leftovers() == [] and not sleepers(service), "everything to be gone")
    assert service.show("ActiveState") in {"inactive", "failed"}


def sleepers(service: Service) -> list[int]:
    """Programs of the service that live."""
    text = service.host.run("sh", "-c", f"grep -ls '{service.unit}' /proc/[0-9]*/cgroup | cut -d/ -f3", code=None)
    found = service.host.processes()
    return [pid for pid in map(int, text.split()) if found.get(pid, "").startswith("sleep")]


class TestStop:
    def test_when_systemd_is_about_to_start_it_again(self, service: Service) -> None:
        service.drop_in("[Service]\nRestartSec=1h\n")
        killed(service)
        wait_sub_state(service, "auto-restart")
        assert len(sleepers(service)) == 3  # a crash ends none of them
        service.systemctl("stop")
        nothing_is_left(service)

    @pytest.mark.parametrize("order", ["{wait}{reap}", "{reap}{wait}"], ids=["before it has looked", "after it has"])
    def test_while_systemd_runs_what_comes_after_the_kill(self, service: Service, order: str) -> None:
        wait = f"ExecStopPost=/bin/sh -c 'until [ -e {service.folder}/go ]; do sleep 0.02; done'\n"
        service.drop_in("[Service]\nExecStopPost=\n" + order.format(wait=wait, reap=REAP))
        killed(service)
        wait_sub_state(service, "stop-post")
        if order.endswith("{wait}"):
            wait_for(lambda: not any("reap-leftovers" in text for text in service.host.processes().values()), "its end")
        stopping = service.host.popen("systemctl", "stop", service.unit)
        wait_for(lambda: "stop" in service.host.run("systemctl", "list-jobs", service.unit), "the stop to be asked for")
        service.host.write(f"{service.folder}/go", "")
        stopping.communicate(timeout=60)
        if order.endswith("{reap}"):
            assert sleepers(service) == []  # not only a moment later
        nothing_is_left(service)

    @pytest.mark.parametrize("seconds", [0.05, 0.2, 0.4, 0.6])
    def test_at_any_other_moment(self, service: Service, seconds: float) -> None:
        before = service.start(SLEEPER + FORKS)
        command = f"kill -9 {before.shim}; sleep {seconds}; systemctl stop {service.unit}"
        service.host.run("sh", "-c", command)
        nothing_is_left(service)

    def test_when_it_is_killed_over_that(self, service: Service) -> None:
        slow = program("slow_stop", 300, service.folder + "/slow")
        before = service.start(f"{SLEEPER}[program:slow]\ncommand = {slow}\nwait_ready = yes\nkill_timeout = 300s\n")
        stopping = service.host.popen("systemctl", "stop", service.unit)
        wait_for(lambda: service.show("SubState") == "stop-sigterm", "the stop")
        service.kill(before.shim, signal.SIGKILL)
        stopping.communicate(timeout=60)
        assert not any("slow_stop" in text for text in service.host.processes().values())
        nothing_is_left(service)

    def test_and_then_it_can_be_started_at_once(self, service: Service) -> None:
        service.drop_in("[Service]\nRestartSec=1h\n")
        before = killed(service)
        wait_sub_state(service, "auto-restart")
        service.host.run("sh", "-c", f"systemctl stop {service.unit}; systemctl start {service.unit}")
        after = service.status()
        assert after.all_running
        assert not set(before.pids.values()) & service.host.processes().keys()


class TestWhatIsNotTheServices:
    """A unit that cannot start, or is stopped, ends nothing of a daemon that it has not started."""

    def test_one_that_was_started_by_hand_lives_through_start_and_stop_of_the_unit(self, service: Service) -> None:
        service.write(SLEEPER)
        service.run("start")
        before = service.status()
        service.systemctl("start", code=1)
        assert (service.show("ActiveState"), service.show("NRestarts")) == ("failed", "0")
        assert service.show("ExecMainStatus") == "73"
        told = [line["MESSAGE"] for line in service.journal()]
        assert any(
            f"is already running in /var/lib/impetusd-{service.name} (pid {before.shim})" in each for each in told
        )
        service.systemctl("stop")
        assert service.status().pids == before.pids
        service.run("stop")

    def test_one_that_a_unit_on_the_same_folders_runs_lives_on_too(self, service: Service) -> None:
        before = service.start(SLEEPER)
        other, conf = f"{service.name}b", f"/etc/impetusd/{service.name}b.ini"
        service.host.write(conf, service.host.path(service.conf).read_text(encoding="utf-8"))
        service.host.run("systemctl", "start", f"impetusd@{other}", code=1)
        service.host.run("systemctl", "stop", f"impetusd@{other}")
        service.host.run("systemctl", "reset-failed", f"impetusd@{other}")
        assert service.status().pids == before.pids
        assert service.show("ActiveState") == "active"

    def test_what_cannot_be_taken_over_is_told_and_lives_on(self, service: Service) -> None:
        service.drop_in(f"[Service]\nExecStopPost=/bin/rm -f /run/impetusd-{service.name}/table\n")
        before = service.start(SLEEPER)
        service.host.run("kill", "-KILL", str(before.shim), str(before.supervisor))
        service.wait_shown("ActiveState", "failed")
        assert (service.show("ActiveState"), service.show("ExecMainStatus")) == ("failed", "73")
        pid = before["p"].pid
        told = [line["MESSAGE"] for line in service.journal()]
        assert any(f"because its table is missing: p:0 (pid {pid})" in each for each in told)
        assert pid in service.host.processes()
        assert "; stopped 1 process that it had started\n" in service.run("stop")
        service.systemctl("start")
        assert service.status()["p"].pid != pid


def test_the_helper_is_up_with_the_service_and_down_with_it(service: Service) -> None:
    helper = service.unit.replace("@", "-leftovers@")
    state = ["systemctl", "show", "--value", "--property=ActiveState", helper]
    before = service.start(SLEEPER)
    assert service.host.run(*state).strip() == "active"
    service.kill(before.shim, signal.SIGKILL)
    wait_for(lambda: service.show("NRestarts") == "1" and service.show("ActiveState") == "active", "the next")
    assert service.status().pids == before.pids
    assert service.host.run(*state).strip() == "active"
    service.systemctl("restart")
    assert service.host.run(*state).strip() == "active"
    service.systemctl("stop")
    wait_for(lambda: service.host.run(*state).strip() == "inactive", "the helper's end")
    assert service.host.path(f"{ETC}/impetusd-leftovers@.service").exists()
