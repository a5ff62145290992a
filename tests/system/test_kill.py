"""`kill -9` of anything: it comes back once, everything else stays as it was, and nothing leaks."""

from __future__ import annotations

import signal
from pathlib import Path

import census
import pytest
from instance import Instance, Status, pool, program, wait_for
from load import Load, fetch

SUPERVISOR = "supervisor"
WHAT = ["web:template", "web:0", "web:1", "web:standby", "api"]


def everything(instance: Instance) -> int:
    """Write an INI with a pool and a program; returns the pool's port."""
    port = instance.port()
    instance.write(f"""
[pool:web]
{pool(port)}
[program:api]
command = {program("tell_ready", "self")}
wait_ready = yes
""")
    return port


def held(instance: Instance) -> tuple[Status, list[str], list[str]]:
    """What shim and supervisor hold, once every log has its first line: its file is opened with that, by a thread."""
    status = instance.settle()
    for name in ("web-0", "web-1", "web-standby"):
        wait_for(lambda name=name: instance.log(f"{name}-out.log"), f"the first line of {name}")
    return status, census.descriptors(status.shim), census.descriptors(status.supervisor)


def killed(instance: Instance, victims: list[str]) -> tuple[Status, Status]:
    """Kill the slots (or the supervisor) at once; the status before, and after everything runs again."""
    before = instance.settle()
    assert list(before.rows) == WHAT
    pids = [before.supervisor if name == SUPERVISOR else before[name].pid for name in victims]
    for pid in pids:
        instance.kill(pid)
    after = instance.settle(lambda now: not set(pids) & {now.supervisor, *now.pids.values()})
    for name in victims:
        if name != SUPERVISOR:
            assert {key: after[name].last_exit[key] for key in after[name].last_exit if key != "at"} == {
                "signal": "SIGKILL"
            }
            assert after[name].restarts > before[name].restarts
            assert after[name].tail == []
    for name in set(WHAT) - set(victims):
        before_it, after_it = ((each[name].last_exit, each[name].restarts) for each in (before, after))
        assert after_it == before_it, f"{name}:\n{instance.log('impetusd.log')}"
    assert after.shim == before.shim
    return before, after


def same(before: Status, after: Status, *names: str) -> None:
    """The slots still have the processes that they had."""
    assert {name: after[name].pid for name in names} == {name: before[name].pid for name in names}


def test_a_boot_that_the_supervisor_did_not_survive_is_finished_by_the_next(impetusd: Instance) -> None:
    names = [f"p{n}" for n in range(200)]  # in eight portions
    impetusd.write("".join(f"[program:{name}]\ncommand = sleep 1000\nmin_uptime = 0\n" for name in names))
    daemon = impetusd.popen("run")
    first = wait_for(lambda: census.children(daemon.pid), "the supervisor")[0].pid
    wait_for(lambda: len(census.children(daemon.pid)) > 1, "the first program")
    impetusd.kill(first)
    after = impetusd.settle(lambda now: len(now.pids) == len(names))
    assert sorted(after.rows) == sorted(names)


def running_as(instance: Instance) -> Instance:
    everything(instance)
    instance.run("start")
    assert {row.restarts for row in instance.status().rows.values()} == {0}, instance.log("impetusd.log")
    return instance


@pytest.fixture
def running(impetusd: Instance) -> Instance:
    return running_as(impetusd)


def test_a_killed_worker_is_replaced_by_the_standby(running: Instance) -> None:
    before, after = killed(running, ["web:0"])
    assert after["web:0"].pid == before["web:standby"].pid
    assert {name: row.restarts for name, row in after.rows.items()} == {**dict.fromkeys(WHAT, 0), "web:0": 1}
    same(before, after, "web:template", "web:1", "api")


def test_a_killed_template_leaves_its_workers_alone(running: Instance) -> None:
    before, after = killed(running, ["web:template"])
    same(before, after, "web:0", "web:1", "web:standby", "api")
    killed(running, ["web:0"])  # and the new one forks


def test_both_workers_killed_at_once(running: Instance) -> None:
    before, after = killed(running, ["web:0", "web:1"])
    assert {name: row.restarts for name, row in after.rows.items()} == {
        **dict.fromkeys(WHAT, 0),
        "web:0": 1,
        "web:1": 1,
    }
    assert before["web:standby"].pid in {after["web:0"].pid, after["web:1"].pid}
    same(before, after, "web:template", "api")


def test_a_killed_standby_is_replaced(running: Instance) -> None:
    before, after = killed(running, ["web:standby"])
    same(before, after, "web:template", "web:0", "web:1", "api")


def test_a_killed_program_is_started_again(running: Instance) -> None:
    before, after = killed(running, ["api"])
    same(before, after, "web:template", "web:0", "web:1", "web:standby")


def test_everything_of_a_pool_killed_at_once(anyone: Instance) -> None:
    """The standby may be put to work dead, before its own end is heard: then that is the worker's second restart."""
    running = running_as(anyone)
    before = running.settle()
    victims = {before[name].pid for name in WHAT if name != "api"}
    for pid in victims:
        running.kill(pid)
    after = running.settle(lambda now: not victims & set(now.pids.values()))
    assert sum(row.restarts for row in after.rows.values()) == 4
    ends = [row.last_exit["signal"] for row in after.rows.values() if row.last_exit is not None]
    assert set(ends) == {"SIGKILL"}
    assert len(ends) >= 3
    same(before, after, "api")


