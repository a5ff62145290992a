"""What is well and replaced all the same: by age, by the clock, by a changed file. Each is counted and told."""

from __future__ import annotations

from pathlib import Path

import pytest
from instance import Instance, pool, program, wait_for
from load import Load, fetch

APP = """
import os
from aiohttp import web

VERSION = {version}

async def hello(request):
    return web.Response(text=str(VERSION))

def make():
    app = web.Application()
    app.router.add_get("/", hello)
    return app
"""


def one(**keys: object) -> str:
    """A program that is well."""
    return f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n" + "".join(
        f"{key} = {value}\n" for key, value in keys.items()
    )


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"max_age": "2s"}, "older than max_age = 2s"),
        ({"cron_restart": "*/2 * * * * *", "timezone": "Europe/Berlin"}, "cron_restart = */2 * * * * *"),
    ],
)
def test_a_restart_by_age_or_by_the_clock_is_counted_and_told(
    impetusd: Instance, keys: dict[str, str], reason: str
) -> None:
    first = impetusd.start(one(**keys))["p"]
    wait_for(lambda: impetusd.status()["p"].restarts > first.restarts, "a restart")
    assert impetusd.wait_state("p", "RUNNING").pid != first.pid
    impetusd.says(f": {reason}")


def test_what_is_stopped_is_not_restarted_by_the_clock(impetusd: Instance) -> None:
    impetusd.start(one(cron_restart="* * * * * *") + "[program:q]" + one(cron_restart="* * * * * *")[11:])
    impetusd.run("stop", "p")
    stopped = impetusd.status()["p"].restarts
    before = impetusd.status()["q"].restarts
    wait_for(lambda: impetusd.status()["q"].restarts >= before + 2, "the other one to be restarted")
    row = impetusd.status()["p"]
    assert (row.state, row.want, row.restarts) == ("STOPPED", "down", stopped)


def test_a_pool_of_old_workers_is_replaced_one_by_one_and_no_request_fails(impetusd: Instance) -> None:
    port = impetusd.port()
    impetusd.start(f"[pool:web]\n{pool(port, max_age='3s')}")
    first = {str(impetusd.status()[name].pid) for name in ("web:0", "web:1")}
    with Load(port):
        wait_for(lambda: not {fetch(port) for _ in range(20)} & first, "both to be replaced")
    impetusd.says("older than max_age = 3s")


def change(path: Path, text: str, instance: Instance) -> None:
    """Write the file until its change has been noticed: the watching may only just be beginning."""

    def noticed() -> bool:
        if ": changed: " in instance.log():
            return True
        path.write_text(text)
        return False

    wait_for(noticed, f"a change of {path} to be noticed")


def test_a_changed_file_restarts_and_is_named(impetusd: Instance) -> None:
    pytest.importorskip("watchfiles")
    (impetusd.root / "app").mkdir()
    impetusd.start(one(watch="app", cwd=impetusd.root, watch_delay="50ms", watch_ignore="*.tmp"))
    (impetusd.root / "app" / "x.tmp").write_text("")
    change(impetusd.root / "app" / "views.py", "", impetusd)
    wait_for(lambda: impetusd.status()["p"].restarts >= 1, "the restart")
    impetusd.says(": changed: app/views.py")
    assert "x.tmp" not in impetusd.log()


def test_what_was_stopped_stays_so_whatever_changes(impetusd: Instance) -> None:
    pytest.importorskip("watchfiles")
    (impetusd.root / "app").mkdir()
    keys = {"watch": "app", "cwd": impetusd.root, "watch_delay": "50ms"}
    impetusd.start(one(**keys) + "[program:q]" + one(**keys)[11:])
    impetusd.run("stop", "p")
    change(impetusd.root / "app" / "views.py", "", impetusd)
    wait_for(lambda: impetusd.status()["q"].restarts >= 1, "the other one to be restarted")
    row = impetusd.status()["p"]
    assert (row.state, row.restarts) == ("STOPPED", 0)


def test_a_pool_serves_the_changed_code_and_no_request_fails(impetusd: Instance) -> None:
    pytest.importorskip("watchfiles")
    module = impetusd.write(APP.format(version=1), "watched_app.py")
    port = impetusd.port()
    keys = {"cwd": impetusd.root, "watch": module, "watch_delay": "100ms"}
    impetusd.start(f"[pool:web]\n{pool(port, 'watched_app:make', **keys)}")
    assert fetch(port) == "1"
    with Load(port):
        change(module, APP.format(version=22), impetusd)  # of another size, for a .pyc goes by size and second
        wait_for(lambda: {fetch(port) for _ in range(10)} == {"22"}, "the new code")


def test_a_missing_path_is_told_and_nothing_else_suffers(impetusd: Instance) -> None:
    pytest.importorskip("watchfiles")
    impetusd.start(one(watch="nowhere", cwd=impetusd.root))
    impetusd.says(f"p: cannot watch {impetusd.root}/nowhere, which does not exist; ")
    assert impetusd.status()["p"].state == "RUNNING"


def test_workers_that_have_answered_enough_are_replaced_one_by_one_and_no_request_fails(impetusd: Instance) -> None:
    """All reach the limit at about the same time: at no time are two away."""
    port = impetusd.port()
    before = impetusd.start(f"[pool:web]\n{pool(port, instances=3, standby=0, max_requests=40)}")
    first = {str(before[name].pid) for name in ("web:0", "web:1", "web:2")}
    with Load(port):
        wait_for(lambda: not {str(row.pid) for row in impetusd.status().rows.values()} & first, "all to be replaced")
    states: list[str] = []

    def all_told() -> bool:
        leaving = [line for line in impetusd.log().splitlines() if ":leaving: " in line]
        states[:] = [line.split(":leaving: ")[1].partition(" ")[0] for line in leaving]
        return len(states) >= 8

    wait_for(all_told, impetusd.log)
    assert states[:8] == ["RUNNING", "STOPPING", "STOPPED", "RUNNING", "STOPPING", "STOPPED", "RUNNING", "STOPPING"]
    wait_for(lambda: "max_requests = 40" in str(impetusd.ledger()), "the reason in the ledger")
    assert impetusd.settle()["web:template"].pid == before["web:template"].pid
