"""`start`, `stop` and `status`: there and back, asked twice, and what the exit codes and the JSON say."""

from __future__ import annotations

import datetime as dt
import os

import census
from instance import Instance, program, wait_for

import impetusd

HOLD = program("tell_ready", "never")
TWO = f"""
[program:one]
command = {HOLD}
min_uptime = 100ms

[program:two]
command = {HOLD}
min_uptime = 100ms
"""


def test_a_round_trip_from_nothing_to_nothing(anyone: Instance) -> None:
    anyone.write(TWO)
    nothing = anyone.run("status", code=3)
    assert "is not running" in nothing.err
    assert "start" in nothing.err  # what to do about it

    anyone.run("start")
    status = anyone.settle()
    assert list(status.rows) == ["one", "two"]
    assert anyone.run("status").out.count("RUNNING") == 2

    stopped = anyone.run("stop")
    assert "not running" in stopped.out
    assert anyone.members() == []
    assert list(anyone.run_dir.iterdir()) == []
    assert anyone.run("status", code=3).out == ""


def test_starting_what_runs_is_success_and_changes_nothing(impetusd: Instance) -> None:
    before = impetusd.start(TWO)
    again = impetusd.start()
    assert (again.shim, again.supervisor, again.pids) == (before.shim, before.supervisor, before.pids)
    impetusd.run("start", "one")
    assert impetusd.status().pids == before.pids


def test_stopping_what_does_not_run_is_success(impetusd: Instance) -> None:
    impetusd.write(TWO)
    assert "not running" in impetusd.run("stop").out
    impetusd.start()
    impetusd.run("stop", "one")
    impetusd.run("stop", "one")
    assert impetusd.status()["one"].state == "STOPPED"
    impetusd.run("stop")
    impetusd.run("stop")


def test_the_exit_code_of_status_tells_what_is_wanted_and_not_up(impetusd: Instance) -> None:
    told = impetusd.root / "told"
    impetusd.write(
        f"{TWO}\n[program:three]\ncommand = {program('exit_as_told', told)}\nmin_uptime = 100ms\nmax_restarts = 0\n"
    )
    impetusd.run("status", code=3)
    impetusd.run("start")
    impetusd.run("status", code=0)
    impetusd.run("status", "three", code=0)
    told.write_text("9")
    impetusd.kill(impetusd.status()["three"].pid)
    impetusd.wait_state("three", "FATAL")
    impetusd.run("status", code=1)
    impetusd.run("status", "three", code=1)
    impetusd.run("status", "one", code=0)
    unknown = impetusd.run("status", "tow", code=4)
    assert "did you mean two?" in unknown.err
    impetusd.run("stop", "three")
    impetusd.run("status", code=0)  # what nobody wants up is not wrong
    impetusd.run("stop")
    impetusd.run("status", code=3)


def test_status_as_json_is_what_the_documentation_says(impetusd: Instance) -> None:
    status = impetusd.start(TWO)
    assert set(status.fields) == {
        "version",
        "protocol",
        "shim",
        "supervisor",
        "units",
        "groups",
        "profile",
        "conf",
        "file",
        "pending",
        "attention",
        "troubles",
        "notices",
        "behind",
        "held",
    }
    assert status.fields["version"] == _version()
    assert set(status.fields["shim"]) == set(status.fields["supervisor"]) == {"pid"}
    stated = {
        "name": str, "kind": str, "state": str, "want": str, "ready": bool, "pid": int, "uptime_s": float,
        "restarts": int, "memory_bytes": int, "cpu_percent": float, "generation": int, "last_exit": type(None),
        "dropped_lines": int, "dropped_bytes": int,
    }  # fmt: skip
    for row in status.rows.values():
        for key, kind in stated.items():
            assert type(row.fields[key]) is kind, f"{key} is {row.fields[key]!r}"
        assert (row.kind, row.state, row.want, row.ready, row.restarts) == ("program", "RUNNING", "up", True, 0)
        assert row.memory_bytes > 1 << 20
        assert 0 < row.uptime_s < 1000
        assert row.generation == 1

    impetusd.kill(status["one"].pid)
    after = impetusd.settle(lambda now: now["one"].restarts == 1)
    end = after["one"].last_exit
    assert set(end) == {"signal", "at"}
    assert end["signal"] == "SIGKILL"
    assert dt.datetime.fromisoformat(end["at"]).tzinfo is not None
    assert after["two"].last_exit is None
    assert after["one"].generation == 1  # nobody asked for this start

    impetusd.run("stop", "two")
    down = impetusd.status()["two"]
    assert (down.state, down.want, down.ready, down.pid, down.uptime_s, down.memory_bytes, down.cpu_percent) == (
        "STOPPED", "down", False, None, None, None, None,
    )  # fmt: skip
    assert down.last_exit["signal"] == "SIGTERM"


def test_the_status_table_fits_eighty_columns_and_is_plain_when_piped(impetusd: Instance) -> None:
    impetusd.start(TWO + "\n[program:a-name-that-is-rather-longer-than-most-people-would-choose]\n"
                   f"command = {HOLD}\nmin_uptime = 100ms\n")  # fmt: skip
    shown = impetusd.run("status", env={"COLUMNS": "80"}).out
    assert "\x1b" not in shown
    assert "all 3 up" in shown


def test_the_instance_leaves_the_folders_with_their_modes(impetusd: Instance) -> None:
    impetusd.start(TWO)
    modes = {name: (impetusd.root / "var" / name).stat().st_mode & 0o777 for name in ("run", "lib", "log")}
    assert modes == {"run": 0o755, "lib": 0o700, "log": 0o750}
    assert impetusd.control_socket.stat().st_mode & 0o777 == 0o600


def test_the_daemon_is_detached_from_whoever_started_it(impetusd: Instance) -> None:
    status = impetusd.start(TWO)
    shim = census.read(status.shim)
    assert shim is not None
    assert shim.parent != os.getpid()
    assert os.getsid(status.shim) != os.getsid(0)
    assert os.readlink(f"/proc/{status.shim}/cwd") == "/"
    assert os.readlink(f"/proc/{status.shim}/fd/0") == "/dev/null"


def test_a_second_start_of_one_unit_leaves_the_others_down(impetusd: Instance) -> None:
    impetusd.start(TWO.replace("min_uptime", "autostart = no\nmin_uptime"))
    assert {row.state for row in impetusd.status().rows.values()} == {"STOPPED"}
    impetusd.run("start", "two")
    assert impetusd.status()["one"].state == "STOPPED"
    assert impetusd.status()["two"].state == "RUNNING"
    wait_for(lambda: impetusd.run("status", code=None).code == 0, "status to be content")


def _version() -> str:
    return impetusd.__version__
