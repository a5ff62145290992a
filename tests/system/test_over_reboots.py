"""What the operator has stopped stays stopped; counters, ends and slow schedules outlive the supervisor and the host.

A reboot is shown by its effect: every process of the instance is killed at once, nothing of what the shim held is left,
and `run` (what systemd starts) begins from the INI and the disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path

from instance import Instance, wait_for

TWO = "[program:api]\ncommand = sleep 300\n[program:mail]\ncommand = sleep 300\n"


def power_cut(impetusd: Instance) -> None:
    """Everything is gone in one instant; the shim first, so that nothing of it is written down. So is all of run_dir: a tmpfs."""
    victims = sorted(impetusd.members(), key=lambda each: "shim" not in each.command)
    for number in (signal.SIGSTOP, signal.SIGKILL):  # else one might start another, which nobody would kill
        for process in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
    wait_for(lambda: not impetusd.members(), "every process to be gone")
    shutil.rmtree(impetusd.run_dir)


def boot(impetusd: Instance):
    """As systemd does it."""
    return impetusd.popen("run")


def test_what_was_stopped_by_name_stays_stopped_until_it_is_started(impetusd: Instance) -> None:
    impetusd.start(TWO)
    impetusd.run("stop", "mail")
    power_cut(impetusd)
    boot(impetusd)
    impetusd.wait_state_of_daemon("api", "RUNNING")
    assert impetusd.status()["mail"].state == "STOPPED"
    impetusd.run("start", "mail")
    wait_for(lambda: '"stopped":true' not in saved(impetusd), "the file to say that nothing is stopped")
    power_cut(impetusd)
    boot(impetusd)
    impetusd.wait_state_of_daemon("mail", "RUNNING")


def test_counters_and_the_last_end_survive_a_reboot(impetusd: Instance) -> None:
    impetusd.start(TWO)
    impetusd.kill(impetusd.status()["api"].pid, signal.SIGSEGV)
    before = impetusd.settle(lambda now: now["api"].restarts == 1)["api"]
    wait_for(lambda: '"restarts":1' in saved(impetusd), "the counter to be on the disk")
    power_cut(impetusd)
    boot(impetusd)
    after = impetusd.wait_state_of_daemon("api", "RUNNING")
    assert (after.restarts, after.last_exit) == (1, before.last_exit)


def test_a_torn_file_is_told_and_the_copy_before_it_counts(impetusd: Instance) -> None:
    impetusd.start(TWO)
    impetusd.run("stop", "mail")
    wait_for(lambda: '"stopped":true' in saved(impetusd), "the stop to be on the disk")
    impetusd.kill(impetusd.status()["api"].pid)
    wait_for(lambda: '"stopped":true' in saved(impetusd, "state.json.old"), "the copy to know of the stop")
    power_cut(impetusd)
    torn = state(impetusd, "state.json")
    torn.unlink()  # between its two renames the file and its copy are one inode: that writing to it would tear both
    torn.write_text('{"version":1,"slots":{"ap')
    boot(impetusd)
    impetusd.wait_state_of_daemon("api", "RUNNING")
    assert impetusd.status()["mail"].state == "STOPPED"
    impetusd.says("state.json cannot be read")


def test_without_any_saved_state_it_comes_up(impetusd: Instance) -> None:
    impetusd.start(TWO)
    power_cut(impetusd)
    for path in state(impetusd, "").glob("state.json*"):
        path.write_bytes(b"\0" * 100)
    boot(impetusd)
    impetusd.wait_state_of_daemon("mail", "RUNNING")


def test_a_slow_schedule_survives_the_supervisor(impetusd: Instance) -> None:
    """FATAL, tried once every retry_after, told once, and back when what was missing is there."""
    flag = impetusd.root / "there"
    impetusd.write(
        f"[program:api]\ncommand = sh -c 'test -e {flag} && echo up && exec sleep 1000'\nready = log:up\n"
        "max_restarts = 1\nrestart_window = 2s\nmin_uptime = 2s\nretry_after = 1s\n"
    )
    impetusd.run("start", code=1)
    row = impetusd.status()["api"]
    assert row.state == "FATAL"
    assert (row.why.key, row.why.facts["every_s"]) == ("tried_slowly", 1.0)
    impetusd.kill(impetusd.status().supervisor)
    wait_for(lambda: impetusd.status()["api"].restarts >= 4, "more tries")
    flag.touch()
    impetusd.settle()
    impetusd.says("api:0: FATAL", 1)
    impetusd.says("api:0: RUNNING", 1)


def state(impetusd: Instance, name: str) -> Path:
    """A file in state_dir."""
    return impetusd.root / "var" / "lib" / name


def saved(impetusd: Instance, name: str = "state.json") -> str:
    """What is on the disk."""
    with contextlib.suppress(FileNotFoundError):  # between two renames, as before the first
        return json.dumps(json.loads(state(impetusd, name).read_text()), separators=(",", ":"))
    return ""
