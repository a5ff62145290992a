"""`kill -9` of the shim, and of shim and supervisor together: the programs do not notice, and nothing is started twice."""

from __future__ import annotations

import os
import re
import signal

import census
import pytest
from instance import Instance, Status, pool, program
from load import Load
from waiting import wait_for

from impetusd.linux import proc

TEMPLATE = "web:template"  # it forks for one shim, and ends with it


def running(instance: Instance) -> tuple[int, Status]:
    """A pool, a program and one that numbers its lines; the pool's port."""
    port = instance.port()
    instance.write(f"""
[pool:web]
{pool(port)}
[program:api]
command = {program("tell_ready", "self")}
wait_ready = yes
[program:numbers]
command = {program("numbers", "n", "100/s")}
wait_ready = yes
""")
    instance.run("start")
    return port, instance.settle()


def lasting(status: Status) -> dict[str, int]:
    return {name: pid for name, pid in status.pids.items() if name != TEMPLATE}


def numbers_are_whole(instance: Instance) -> None:
    """No line is lost, none is there twice."""
    instance.run("stop", "numbers")
    *lines, end = instance.log("numbers-out.log").splitlines()
    assert end == f"n end {len(lines)}"
    assert lines == [f"n {number}" for number in range(len(lines))]


def dead(pid: int) -> bool:
    process = census.read(pid)
    return process is None or process.zombie


def kill_both(instance: Instance, now: Status) -> None:
    for pid in (now.supervisor, now.shim):
        instance.kill(pid, signal.SIGSTOP)  # else one might act between the two
    for pid in (now.shim, now.supervisor):
        instance.kill(pid)
    wait_for(lambda: dead(now.shim) and dead(now.supervisor), "their end")


def test_what_lives_on_without_impetusd_is_told_and_ended_by_stop(anyone: Instance) -> None:
    _, before = running(anyone)
    kill_both(anyone, before)
    template = next(pid for name, pid in before.pids.items() if name.endswith(":template"))
    wait_for(lambda: dead(template), "the template, which ends with its shim, to end")
    alive = [pid for pid in before.pids.values() if not dead(pid)]
    told = f"{len(alive)} processes it started are still running"
    assert told in anyone.run("status", code=3).err
    assert told in anyone.run("stop", "api", code=3).err
    assert told in anyone.run("why").out
    assert not any(map(dead, alive))
    assert f"stopped {len(alive)} processes" in anyone.run("stop").out
    assert all(map(dead, alive))
    assert "still running" not in anyone.run("status", code=3).err


def test_one_that_lives_on_is_counted_as_one(impetusd: Instance) -> None:
    for then, told in (("start", "impetusd started and took over 1 process of"), ("stop", "stopped 1 process that")):
        kill_both(impetusd, impetusd.start(f"[program:p]\ncommand = {program('ignore_term')}\nkill_timeout = 100ms\n"))
        assert "1 process it started is still running" in impetusd.run("status", code=3).err
        answer = impetusd.run(then)
        assert told in answer.out + answer.err


def test_stop_ends_also_who_has_lost_the_environment_that_it_was_started_with(anyone: Instance) -> None:
    """As PostgreSQL's processes, which write their titles over it."""
    bare = 'sh -c \'exec env -i TMPDIR="$$TMPDIR" sh -c "sleep 1000 & exec sleep 1000"\''
    before = anyone.start(f"[program:p]\ncommand = {bare}\nmin_uptime = 0\n")
    wait_for(lambda: len(anyone.members()) == 4, "its child")
    kill_both(anyone, before)
    assert "2 processes it started are still running" in anyone.run("status", code=3).err
    assert "stopped 2 processes" in anyone.run("stop").out
    wait_for(lambda: not anyone.members(), "their end")


