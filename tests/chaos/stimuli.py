"""What is done to an impetusd under load, by name. Each returns when all is well again; what was lost, the stage finds out."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Sequence

from guests import EventStream, Guest, Slow, WebSocket, connect
from stage import Stage, Stimulus
from waiting import wait_for


def kill_supervisor(stage: Stage) -> set[int]:
    """Promise 1: its death is a non-event."""
    pid = stage.supervisor()
    stage.impetusd.kill(pid)
    wait_for(lambda: stage.supervisor() != pid, "the next supervisor")
    return set()


def kill_shim(stage: Stage) -> set[int]:
    """Who holds everything: the supervisor has kept a copy of all of it, and another shim goes on."""
    before = stage.processes()
    stage.impetusd.kill(before["shim"])
    wait_for(lambda: stage.processes()["shim"] != before["shim"], "the next shim")
    return set()


def kill_both(stage: Stage) -> set[int]:
    """Nothing of impetusd is left but what it had started; whoever starts it again finds that."""
    before = stage.processes()
    os.kill(before["supervisor"], signal.SIGSTOP)  # so that it cannot stand in for the shim
    for who in ("shim", "supervisor"):
        stage.impetusd.kill(before[who])
    stage.impetusd.run("start")
    assert not set(before.values()) & set(stage.processes().values())
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


def reload(stage: Stage) -> set[int]:
    """The version on the disk takes over, gated; nobody notices."""
    stage.version(good=True)
    stage.impetusd.run("reload", "web")
    return set()


def reload_with_slow_clients(stage: Stage) -> set[int]:
    """Sixty requests are half sent when their workers begin to leave."""
    return _reload_with(stage, [Slow(stage.port) for _ in range(60)])


def reload_with_streams(stage: Stage) -> set[int]:
    """Fifty connections that would never end: drained to the deadline, the WebSockets closed with 1001."""
    return _reload_with(stage, [kind(stage.port) for _ in range(25) for kind in (EventStream, WebSocket)])


def _reload_with(stage: Stage, guests: Sequence[Guest]) -> set[int]:
    so_far = len(stage.impetusd.log())
    stage.version(good=True)
    reload = stage.impetusd.popen("reload", "web")
    taken = r"web:\d: pid \d+ takes over"
    wait_for(lambda: len(re.findall(taken, stage.impetusd.log()[so_far:])) == 2, "both workers to begin to leave")
    wrong = [said for said in (guest.settle() for guest in guests) if said]
    stage.impetusd.finish(reload)
    assert not wrong, f"{len(wrong)} of {len(guests)}: {wrong[:3]}"
    return set()


def stop_and_start(stage: Stage) -> set[int]:
    """The pool ends under load: what was accepted is answered, the rest is refused, and nothing is left."""
    pids = [stage.row(name)["pid"] for name in ("web:0", "web:1", "web:template", "web:standby")]
    stage.impetusd.run("stop", "web")
    left = [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert not left, left
    stage.impetusd.run("start", "web")
    return set()


def blocked(stage: Stage) -> set[int]:
    """A handler blocks its worker's event loop: that writes its stacks and is replaced, the other goes on."""
    with connect(stage.port) as connection:
        connection.sendall(b"GET /block HTTP/1.1\r\nHost: chaos\r\n\r\n")
        before = {name: stage.row(name)["pid"] for name in ("web:0", "web:1")}
        wait_for(lambda: any(stage.row(name)["pid"] != pid for name, pid in before.items()), "the next worker")
        connection.shutdown(socket.SHUT_WR)
    for name in before:
        wait_for(lambda name=name: stage.row(name)["state"] == "RUNNING", f"{name} to run")  # type: ignore[misc]
    return {pid for name, pid in before.items() if stage.row(name)["pid"] != pid}


