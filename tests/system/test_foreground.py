"""`impetusd run`: the daemon in the foreground, as containers and systemd want it."""

from __future__ import annotations

import os
import signal

import census
import pytest
from instance import Instance, program, wait_for


def running(instance: Instance, **how: object) -> tuple[object, str]:
    notes = instance.root / "notes"
    instance.write(f"""
[program:db]
command = {program("note_times", notes, "db")}
wait_ready = yes
[program:web]
command = {program("note_times", notes, "web")}
wait_ready = yes
depends_on = db
[program:asleep]
command = {program("tell_ready", "self")}
autostart = no
""")
    process = instance.popen("run", **how)
    instance.wait_state_of_daemon("web", "RUNNING")
    return process, str(notes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_a_signal_and_then_stops_everything_in_order(anyone: Instance, number: int) -> None:
    process, notes = running(anyone)
    assert anyone.status().shim == process.pid
    assert anyone.status()["asleep"].state == "STOPPED"
    process.send_signal(number)
    anyone.finish(process)  # with 0
    with open(notes, encoding="utf-8") as file:
        assert file.read().split() == ["db", "started", "web", "started", "web", "stopped", "db", "stopped"]
    assert anyone.members() == []


def test_it_ends_when_it_is_stopped_by_command(impetusd: Instance) -> None:
    process, _ = running(impetusd)
    impetusd.run("stop")
    impetusd.finish(process)


def test_a_second_signal_changes_nothing(impetusd: Instance) -> None:
    slow, may_end = impetusd.root / "slow", impetusd.root / "may_end"
    impetusd.write(
        f"[program:slow]\ncommand = {program('slow_stop', may_end, slow)}\nwait_ready = yes\nkill_timeout = 1h\n"
    )
    process = impetusd.popen("run")
    impetusd.wait_state_of_daemon("slow", "RUNNING")
    process.send_signal(signal.SIGTERM)
    impetusd.wait_state("slow", "STOPPING")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    may_end.touch()
    impetusd.finish(process)
    assert slow.exists()


def test_a_supervisor_killed_after_the_signal_does_not_keep_it_from_ending(impetusd: Instance) -> None:
    slow, may_end = impetusd.root / "slow", impetusd.root / "may_end"
    impetusd.write(
        f"[program:slow]\ncommand = {program('slow_stop', may_end, slow)}\nwait_ready = yes\nkill_timeout = 1h\n"
    )
    process = impetusd.popen("run")
    before = impetusd.wait_state_of_daemon("slow", "RUNNING")
    supervisor = impetusd.status().supervisor
    process.send_signal(signal.SIGTERM)
    impetusd.says("slow:0: STOPPING")
    os.kill(supervisor, signal.SIGKILL)
    may_end.touch()
    impetusd.finish(process)
    assert slow.exists()
    assert not os.path.exists(f"/proc/{before.pid}")


def test_a_killed_supervisor_is_replaced_and_what_was_stopped_stays_stopped(impetusd: Instance) -> None:
    process, _ = running(impetusd)
    impetusd.run("stop", "web")
    before = impetusd.status()
    impetusd.kill(before.supervisor)
    wait_for(lambda: impetusd.status().supervisor != before.supervisor, "the next supervisor")
    after = impetusd.status()
    assert {name: row.state for name, row in after.rows.items()} == {
        "db": "RUNNING",
        "web": "STOPPED",
        "asleep": "STOPPED",
    }
    assert after["db"].pid == before["db"].pid
    process.send_signal(signal.SIGTERM)
    impetusd.finish(process)


def test_it_leaves_what_it_inherited_to_no_child(impetusd: Instance) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        process, _ = running(impetusd)
        status = impetusd.status()
        for pid in (status.supervisor, status["db"].pid):
            assert os.readlink(f"/proc/self/fd/{writer}") not in census.links(pid).values()
        process.send_signal(signal.SIGTERM)
        impetusd.finish(process)
    finally:
        os.close(reader)
        os.close(writer)


def test_mistakes_in_the_file_end_it_before_it_began(impetusd: Instance) -> None:
    impetusd.write("[program:p]\ncomand = sleep 1000\n")
    assert f"{impetusd.conf}:2" in impetusd.run("run", code=2).err
    assert impetusd.members() == []
