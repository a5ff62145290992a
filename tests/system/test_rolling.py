"""`restart --rolling`: one process after the other, the next ready before the last one leaves, and no request lost."""

from __future__ import annotations

import pytest
from instance import PROGRAMS, Instance, Status, pool, program
from load import Load, fetch


def replaced(before: Status, *names: str):
    """Whether each of the slots has another process than before, and nothing else is left."""

    def holds(now: Status) -> bool:
        return all(now[name].pid not in before.pids.values() for name in names) and set(now.rows) == set(before.rows)

    return holds


@pytest.mark.parametrize(("standby", "preload"), [(1, "yes"), (0, "yes"), (2, "no")])
def test_a_pool_is_restarted_under_load_without_losing_a_request(
    impetusd: Instance, standby: int, preload: str
) -> None:
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, standby=standby, preload=preload)}")
    with Load(port) as load:
        impetusd.run("restart", "--rolling", "web")
        load.go_on(40)
    after = impetusd.settle(replaced(before, *before.pids))
    assert {row.restarts for row in after.rows.values()} == {0}, "what was asked for is not counted"
    assert {row.generation for row in after.rows.values()} == {2}
    assert after["web:0"].last_exit["code"] == 0


def test_a_pool_of_one_is_never_without_a_worker(impetusd: Instance) -> None:
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, instances=1, standby=0)}")
    with Load(port) as load:
        for _ in range(3):
            impetusd.run("restart", "--rolling", "web")
        load.go_on(20)
    impetusd.settle(replaced(before, *before.pids))


def test_a_rolling_restart_goes_on_when_the_supervisor_is_killed_in_the_middle(impetusd: Instance) -> None:
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, instances=3)}")
    with Load(port) as load:
        roll = impetusd.popen("restart", "--rolling", "web")
        impetusd.says("web:template: RUNNING", 2)
        impetusd.kill(before.supervisor)
        impetusd.finish(roll, code=None)
        load.go_on(20)
    impetusd.settle(replaced(before, "web:0", "web:1", "web:2"))


def test_a_broken_version_is_told_and_the_old_workers_go_on(impetusd: Instance) -> None:
    module = impetusd.write((PROGRAMS / "app_hello.py").read_text(), "version.py")
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, 'version:make', cwd=impetusd.root)}")
    module.write_text("import no_such_package\n")
    with Load(port) as load:
        failed = impetusd.run("restart", "--rolling", "web", code=1)
        load.go_on(20)
    assert "no_such_package" in failed.out
    after = impetusd.status()
    assert [after[name].pid for name in ("web:0", "web:1")] == [before[name].pid for name in ("web:0", "web:1")]
    impetusd.says("web: reload: rolled back to the old version")
    assert fetch(port) in {str(pid) for pid in before.pids.values()}


def test_instances_of_a_program_are_restarted_one_after_the_other(impetusd: Instance) -> None:
    """Each is told to stop only when the one before is ready again: at no time are two away."""
    before = impetusd.start(
        f"[program:api]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\ninstances = 3\n"
    )
    impetusd.run("restart", "--rolling", "api")
    after = impetusd.settle(replaced(before, "api:0", "api:1", "api:2"))
    for name in after.rows:
        impetusd.says(f"{name}: RUNNING (pid {after.pids[name]}")
    away, most = set(), 0
    for line in impetusd.log().splitlines():
        slot, _, state = line.partition(" ")[2].partition(": ")
        if slot.startswith("api:") and state.startswith("STOPPING"):
            away.add(slot)
        elif slot.startswith("api:") and state.startswith("RUNNING"):
            away.discard(slot)
        most = max(most, len(away))
    assert most == 1
