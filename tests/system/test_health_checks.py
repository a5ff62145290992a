"""Health checks and probes for readiness, with real programs that fall ill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from instance import Instance, pool, program, wait_for
from load import Load

OFTEN = "interval = 400ms\ntimeout = 400ms\n"
# Where a late answer, on a loaded host, would make somebody ill who is not, or for another reason.
SELDOM = "interval = 4s\ntimeout = 4s\nfailures = 1\n"


def checks(instance: Instance) -> dict[str, dict[str, Any]]:
    """What `health --json` says, by target."""
    result = instance.run("health", "--json", code=None)
    assert result.code in {0, 1}, result
    answer = json.loads(result.out)
    assert answer["ok"] is (result.code == 0)
    return {row["target"]: row for row in answer["checks"]}


def wait_check(instance: Instance, target: str, state: str) -> dict[str, Any]:
    """Wait until the check of `target` is in `state`."""

    def reached() -> dict[str, Any] | None:
        row = checks(instance)[target]
        return row if row["state"] == state else None

    row: dict[str, Any] = wait_for(reached, f"{target} to be {state}")
    return row


def server(instance: Instance, more: str = "", *gate: object) -> tuple[int, Path]:
    """Write an INI with one server, `db`; its port, and the file that makes it ill."""
    port, ill = instance.port(), instance.root / "ill"
    instance.write(f"[program:db]\ncommand = {program('health_server', port, ill, *gate)}\n{more.format(port=port)}")
    return port, ill


def ailing_pool(instance: Instance, check: str) -> tuple[int, Path]:
    """Start a pool with a health check; its port, and the folder in which a file named by its pid makes a worker ill."""
    ill = instance.root / "ill"
    ill.mkdir()
    port = instance.port()
    instance.start(
        f"[pool:web]\n{pool(port, 'health_app:make')}\n[env:web]\nILL = {ill}\n[health:web]\n{check.format(port=port)}"
    )
    return port, ill


def test_a_worker_that_is_ill_is_replaced_and_the_others_are_left_alone(impetusd: Instance) -> None:
    port, ill = ailing_pool(impetusd, f"http = /health\nbody = well\n{SELDOM}")
    before = impetusd.settle()
    for name in ("web:0", "web:1"):
        assert wait_check(impetusd, name, "healthy")["what"] == "http /health"
    impetusd.run("health")
    with Load(port):
        (ill / str(before["web:1"].pid)).touch()
        after = impetusd.settle(lambda status: status["web:1"].pid != before["web:1"].pid)
    assert after["web:0"].pid == before["web:0"].pid
    assert after["web:1"].restarts == 1
    reason = "unhealthy: GET /health: 503 Service Unavailable: no database"
    impetusd.says(f"health:web: web:1 is {reason}")
    impetusd.says(f"web:1: STARTING (pid {before['web:standby'].pid}): {reason}")
    wait_check(impetusd, "web:1", "healthy")
    impetusd.says("health:web: web:1 is healthy again")
    assert impetusd.run("health", "-q").out == ""


def test_of_two_that_are_ill_one_is_replaced_and_the_other_has_to_wait(impetusd: Instance) -> None:
    _, ill = ailing_pool(impetusd, f"http = /health\n{SELDOM}")
    before = impetusd.settle()
    for name in ("web:0", "web:1"):
        (ill / str(before[name].pid)).touch()
    wait_for(lambda: any("not restarted yet" in row["reason"] for row in checks(impetusd).values()), "one to wait")
    after = impetusd.settle(lambda status: sum(status[name].restarts for name in ("web:0", "web:1")) == 1)
    kept = [name for name in ("web:0", "web:1") if after[name].pid == before[name].pid]
    assert len(kept) == 1
    failures = checks(impetusd)[kept[0]]["failures"]
    wait_for(lambda: checks(impetusd)[kept[0]]["failures"] > failures + 1, "it to be asked further")
    assert impetusd.status()[kept[0]].pid == before[kept[0]].pid
    assert f"{kept[0]} is unhealthy" in impetusd.run("health", "-q", code=1).out


def test_alert_tells_and_restarts_nothing(impetusd: Instance) -> None:
    port, ill = server(impetusd, "[health:db]\nhttp = http://127.0.0.1:{port}/health\naction = alert\n" + SELDOM)
    impetusd.start()
    wait_check(impetusd, "db", "healthy")
    pid = impetusd.status()["db"].pid
    ill.write_text("the database is away")
    row = wait_check(impetusd, "db", "unhealthy")
    reason = f"GET http://127.0.0.1:{port}/health: 503 Service Unavailable: the database is away"
    assert row["reason"] == reason
    assert reason in impetusd.run("health", code=1).out
    assert "db is unhealthy: " in impetusd.run("status").out  # it runs, so `status` exits with 0
    wait_for(lambda: checks(impetusd)["db"]["failures"] > 2, "more failures")
    ill.unlink()
    wait_check(impetusd, "db", "healthy")
    impetusd.run("health")
    impetusd.says("health:db: db is healthy again")
    assert impetusd.log().count("health:db: ") == 2
    assert (impetusd.status()["db"].pid, impetusd.status()["db"].restarts) == (pid, 0)


def test_a_program_that_is_ill_is_restarted_and_says_why(impetusd: Instance) -> None:
    _, ill = server(impetusd, "[health:db]\nhttp = http://127.0.0.1:{port}/\n" + SELDOM)
    impetusd.start()
    wait_check(impetusd, "db", "healthy")
    pid = impetusd.status()["db"].pid
    ill.touch()
    wait_for(lambda: impetusd.status()["db"].pid not in {pid, None}, "another process")
    ill.unlink()
    wait_check(impetusd, "db", "healthy")
    assert impetusd.status()["db"].restarts == 1


def test_what_a_check_has_seen_outlives_the_supervisor(impetusd: Instance) -> None:
    _, ill = server(impetusd, "[health:db]\nhttp = http://127.0.0.1:{port}/\naction = alert\n" + OFTEN)
    ill.touch()
    status = impetusd.start()
    before = wait_check(impetusd, "db", "unhealthy")["failures"]
    impetusd.kill(status.supervisor)
    row = checks(impetusd)["db"]
    assert (row["state"], row["failures"] >= before) == ("unhealthy", True)
    impetusd.says("health:db: db is unhealthy", 1)


def test_tcp_and_exec(impetusd: Instance) -> None:
    gate = impetusd.root / "gate"
    port, _ = server(
        impetusd,
        "[health:port]\ntarget = db\ntcp = 127.0.0.1:{port}\naction = alert\n" + OFTEN
        + f"[health:file]\ntarget = db\nexec = test -e {gate}\naction = alert\n" + OFTEN,
    )  # fmt: skip
    impetusd.start()

    def states() -> dict[str, tuple[str, str]]:
        rows = json.loads(impetusd.run("health", "--json", code=None).out)["checks"]
        return {row["name"]: (row["state"], row["reason"]) for row in rows}

    ill = {"port": ("healthy", ""), "file": ("unhealthy", f"test -e {gate}: exit 1")}
    wait_for(lambda: {name: (state, why) for name, (state, why) in states().items()} == ill, f"{ill} of {port}")
    gate.touch()
    wait_for(lambda: states()["file"] == ("healthy", ""), "the command to succeed")
    impetusd.run("health")


def test_who_is_stopped_is_not_asked_and_not_missed(impetusd: Instance) -> None:
    server(impetusd, "[health:db]\nhttp = http://127.0.0.1:{port}/\n" + OFTEN)
    impetusd.start()
    wait_check(impetusd, "db", "healthy")
    impetusd.run("stop", "db")
    row = checks(impetusd)["db"]
    assert (row["state"], row["reason"]) == ("unknown", "db is STOPPED")
    impetusd.run("health")
    impetusd.run("start", "db")
    wait_check(impetusd, "db", "healthy")


@pytest.mark.parametrize(
    "ready", ["http://127.0.0.1:{port}/", "tcp:127.0.0.1:{port}", "log:accepting connections on [0-9]+"]
)
def test_a_program_is_ready_when_its_probe_says_so(impetusd: Instance, ready: str) -> None:
    gate = impetusd.root / "gate"
    port, _ = server(impetusd, f"ready = {ready}\n[program:after]\ncommand = sleep 300\ndepends_on = db\n", gate)
    starting = impetusd.popen("start")
    row = impetusd.wait_state_of_daemon("db", "STARTING")
    wait_for(lambda: impetusd.status()["db"].reason, "what it waits for")
    row = impetusd.status()["db"]
    expected = ready.format(port=port).removeprefix("tcp:").removeprefix("log:")
    assert expected in row.reason
    assert impetusd.status()["after"].pid is None
    assert starting.poll() is None
    gate.touch()
    impetusd.finish(starting)
    status = impetusd.settle()
    assert (status["db"].restarts, status["after"].state) == (0, "RUNNING")
    impetusd.run("health", "-q", "--body", "well", f"http://127.0.0.1:{port}/")


def test_a_log_line_of_the_run_before_makes_nothing_ready(impetusd: Instance) -> None:
    gate = impetusd.root / "gate"
    gate.touch()
    server(impetusd, "ready = log:accepting\n", gate)
    impetusd.start()
    gate.unlink()
    restarting = impetusd.popen("restart", "db")
    impetusd.wait_state("db", "STARTING")
    wait_for(lambda: impetusd.status()["db"].pid, "its process")
    assert impetusd.status()["db"].state == "STARTING"
    gate.touch()
    impetusd.finish(restarting)
    assert impetusd.status()["db"].state == "RUNNING"


def test_ready_that_never_comes_is_a_failed_start(impetusd: Instance) -> None:
    keys = (
        "ready = http://127.0.0.1:{port}/\nlisten_timeout = 300ms\nmax_restarts = 1\nexp_backoff_restart_delay = 10ms\n"
    )
    server(impetusd, keys, impetusd.root / "never")
    failed = impetusd.run("start", code=1)
    assert "not ready within 0.3 s" in failed.out + failed.err
    assert impetusd.wait_state("db", "FATAL").restarts == 1


def test_a_url_needs_no_daemon(impetusd: Instance) -> None:
    port, ill = server(impetusd)
    impetusd.start()
    url = f"http://127.0.0.1:{port}/"
    wait_for(lambda: impetusd.run("health", url, code=None).code == 0, "it to listen")
    assert impetusd.run("health", "-q", "--body", "well", url).out == ""
    ill.write_text("no disk")
    assert impetusd.run("health", "-q", url, code=1).out == f"GET {url}: 503 Service Unavailable: no disk\n"
    impetusd.run("stop")
    assert impetusd.run("health", "-q", url, code=1).out == f"GET {url}: connection refused\n"
    assert "impetusd is not running" in impetusd.run("health", code=3).err