def test_a_killed_shim_is_succeeded_by_its_supervisor_and_nobody_notices(impetusd: Instance) -> None:
    port, before = running(impetusd)
    with Load(port) as load:
        for _ in range(3):
            now = impetusd.status()
            impetusd.kill(now.shim)
            after = impetusd.settle(lambda then, now=now: then.shim != now.shim)
            assert after.shim == now.supervisor
            assert lasting(after) == lasting(before)
            load.go_on(40)
    after = impetusd.settle()
    assert {row.restarts for row in after.rows.values()} == {0}
    numbers_are_whole(impetusd)


def test_shim_and_supervisor_killed_together_are_started_again_and_find_everything(anyone: Instance) -> None:
    port, before = running(anyone)
    with Load(port) as load:
        for _ in range(3):
            now = anyone.status()
            kill_both(anyone, now)
            assert "is not running" in anyone.run("status", code=3).err
            load.go_on(20)
            assert re.search(r"impetusd started and took over \d+ processes of a killed", anyone.run("start").err)
            after = anyone.settle()
            assert lasting(after) == lasting(before)
            load.go_on(40)
    after = anyone.settle()
    assert {row.restarts for row in after.rows.values()} == {0}
    anyone.run("stop", "numbers")
    *lines, end = anyone.log("numbers-out.log").splitlines()
    assert end.startswith("n end")
    assert len(lines) == len(set(lines))


def test_of_many_that_start_it_again_one_does(impetusd: Instance) -> None:
    _, before = running(impetusd)
    kill_both(impetusd, before)
    for process in [impetusd.popen("start") for _ in range(5)]:
        impetusd.finish(process)
    assert lasting(impetusd.settle()) == lasting(before)


def test_what_ends_while_nobody_is_there_is_told_as_unknown_and_started_again_once(impetusd: Instance) -> None:
    _, before = running(impetusd)
    kill_both(impetusd, before)
    impetusd.kill(before["api"].pid)
    gone = (before.shim, before.supervisor, before["api"].pid)
    wait_for(lambda: not any(map(census.read, gone)), "their end, which init has taken note of")
    impetusd.run("start")
    after = impetusd.settle()
    assert after["api"].last_exit["unknown"] is True
    assert after["api"].restarts == 1
    assert "exit status unknown" in impetusd.run("describe", "api").out
    assert {n: p for n, p in lasting(after).items() if n != "api"} == {
        n: p for n, p in lasting(before).items() if n != "api"
    }


def test_each_becomes_a_child_again_at_its_next_start_and_all_is_as_it_was(impetusd: Instance) -> None:
    port, before = running(impetusd)
    impetusd.kill(before.shim)
    orphans = impetusd.settle(lambda now: now.shim != before.shim)
    assert {census.read(pid).parent == orphans.shim for pid in lasting(orphans).values()} == {False}  # type: ignore[union-attr]
    with Load(port):
        impetusd.run("restart", "--rolling", "web")
        impetusd.run("restart", "api", "numbers")
    killed = impetusd.status()["web:standby"].pid
    impetusd.kill(killed)
    after = impetusd.settle(lambda now: not {*now.pids.values()} & {killed, *lasting(before).values()})
    assert {census.read(pid).parent for pid in after.pids.values()} == {after.shim}  # type: ignore[union-attr]


def test_one_that_was_asked_to_stop_is_stopped_by_the_next(impetusd: Instance) -> None:
    slow, may_end = impetusd.root / "slow", impetusd.root / "may_end"
    impetusd.write(
        f"[program:slow]\ncommand = {program('slow_stop', may_end, slow)}\nwait_ready = yes\nkill_timeout = 1h\n"
    )
    before = impetusd.start()
    stopping = impetusd.popen("stop", "slow")
    impetusd.wait_state("slow", "STOPPING")
    impetusd.kill(before.shim)
    may_end.touch()
    impetusd.finish(stopping)
    after = impetusd.status()
    assert (after["slow"].state, after["slow"].pid) == ("STOPPED", None)
    assert dead(before["slow"].pid)


@pytest.mark.parametrize("who", ["supervisor", "shim"])
def test_an_orderly_end_afterwards_leaves_nothing(impetusd: Instance, who: str) -> None:
    _, before = running(impetusd)
    impetusd.kill(getattr(before, who))
    impetusd.run("stop")
    wait_for(lambda: not impetusd.members(), "every process to be gone")