def hung_supervisor(stage: Stage) -> set[int]:
    """It lives and says nothing: after 30 s the shim replaces it."""
    pid = stage.supervisor()
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the hung one to be ended", 120.0)
    stage.supervisor()
    return set()


def hung_shim(stage: Stage) -> set[int]:
    """Nothing is started while it stands still, and everything that runs goes on; then so does it."""
    pid = stage.processes()["shim"]
    os.kill(pid, signal.SIGSTOP)
    stage.answers(1000)
    os.kill(pid, signal.SIGCONT)
    return set()


def reload_broken(stage: Stage) -> set[int]:
    """One that cannot be imported: the command says so and fails, and everything stays as it was, to the pid."""
    stage.version(good=False)
    failed = stage.impetusd.run("reload", "web", code=1)
    assert "No module named 'no_such_module'" in failed.out, failed
    stage.version(good=True)
    return set()


def upgrade(stage: Stage) -> set[int]:
    """impetusd's own code is replaced, shim and supervisor, while a program ends: its exit is told exactly."""
    before = stage.row("still")
    upgrading = stage.impetusd.popen("upgrade")
    stage.impetusd.kill(before["pid"], signal.SIGUSR1)
    stage.impetusd.finish(upgrading)
    _wait_for_another(stage, "still", before["pid"])
    assert stage.row("still")["last_exit"]["signal"] == "SIGUSR1"
    return set()


def freeze_and_kill(stage: Stage) -> set[int]:
    """A thread of the dead supervisor hangs in the kernel: the next one does not wait for it, and starts what ends."""
    assert stage.disk is not None
    before, still = stage.processes(), stage.row("still")
    with stage.disk.frozen():
        stage.disk.has_hung(before["supervisor"])
        stage.impetusd.kill(before["supervisor"])
        wait_for(lambda: stage.supervisor() != before["supervisor"], "the next supervisor", 25.0)
        stage.impetusd.kill(still["pid"])
        _wait_for_another(stage, "still", still["pid"])
    wait_for(lambda: not os.path.exists(f"/proc/{before['supervisor']}"), "the dead one to be reaped")
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


TEMPLATE = frozenset({"web:template"})  # what it forks would be adopted by nobody who holds it: it is made anew
STIMULI = (
    Stimulus("supervisor killed", kill_supervisor, often=100, few=5),
    Stimulus("shim killed", kill_shim, often=30, few=2, renews=TEMPLATE),
    Stimulus("shim and supervisor killed", kill_both, often=20, few=2, renews=TEMPLATE),
    Stimulus("a worker killed", kill_worker, often=30, few=2, replaces=True),
    Stimulus("both workers killed", kill_workers, often=30, few=2, replaces=True),
    Stimulus("template killed", kill_template, often=30, few=2, replaces=True),
    Stimulus("supervisor and a worker killed", kill_supervisor_and_worker, often=30, few=2, replaces=True),
    Stimulus("rolling restart", rolling_restart, often=20, few=1, replaces=True),
    Stimulus("reload", reload, often=20, few=1, replaces=True),
    Stimulus("reload to a broken version", reload_broken, often=10, few=1),
    Stimulus("upgrade", upgrade, often=10, few=1, replaces=True),
    Stimulus("reload with 60 slow clients", reload_with_slow_clients, often=12, few=1, replaces=True),
    Stimulus("reload with 50 streams", reload_with_streams, often=5, few=1, replaces=True),
    Stimulus("pool stopped and started", stop_and_start, often=20, few=1, replaces=True, refuses=True),
    Stimulus(
        "disk frozen, supervisor killed", freeze_and_kill, often=5, few=1, renews=frozenset({"still"}), freezes=True
    ),
    Stimulus("a worker's loop blocked", blocked, often=3, few=0, replaces=True),
    Stimulus("shim stopped (SIGSTOP)", hung_shim, often=3, few=0),
    Stimulus("supervisor stopped (SIGSTOP)", hung_supervisor, often=1, few=0),
)
