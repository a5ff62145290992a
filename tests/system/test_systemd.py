"""impetusd as a service of a real systemd, which is PID 1 of a namespace: see systemd_namespace.py.

One boot serves the module. `impetusd.service` is in it as it is shipped, enabled, and nobody starts it; each other test has
an instance of its own of the shipped template.
"""

from __future__ import annotations

import re
import signal

from instance import program
from systemd_namespace import Namespace
from systemd_service import SLEEPER, Service
from waiting import wait_for


def test_it_is_up_after_the_boot_without_anybody_starting_it(host: Namespace) -> None:
    own = Service(host, "impetusd", "impetusd.service", "/etc/impetusd/impetusd.ini")
    own.wait_shown("ActiveState", "active")
    assert own.status()["p"].state == "RUNNING"
    assert own.show("MainPID") == str(own.status().shim)
    modes = {
        path: oct(host.path(path).stat().st_mode & 0o777)
        for path in ("/run/impetusd", "/var/lib/impetusd", "/var/log/impetusd")
    }
    assert modes == {"/run/impetusd": "0o755", "/var/lib/impetusd": "0o700", "/var/log/impetusd": "0o750"}


class TestStart:
    def test_it_has_started_when_its_programs_are_ready_and_the_status_text_says_so(self, service: Service) -> None:
        service.write(
            f"[program:p]\ncommand = {program('tell_ready', 'when', service.folder + '/go')}\nwait_ready = yes\n"
        )
        starting = service.host.popen("systemctl", "start", service.unit)
        wait_for(lambda: service.show("StatusText") == "0 of 1 up; p is STARTING", "the status text")
        assert service.show("ActiveState") == "activating"
        service.host.write(f"{service.folder}/go", "")
        out, _ = starting.communicate(timeout=60)
        assert starting.returncode == 0, out
        assert (service.show("ActiveState"), service.show("StatusText")) == ("active", "1 of 1 up")

    def test_one_that_cannot_come_up_does_not_hold_up_the_others_nor_the_host(self, service: Service) -> None:
        command = program("exit_with", 3)
        service.start(f"{SLEEPER}[program:bad]\ncommand = {command}\nwait_ready = yes\nmax_restarts = 0\n")
        assert service.show("ActiveState") == "active"
        assert service.show("StatusText").startswith("1 of 2 up; bad is FATAL: exit 3")

    def test_a_mistake_in_the_file_is_told_in_the_journal_and_not_tried_again(self, service: Service) -> None:
        service.write("[program:p]\ncomand = sleep 300\n")
        service.systemctl("start", code=1)
        assert service.show("ActiveState") == "failed"
        assert (service.show("ExecMainStatus"), service.show("NRestarts")) == ("2", "0")
        assert any(f"{service.conf}:6: " in line["MESSAGE"] for line in service.journal())


