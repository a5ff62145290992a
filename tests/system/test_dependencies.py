"""`depends_on`: up in order and ready, down in reverse, and what cannot come up is said instead of waited for."""

from __future__ import annotations

import os
import socket

from instance import Instance, pool, program, wait_for

from impetusd.core.reasons import NONE, because


def chain(instance: Instance, *, autostart: str = "yes") -> None:
    notes = instance.root / "notes"
    instance.write("".join(
        f"[program:{name}]\ncommand = {program('note_times', notes, name)}\nwait_ready = yes\n"
        f"autostart = {autostart}\n{f'depends_on = {needs}' if needs else ''}\n"
        for name, needs in (("web", "api"), ("api", "db, cache"), ("db", ""), ("cache", ""))
    ))  # fmt: skip


def noted(instance: Instance) -> list[str]:
    return (instance.root / "notes").read_text().splitlines()


def test_up_in_order_and_down_in_reverse(impetusd: Instance) -> None:
    chain(impetusd)
    impetusd.run("start")
    assert set(noted(impetusd)[:2]) == {"db started", "cache started"}
    assert noted(impetusd)[2:] == ["api started", "web started"]
    impetusd.run("stop")
    assert noted(impetusd)[4:6] == ["web stopped", "api stopped"]
    assert set(noted(impetusd)[6:]) == {"db stopped", "cache stopped"}


def test_a_dependent_waits_until_the_other_is_ready_and_says_so(impetusd: Instance) -> None:
    gate = impetusd.root / "gate"
    impetusd.write(f"""
[program:db]
command = {program("tell_ready", "when", gate)}
wait_ready = yes
[program:web]
command = {program("tell_ready", "self")}
wait_ready = yes
depends_on = db
""")
    starting = impetusd.popen("start")
    row = impetusd.wait_state_of_daemon("web", "STARTING")
    assert (row.why, row.pid) == (because("waits_for", name="db", state="", cause=NONE), None)
    gate.touch()
    impetusd.finish(starting)
    assert impetusd.settle()["web"].why == NONE


def test_starting_one_starts_what_it_needs(impetusd: Instance) -> None:
    chain(impetusd, autostart="no")
    impetusd.run("start", "api")
    assert {name: row.state for name, row in impetusd.status().rows.items()} == {
        "web": "STOPPED", "api": "RUNNING", "db": "RUNNING", "cache": "RUNNING",
    }  # fmt: skip


def test_a_dependency_that_fails_ends_the_start_with_its_reason(impetusd: Instance) -> None:
    told = impetusd.root / "told"
    told.write_text("5")
    impetusd.write(f"""
[program:db]
command = {program("exit_as_told", told)}
wait_ready = yes
max_restarts = 1
exp_backoff_restart_delay = 10ms
[program:web]
command = {program("tell_ready", "self")}
wait_ready = yes
depends_on = db
[program:alone]
command = {program("tell_ready", "self")}
wait_ready = yes
""")
    failed = impetusd.run("start", code=1)
    assert "db is FATAL: exit 5" in failed.out
    assert "web is STARTING: waits for db, which is FATAL" in failed.out
    assert impetusd.status()["alone"].state == "RUNNING"
    told.unlink()
    impetusd.run("start", "db")
    impetusd.settle()  # web had only been waiting


def test_what_is_oneshot_is_waited_for_until_it_has_done_its_work_and_is_not_run_twice(impetusd: Instance) -> None:
    gate, told, runs = (impetusd.root / name for name in ("gate", "told", "runs"))
    os.mkfifo(gate)
    told.write_text("0")
    impetusd.write(f"""
[program:migrate]
type = oneshot
command = sh -c 'echo run >>{runs}; read -r line <{gate}; exit "$$(cat {told})"'
[program:web]
command = {program("tell_ready", "self")}
wait_ready = yes
depends_on = migrate
""")
    starting = impetusd.popen("start")
    row = impetusd.wait_state_of_daemon("web", "STARTING")
    assert (row.why.facts["name"], impetusd.status()["migrate"].state) == ("migrate", "STARTING")
    gate.write_text("go\n")
    impetusd.finish(starting)
    before = impetusd.status()
    assert (before["migrate"].state, before["web"].state) == ("EXITED", "RUNNING")

    impetusd.run("start")
    impetusd.run("start", "web")
    impetusd.run("restart", "web")
    impetusd.run("restart")
    assert runs.read_text().splitlines() == ["run"]
    assert impetusd.status()["web"].pid != before["web"].pid

    told.write_text("3")
    again = impetusd.popen("start", "migrate")
    gate.write_text("go\n")
    assert "migrate is FATAL: exit 3" in impetusd.finish(again, code=1).out
    assert impetusd.status()["web"].state == "RUNNING"  # what runs already is not held back
    held = impetusd.popen("restart", "web")
    gate.write_text("go\n")  # it is named by nobody, and needed: it is tried again
    failed = impetusd.finish(held, code=1)
    assert "web is STARTING: waits for migrate, which is FATAL: exit 3" in failed.out
    assert len(runs.read_text().splitlines()) == 3


