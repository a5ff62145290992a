"""Replacing, scaling, failing and killing in one pool at once: what two of them together must not break."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import census
import pytest
from instance import PROGRAMS, Instance, pool, wait_for
from load import Load, fetch


def value(pid: int, name: str) -> str:
    """A variable that a process was executed with."""
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next(each for each in environ if each.startswith(f"{name}=")).partition("=")[2]


def test_a_worker_that_drains_after_scale_is_not_cut_off_by_a_killed_supervisor(impetusd: Instance) -> None:
    """The answer that it is still giving arrives whole, and afterwards nothing of its slot is left."""
    port = impetusd.port()
    impetusd.start(f"[pool:web]\n{pool(port, standby=0, drain_timeout='20s', kill_timeout='30s')}")
    before = impetusd.settle()
    impetusd.kill(before["web:0"].pid, signal.SIGSTOP)  # so that web:1 gets the slow request
    with socket.create_connection(("127.0.0.1", port), 30.0) as client:
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        wait_for(lambda: "slow has begun" in impetusd.log("web-1-out.log"), "the request to be under way")
        impetusd.kill(before["web:0"].pid, signal.SIGCONT)
        scaling = impetusd.popen("scale", "web", "1")
        impetusd.says("web:1: STOPPING")
        impetusd.kill(before.supervisor)
        now = impetusd.status()
        assert (now["web:1"].state, now["web:1"].pid) == ("STOPPING", before["web:1"].pid)
        worker = census.read(before["web:1"].pid)
        assert worker is not None
        assert not worker.zombie
    impetusd.kill(before["web:1"].pid)  # nobody releases it: the handler waits for ever
    impetusd.finish(scaling, code=None)
    after = impetusd.settle(lambda status: set(status.rows) == {"web:template", "web:0"})
    assert after["web:0"].pid == before["web:0"].pid


@pytest.mark.parametrize("standby", [0, 1])
def test_a_version_that_fails_in_its_factory_is_told_and_the_old_workers_go_on(
    impetusd: Instance, standby: int
) -> None:
    """Each worker is executed by itself: there is no template whose end would tell."""
    module = impetusd.write((PROGRAMS / "app_hello.py").read_text(), "version.py")
    port = impetusd.port()
    keys = {"cwd": impetusd.root, "preload": "no", "standby": standby}
    before = impetusd.start(f"[pool:web]\n{pool(port, 'version:make', **keys)}")
    module.write_text("import no_such_package\n")
    with Load(port) as load:
        failed = impetusd.run("restart", "--rolling", "web", code=1)
        load.go_on(20)
    assert "no_such_package" in failed.out
    after = impetusd.settle(lambda status: set(status.rows) == set(before.rows))
    assert [after[name].pid for name in ("web:0", "web:1")] == [before[name].pid for name in ("web:0", "web:1")]
    impetusd.says("web: reload: rolled back to the old version")
    assert fetch(port) in {str(pid) for pid in before.pids.values()}


def test_a_worker_made_for_one_place_is_not_put_into_another(impetusd: Instance) -> None:
    """Each has a number of its own; while the next web:0 starts up, web:1 is killed and waits for its turn."""
    port = impetusd.port()
    keys = {"standby": 0, "preload": "no", "increment_var": "NUMBER", "restart_delay": "1s", "instances": 2}
    before = impetusd.start(f"[pool:web]\n{pool(port, **keys)}[env:web]\nNUMBER = 100\n")
    roll = impetusd.popen("restart", "--rolling", "web")
    impetusd.says("web:0:next: STARTING")
    impetusd.kill(before["web:1"].pid)
    impetusd.finish(roll, code=None)
    after = impetusd.settle(lambda now: set(now.rows) == {"web:0", "web:1"} and now["web:1"].pid != before["web:1"].pid)
    assert fetch(port)
    assert [value(after[name].pid, "NUMBER") for name in ("web:0", "web:1")] == ["100", "101"]


def test_a_restart_of_all_while_one_waits_to_be_tried_again_takes_no_worker_that_is_about_to_leave(
    impetusd: Instance,
) -> None:
    port = impetusd.port()
    impetusd.start(f"[pool:web]\n{pool(port, restart_delay='60s')}")
    before = impetusd.settle()
    impetusd.kill(before["web:1"].pid)
    impetusd.wait_state("web:1", "BACKOFF")
    impetusd.run("restart", "web")
    after = impetusd.settle()
    assert not set(before.pids.values()) & set(after.pids.values())
    assert {row.generation for row in after.rows.values()} == {2}