class TestWhatProgramsHave:
    def test_none_of_what_systemd_told_the_daemon_reaches_a_program(self, service: Service) -> None:
        status = service.start(f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n")
        daemon, child = service.environ(status.shim), service.environ(status["p"].pid)
        assert {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM"} <= daemon.keys()
        assert not {"WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM"} & child.keys()
        assert daemon["NOTIFY_SOCKET"] != child["NOTIFY_SOCKET"]
        assert daemon["INVOCATION_ID"] != child["INVOCATION_ID"]

    def test_each_has_a_cgroup_below_the_services(self, service: Service) -> None:
        status = service.start(f"{SLEEPER}[program:q]\ncommand = sleep 300\n")
        top = service.cgroup(status.shim)
        assert top.endswith(service.show("ControlGroup"))
        below = {service.cgroup(status[name].pid) for name in ("p", "q")}
        assert len(below) == 2
        assert all(path.startswith(f"{top}/") for path in below)


class TestJournal:
    def test_it_has_what_the_daemons_log_has_each_line_with_its_priority(self, service: Service) -> None:
        command = program("exit_with", 3)
        service.start(f"{SLEEPER}[program:bad]\ncommand = {command}\nwait_ready = yes\nmax_restarts = 0\n")

        def told() -> dict[str, str]:
            return {re.sub(r" \(pid.*?\)", "", line["MESSAGE"]): line["PRIORITY"] for line in service.journal()}

        wait_for(
            lambda: any(text.startswith("bad:0: FATAL: exit 3") for text in told()), "the end of bad in the journal"
        )
        assert {level for text, level in told().items() if text.startswith("bad:0: FATAL: exit 3")} == {"3"}
        assert told()["supervisor: began"] == "6"
        assert told()["p:0: RUNNING"] == "6"
        log = service.host.path(f"/var/log/impetusd-{service.name}/impetusd.log").read_text(encoding="utf-8")
        assert "bad:0: FATAL" in log

    def test_what_an_operator_should_see_is_a_warning_or_an_error(self, service: Service) -> None:
        """`journalctl -p warning`: mistakes in the file, a killed supervisor, a killed shim and what was lost with it."""

        def warned() -> str:
            shown = ["journalctl", "--no-pager", "-o", "cat", "-p", "warning", "--unit", service.unit]
            return service.host.run("journalctl", "--sync", "--quiet") + service.host.run(*shown)

        service.write("[program:p]\ncomand = sleep 300\n")
        service.systemctl("start", code=1)
        assert f"{service.conf}:6: " in warned()
        before = service.start(SLEEPER)
        service.kill(before.supervisor, signal.SIGKILL)
        wait_for(
            lambda: f"the supervisor (pid {before.supervisor}) ended: signal 9" in warned(), "the supervisor's end"
        )
        wait_for(lambda: service.status().supervisor != before.supervisor, "the next supervisor")
        service.write("[program:p]\ncomand = sleep 300\n")
        service.host.run("kill", "-HUP", str(before.shim))
        wait_for(lambda: "SIGHUP: " in warned(), "the refusal")
        service.write(SLEEPER)
        service.kill(before.shim, signal.SIGKILL)
        wait_for(lambda: "was killed: 1 process is still running" in warned(), "the shim's end")
        assert "supervisor: began" not in warned()


class TestStatusText:
    def test_it_follows_what_happens(self, service: Service) -> None:
        service.start(f"{SLEEPER}[program:q]\ncommand = sleep 300\n")
        assert service.show("StatusText") == "2 of 2 up"
        service.run("stop", "q")
        wait_for(lambda: service.show("StatusText") == "1 of 1 up", "the status text")
        service.run("start", "q")
        wait_for(lambda: service.show("StatusText") == "2 of 2 up", "the status text")


class TestReload:
    def two(self, seconds: int) -> str:
        return f"[program:p]\ncommand = sleep 300\nmin_uptime = 10ms\n[program:q]\ncommand = sleep {seconds}\nmin_uptime = 10ms\n"

    def test_it_restarts_what_was_changed_and_nothing_else(self, service: Service) -> None:
        before = service.start(self.two(300))
        service.write(self.two(299))
        service.systemctl("reload")
        after = service.status()
        assert after["p"].pid == before["p"].pid
        assert after["q"].pid != before["q"].pid
        assert (after["q"].state, after.shim) == ("RUNNING", before.shim)
        assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0")

    def test_a_broken_file_fails_it_and_changes_nothing(self, service: Service) -> None:
        before = service.start(self.two(300))
        service.write("[program:p]\ncomand = sleep 1\n")
        service.systemctl("reload", code=1)
        assert service.status().pids == before.pids
        assert service.show("ActiveState") == "active"
        assert any(f"{service.conf}:6: " in line["MESSAGE"] for line in service.journal())


class TestRestart:
    def test_everything_is_started_anew_and_runs_once(self, service: Service) -> None:
        before = service.start(SLEEPER)
        service.systemctl("restart")
        after = service.status()
        assert after.shim != before.shim
        assert after["p"].state == "RUNNING"
        assert [text for text in service.host.processes().values() if service.conf in text] == service_commands(service)
        assert before["p"].pid not in service.host.processes()


def service_commands(service: Service) -> list[str]:
    """Of the daemon, what should run: one shim and one supervisor."""
    status, processes = service.status(), service.host.processes()
    return [processes[pid] for pid in sorted((status.shim, status.supervisor), key=list(processes).index)]


class TestStop:
    def test_nothing_is_left(self, service: Service) -> None:
        """No program that ignores SIGTERM, no daemon that one has left behind, no cgroup, no socket."""
        service.start(
            f"[program:deaf]\ncommand = {program('ignore_term', service.folder)}\nwait_ready = yes\nkill_timeout = 100ms\n"
            f"[program:forks]\ncommand = {program('double_fork', service.folder + '/pid')}\nwait_ready = yes\n"
            "kill_timeout = 100ms\n"
        )
        assert len(service.leftovers()) > 3
        service.systemctl("stop")
        assert service.leftovers() == []
        assert (service.show("ActiveState"), service.show("Result")) == ("inactive", "success")

    def test_it_is_in_order_and_each_program_has_its_time_whatever_the_unit_says(self, service: Service) -> None:
        """TimeoutStopSec, after which systemd would kill, is extended by as much as the INI file gives to programs."""
        service.drop_in("[Service]\nTimeoutStopSec=3\n")
        folder = service.folder
        service.start(
            f"[program:db]\ncommand = {program('note_times', folder + '/notes', 'db')}\nwait_ready = yes\n"
            f"[program:slow]\ncommand = {program('slow_stop', 4, folder + '/slow')}\nwait_ready = yes\ndepends_on = db\n"
        )
        service.systemctl("stop")
        assert service.show("Result") == "success"
        assert service.written("slow")
        assert service.written("notes").split() == ["db", "started", "db", "stopped"]

    def test_after_stop_by_impetusds_own_command_it_stays_down(self, service: Service) -> None:
        service.start(SLEEPER)
        service.run("stop")
        service.wait_shown("ActiveState", "inactive")
        assert (service.show("NRestarts"), service.show("Result")) == ("0", "success")


class TestWhenItDies:
    def test_a_killed_main_process_is_replaced_and_nothing_runs_twice(self, service: Service) -> None:
        before = service.start(
            f"[program:p]\ncommand = {program('ignore_term', service.folder)}\nwait_ready = yes\nkill_timeout = 100ms\n"
        )
        service.kill(before.shim, signal.SIGKILL)
        wait_for(lambda: service.show("NRestarts") == "1" and service.show("ActiveState") == "active", "the next one")
        after = service.status()
        assert (service.show("MainPID"), after["p"].state) == (str(after.shim), "RUNNING")
        assert after.shim != before.shim
        assert [pid for pid, text in service.host.processes().items() if service.folder in text] == [after["p"].pid]

    def test_one_that_hangs_is_noticed_by_the_watchdog_and_replaced(self, service: Service) -> None:
        service.drop_in("[Service]\nWatchdogSec=10\n")
        before = service.start(SLEEPER)
        service.kill(before.shim, signal.SIGSTOP)
        wait_for(lambda: service.show("NRestarts") == "1" and service.show("ActiveState") == "active", "the next one")
        assert any(
            "Watchdog timeout" in line["MESSAGE"] for line in service.journal() if isinstance(line["MESSAGE"], str)
        )
        after = service.status()
        assert after.shim != before.shim
        assert after["p"].state == "RUNNING"

    def test_one_that_is_well_lives_on_under_the_watchdog(self, service: Service) -> None:
        service.drop_in("[Service]\nWatchdogSec=10\n")
        before = service.start(SLEEPER)
        first = int(service.show("WatchdogTimestampMonotonic"))
        # After its period a shim that says nothing would have been killed.
        wait_for(
            lambda: int(service.show("WatchdogTimestampMonotonic")) > first + 10_500_000, "signs of life", apart=0.1
        )
        assert (service.show("NRestarts"), service.status().shim) == ("0", before.shim)

    def test_a_killed_supervisor_is_none_of_systemds_business(self, service: Service) -> None:
        before = service.start(SLEEPER)
        service.kill(before.supervisor, signal.SIGKILL)
        wait_for(lambda: service.status().supervisor != before.supervisor, "the next supervisor")
        assert service.status()["p"].pid == before["p"].pid
        service.run("stop", "p")
        wait_for(lambda: service.show("StatusText") == "0 of 0 up", "the next supervisor's status text")
        assert (service.show("ActiveState"), service.show("NRestarts")) == ("active", "0")
        assert service.show("MainPID") == str(before.shim)
