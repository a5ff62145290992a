"""What supervisord's protocol calls things."""

from __future__ import annotations

import pytest
from supervisor import xmlrpc as theirs
from supervisor.options import make_namespec, split_namespec

from impetusd.core.reasons import because
from impetusd.interop import supervisord
from impetusd.interop.supervisord import Fault, Faults, Processes


def row(name, unit="", kind="program", state="RUNNING", **more):
    return {"name": name, "unit": unit or name.partition(":")[0], "kind": kind, "state": state, "want": "up", **more}


ROWS = [
    row("web:0", kind="worker"),
    row("web:1", kind="worker"),
    row("web:template", kind="template"),
    row("web:standby", kind="standby"),
    row("db"),
    row("api"),
    row("jobs:0"),
    row("jobs:1"),
    row("gateway:0", kind="worker"),
    row("observer"),
    row("nightly", kind="timer"),
]


def test_the_numbers_are_those_of_the_package():
    assert {name: each for name, each in vars(theirs.Faults).items() if name.isupper()} == {
        name: each for name, each in vars(Faults).items() if name.isupper()
    }


def test_units_are_groups_of_their_own():
    found = Processes(ROWS, {})
    assert [each.spec for each in found] == ["api", "db", "jobs:0", "jobs:1", "web:0", "web:1"]
    assert [(each.group, each.name) for each in found] == [split_namespec(each.spec) for each in found]
    assert all(make_namespec(each.group, each.name) == each.slot for each in found)


def test_a_group_of_the_file_has_its_members():
    found = Processes(ROWS, {"x": ["db", "jobs"], "y": ["db", "api"]})
    assert [each.spec for each in found] == ["web:0", "web:1", "x:db", "x:jobs:0", "x:jobs:1", "y:api"]
    assert [each.slot for each in found.group("x")] == ["db", "jobs:0", "jobs:1"]
    assert [each.slot for each in found.group("y")] == ["db", "api"]
    assert [each.slot for each in found.group("jobs")] == ["jobs:0", "jobs:1"]
    assert found.one("x:jobs:1").slot == found.one("jobs:1").slot == "jobs:1"
    assert found.one("x:db").slot == found.one("db").slot == "db"


@pytest.mark.parametrize(
    "name", ["", "nope", "web", "web:2", "web:template", "gateway:0", "observer", "nightly", "a:b:c"]
)
def test_a_name_of_nothing(name):
    with pytest.raises(Fault, match="BAD_NAME"):
        Processes(ROWS, {}).one(name)
    with pytest.raises(Fault, match="BAD_NAME"):
        Processes(ROWS, {}).group(name.replace("web", "w"))


def test_what_stands_for_a_group():
    assert [supervisord.is_group(name) for name in ("a", "a:*", "a:", "a:b", "*")] == ["", "a", "a", "", ""]


def test_a_process_is_described_as_there():
    def said(**fields):
        (process,) = Processes([row("a", **fields)], {})
        info = supervisord.info(process, {("a", "out"): "/var/log/a"}, 1000.0)
        return info["state"], info["description"], info["start"], info["exitstatus"], info["spawnerr"]

    ended = {"code": 3, "at": "1970-01-01T00:10:00+00:00"}
    assert said(pid=7, uptime_s=3700.0) == (20, "pid 7, uptime 1:01:40", -2700, 0, "")
    assert said(state="STOPPED") == (0, "Not started", 0, 0, "")
    state, stopped, start, code, _ = said(state="EXITED", last_exit=ended)
    assert (state, start, code) == (100, 600, 3)
    assert stopped.startswith("Jan 01 ")
    assert said(state="BACKOFF", reason="exit 1;\n again") == (30, "exit 1; again", 0, 0, "exit 1;\n again")
    assert said(state="FATAL")[1] == 'unknown error (try "tail a")'
    assert said(state="STARTING", reason="waits for db")[1] == "waits for db"
    assert said(state="NEW_ONE")[0] == 1000


def test_why_a_start_failed():
    def of(stage, cause):
        failed = because("start_failed", stage=stage, what="/x", cause=cause)
        return supervisord.start_fault(row("a", state="FATAL", cause=failed.data()))

    assert of("exec", because("no_file", name="/x")) == of("exec", because("no_program", name="x")) == Faults.NO_FILE
    assert of("exec", because("os_error", errno=13, detail="")) == Faults.NOT_EXECUTABLE
    assert of("exec", because("os_error", errno=8, detail="")) == Faults.SPAWN_ERROR
    assert of("cwd", because("no_file", name="/x")) == Faults.SPAWN_ERROR
    assert supervisord.start_fault(row("a", state="FATAL", reason="exit 1")) == Faults.ABNORMAL_TERMINATION
    assert supervisord.start_fault(row("a")) == supervisord.start_fault(row("a", state="EXITED")) == Faults.SUCCESS