def test_stopping_what_waits_for_another_is_obeyed(impetusd: Instance) -> None:
    impetusd.write(f"""
[program:db]
command = {program("tell_ready", "never")}
wait_ready = yes
[program:web]
command = {program("tell_ready", "self")}
wait_ready = yes
depends_on = db
""")
    starting = impetusd.popen("start")
    impetusd.wait_state_of_daemon("web", "STARTING")
    impetusd.run("stop", "web")
    assert (impetusd.status()["web"].state, impetusd.status()["web"].why) == ("STOPPED", NONE)
    starting.terminate()
    starting.communicate()


def test_what_depends_on_a_dead_program_keeps_running(impetusd: Instance) -> None:
    """A crash of the database is no reason to restart what uses it."""
    chain(impetusd)
    before = impetusd.start()
    impetusd.kill(before["db"].pid)
    after = impetusd.settle(lambda now: now["db"].restarts == 1)
    assert {name: pid for name, pid in after.pids.items() if name != "db"} == {
        name: pid for name, pid in before.pids.items() if name != "db"
    }


def test_a_dependency_that_is_switched_off_is_not_waited_for(impetusd: Instance) -> None:
    impetusd.start(f"""
[program:db]
command = {program("tell_ready", "never")}
enabled = no
[program:web]
command = {program("tell_ready", "self")}
wait_ready = yes
depends_on = db
""")
    assert list(impetusd.status().rows) == ["web"]


def test_a_program_waits_for_a_pool_and_a_pool_for_a_program(impetusd: Instance) -> None:
    port = impetusd.port()
    notes = impetusd.root / "notes"
    impetusd.start(f"""
[program:last]
command = {program("note_times", notes, "last")}
wait_ready = yes
depends_on = web
[pool:web]
{pool(port, depends_on="first")}
[program:first]
command = {program("note_times", notes, "first")}
wait_ready = yes
""")
    assert notes.read_text().splitlines() == ["first started", "last started"]
    assert impetusd.settle().all_running
    impetusd.says("last:0: RUNNING")
    log = impetusd.log()
    assert log.index("first:0: RUNNING") < log.index("web:template: RUNNING") < log.index("last:0: RUNNING")
    assert max(log.index("web:0: RUNNING"), log.index("web:1: RUNNING")) < log.index("last:0: RUNNING")


def test_a_cycle_is_refused_by_name(impetusd: Instance) -> None:
    impetusd.write(f"""
[program:a]
command = {program("tell_ready", "self")}
depends_on = b
[program:b]
command = {program("tell_ready", "self")}
depends_on = a
""")
    refused = impetusd.run("start", code=2)
    assert "a" in refused.err
    assert "b" in refused.err
    assert impetusd.members() == []


def test_what_a_unit_waits_for_is_what_holds_now_and_a_port_has_a_holder(impetusd: Instance) -> None:
    """web waited for db first, which is up since; now it is its port, which another process has."""
    port = impetusd.port()
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        impetusd.write(
            f"[program:db]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n"
            f"[pool:web]\n{pool(port, depends_on='db', instances=1, standby=0)}"
        )
        impetusd.run("start", code=1)
        rows = impetusd.status().rows
        assert rows["db"].state == "RUNNING"
        assert not [row for row in rows.values() if row.why.facts.get("name") == "db"]
        holder = f"Address already in use by pid {os.getpid()} ("
        wait_for(lambda: holder in impetusd.status()["web:template"].reason, holder)
        wait_for(lambda: f"pid {os.getpid()} (" in " ".join(impetusd.run("why", "web").out.split()), "why to say so")