DAMAGES = (None, "", "\0" * 300, '{"version": 99}\n', "[]\n")  # None: the table is missing


def test_without_its_table_what_lives_on_is_told_never_doubled_and_ended_by_stop(anyone: Instance) -> None:
    """An ordinary user has no cgroups to find it by."""
    before = anyone.start(f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n")
    kill_both(anyone, before)
    table, pid = anyone.run_dir / "table", before["p"].pid
    whole, owner = table.read_text(), table.stat()
    for damage in DAMAGES if anyone.user is None else DAMAGES[:1]:
        if damage is None:
            table.unlink()
        else:
            table.write_text(damage)
        why = "its table is missing" if damage is None else f"its table {table} is damaged"
        for command, code in (("status", 3), ("start", 1), ("restart", 1)):
            said = anyone.run(command, code=code).err
            assert why in said, said
            assert f"p:0 (pid {pid})" in said
            assert f"impetusd -c {anyone.conf} stop" in said
            assert said.count("\n") == 1, said
        assert why in " ".join(anyone.run("why").out.split())
        assert f"p:0 (pid {pid})" in anyone.run("run", code=73).err
        assert not dead(pid)
        (anyone.run_dir / "table.bad").unlink(missing_ok=True)  # as what was damaged is kept
    table.write_text(whole)  # nothing of what was found has been lost by all that
    os.chown(table, owner.st_uid, owner.st_gid)
    after = anyone.start()
    assert after["p"].pid == pid
    kill_both(anyone, after)
    table.unlink()
    assert "; stopped 1 process that it had started\n" in anyone.run("stop").out
    wait_for(lambda: dead(pid), "its end")
    assert anyone.start()["p"].pid != pid


def test_a_table_that_ends_before_a_worker_was_forked_has_nothing_started_beside_it(anyone: Instance) -> None:
    """The template is in it, and the worker has its environment."""
    anyone.start(f"[pool:web]\n{pool(anyone.port())}\n")
    table = anyone.run_dir / "table"
    early, before = table.read_bytes(), anyone.settle()
    anyone.kill(before["web:1"].pid)
    after = anyone.settle(lambda now: now.pids["web:standby"] not in before.pids.values())
    later = after.pids["web:standby"]
    wait_for(lambda: proc.age(proc.read(later)) > 0.2, "it to have run for a while")
    kill_both(anyone, after)
    owner = table.stat()
    table.write_bytes(early)
    os.chown(table, owner.st_uid, owner.st_gid)
    said = anyone.run("start", code=1).err
    assert "because its table does not list all of them" in said, said
    assert f"(pid {later})" in said, said
    anyone.run("stop")
    assert all(map(dead, after.pids.values()))
    anyone.start()


def test_a_table_that_was_removed_is_back_before_anybody_needs_it(impetusd: Instance) -> None:
    before = impetusd.start(f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n")
    table = impetusd.run_dir / "table"
    table.unlink()
    wait_for(table.exists, "the table")
    impetusd.kill(before.shim)
    after = impetusd.settle(lambda now: now.shim != before.shim)
    assert after["p"].pid == before["p"].pid
    impetusd.says(f"{table} was deleted and has been rewritten")


def test_what_a_running_daemon_holds_is_not_reaped(impetusd: Instance) -> None:
    """By whichever unit of systemd says that it has been stopped."""
    before = impetusd.start("[program:p]\ncommand = sleep 300\nmin_uptime = 0\n")
    assert f"impetusd (pid {before.shim}) is running in " in impetusd.run("reap-leftovers", code=1).err
    said = impetusd.run("reap-leftovers", env={"SERVICE_RESULT": "success"}).out
    assert (
        said
        == f"impetusd (pid {before.shim}) is running in {impetusd.root}/var/lib, but not as this service; nothing was stopped\n"
    )
    assert "is already running" in impetusd.run("run", code=73).err
    assert impetusd.status().pids == before.pids
