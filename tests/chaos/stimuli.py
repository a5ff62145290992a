"""What is done to an impetusd under load, by name. Each returns when all is well again; what was lost, the stage finds out."""

from __future__ import annotations

import os
import signal

from instance import wait_for
from stage import Stage, Stimulus


def kill_supervisor(stage: Stage) -> set[int]:
    """Promise 1: its death is a non-event."""
    pid = stage.supervisor()
    stage.impetusd.kill(pid)
    wait_for(lambda: stage.supervisor() != pid, "the next supervisor")
    return set()


def kill_worker(stage: Stage) -> set[int]:
    """One of the workers: only what it had under way is cut off."""
    return _kill_slots(stage, [stage.random.choice(["web:0", "web:1"])])


def kill_workers(stage: Stage) -> set[int]:
    """Both at once: what waits in the queue of the socket that they share is answered by those that follow."""
    return _kill_slots(stage, ["web:0", "web:1"])


def kill_template(stage: Stage) -> set[int]:
    """Its workers go on, and the next one forks."""
    _kill_slots(stage, ["web:template"])
    return set()


def kill_supervisor_and_worker(stage: Stage) -> set[int]:
    """In one instant: the next supervisor finds the end that nobody has told it of."""
    name = stage.random.choice(["web:0", "web:1"])
    pid = stage.row(name)["pid"]
    supervisor = stage.supervisor()
    os.kill(pid, signal.SIGKILL)
    stage.impetusd.kill(supervisor)
    _wait_for_another(stage, name, pid)
    return {pid}


def rolling_restart(stage: Stage) -> set[int]:
    """Every worker, the template and the parked one: each place is taken before it is left."""
    stage.impetusd.run("restart", "--rolling", "web")
    return set()


def _kill_slots(stage: Stage, names: list[str]) -> set[int]:
    pids = {name: stage.row(name)["pid"] for name in names}
    for pid in pids.values():
        stage.impetusd.kill(pid)
    for name, pid in pids.items():
        _wait_for_another(stage, name, pid)
    return set(pids.values())


def _wait_for_another(stage: Stage, name: str, pid: int) -> None:
    wait_for(lambda: (row := stage.row(name))["state"] == "RUNNING" and row["pid"] != pid, f"another {name}")


STIMULI = (
    Stimulus("supervisor killed", kill_supervisor, often=100, few=5),
    Stimulus("a worker killed", kill_worker, often=30, few=2, replaces=True),
    Stimulus("both workers killed", kill_workers, often=30, few=2, replaces=True),
    Stimulus("template killed", kill_template, often=30, few=2, replaces=True),
    Stimulus("supervisor and a worker killed", kill_supervisor_and_worker, often=30, few=2, replaces=True),
    Stimulus("rolling restart", rolling_restart, often=20, few=1, replaces=True),
)