def test_a_killed_supervisor_changes_nothing_for_the_children(running: Instance) -> None:
    before, after = killed(running, [SUPERVISOR])
    same(before, after, *WHAT)
    # By any signal: none has it clean up, which would end processes of checks that are under way.
    assert not caught(after.supervisor) & 1 << signal.SIGINT - 1


def caught(pid: int) -> int:
    """The mask of the signals that a process handles."""
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("SigCgt:"))
    return int(line.split()[1], 16)


@pytest.mark.parametrize("victim", WHAT)
def test_supervisor_and_a_process_killed_in_the_same_instant(impetusd: Instance, victim: str) -> None:
    everything(impetusd)
    impetusd.run("start")
    before, after = killed(impetusd, [SUPERVISOR, victim])
    if victim == "web:0":
        assert after["web:0"].pid == before["web:standby"].pid
    touched = {victim, "web:standby"} if victim in {"web:0", "web:1"} else {victim}
    same(before, after, *(set(WHAT) - touched))


def test_an_end_while_the_supervisor_is_away_is_told_exactly(impetusd: Instance) -> None:
    """The supervisor stands still (SIGSTOP) while the program ends, and is killed before it can have noticed."""
    impetusd.write(f"""
[program:api]
command = {program("tell_ready", "self")}
wait_ready = yes
[program:other]
command = {program("note_signals")}
wait_ready = yes
""")
    before = impetusd.start()
    impetusd.kill(before.supervisor, signal.SIGSTOP)
    impetusd.kill(before["api"].pid, signal.SIGUSR1)
    wait_for(lambda: (census.read(before["api"].pid) or census.Process(0, 0, "Z", 0, "")).zombie, "the end of api")
    impetusd.kill(before.supervisor)
    after = impetusd.settle(lambda now: now["api"].pid != before["api"].pid)
    assert after["api"].last_exit["signal"] == "SIGUSR1"
    assert after["api"].restarts == 1
    assert (after["other"].pid, after["other"].last_exit) == (before["other"].pid, None)


def test_no_descriptor_is_left_over_by_deaths(impetusd: Instance) -> None:
    port = everything(impetusd)
    impetusd.run("start")
    first, shim, supervisor = held(impetusd)
    for name in [*WHAT, "web:0", "web:1", "api"]:
        killed(impetusd, [name])
    impetusd.run("status", "--json")
    now = impetusd.status()
    wait_for(lambda: not census.difference(census.descriptors(now.shim), shim), "the shim to hold no more")
    assert now.supervisor == first.supervisor
    # A log file is opened with the first line for it, so there may be fewer.
    wait_for(
        lambda: not census.difference(census.descriptors(now.supervisor), supervisor), "the supervisor to hold no more"
    )
    assert fetch(port) in {str(now["web:0"].pid), str(now["web:1"].pid)}


def test_each_next_supervisor_holds_what_the_first_held(impetusd: Instance) -> None:
    everything(impetusd)
    impetusd.run("start")
    _, shim, supervisor = held(impetusd)
    for _ in range(3):
        killed(impetusd, [SUPERVISOR])
    now = impetusd.settle()
    wait_for(
        lambda: census.difference(census.descriptors(now.shim), shim) == [], "the shim's descriptors to be as before"
    )
    wait_for(
        lambda: census.difference(census.descriptors(now.supervisor), supervisor) == [],
        "the supervisor to hold what the first held",
    )


def test_no_request_fails_while_supervisors_are_killed_and_status_waits(impetusd: Instance) -> None:
    port = everything(impetusd)
    impetusd.run("start")
    before = impetusd.settle()
    supervisors = {before.supervisor}
    with Load(port) as load:
        for _ in range(12):
            impetusd.kill(impetusd.status().supervisor)
            asked = impetusd.run("status")  # the moment in which nobody is there to answer
            assert "all 5 up" in asked.out
            supervisors.add(impetusd.status().supervisor)
            load.go_on(40)
    assert len(supervisors) == 13
    after = impetusd.settle()
    assert (after.shim, after.pids) == (before.shim, before.pids)
    assert {row.restarts for row in after.rows.values()} == {0}
    assert set(load.answers) <= {str(before["web:0"].pid), str(before["web:1"].pid)}


def test_a_supervisor_killed_over_and_over_at_any_moment_of_a_restart(impetusd: Instance) -> None:
    """A program is killed and the supervisor right after it, each time a bit later: nothing runs twice, nothing is lost."""
    everything(impetusd)
    impetusd.run("start")
    status = impetusd.settle()
    for victim in ("api", "web:0", "web:template", "api", "web:1"):
        gone = status[victim].pid
        impetusd.kill(gone)
        impetusd.kill(status.supervisor)
        status = impetusd.settle(lambda now, gone=gone: gone not in now.pids.values())
    assert {name: row.restarts for name, row in status.rows.items()} == {
        "web:template": 1,
        "web:0": 1,
        "web:1": 1,
        "web:standby": 0,
        "api": 2,
    }, f"{status}\n{impetusd.log()}"
