"""The ledger of a real daemon: what happened, exactly once each, whoever was killed meanwhile."""

from __future__ import annotations

import json
import os
import pwd
import signal
from typing import Any

from instance import Instance, program, wait_for

from impetusd.core.explain.ledger import COMMON, KINDS


def records(instance: Instance) -> list[dict[str, Any]]:
    """All of them, whose numbers have no gap and no repetition."""
    found = instance.ledger()
    assert [each["n"] for each in found] == list(range(1, len(found) + 1))
    for each in found:
        assert each.keys() <= COMMON.keys() | KINDS[each["kind"]].keys(), each
    return found


def of(instance: Instance, *kinds: str, slot: str | None = None) -> list[dict[str, Any]]:
    """The records of these kinds, of one slot if it is named."""
    return [e for e in records(instance) if e["kind"] in kinds and slot in {None, e.get("slot")}]


def test_a_life_from_start_to_stop(impetusd: Instance) -> None:
    impetusd.start(f"[program:p]\ncommand = {program('tell_ready', 'self')}\nwait_ready = yes\n")
    first = impetusd.status()["p"].pid
    impetusd.kill(first)
    second = impetusd.settle(lambda now: now["p"].pid not in {None, first})["p"].pid
    impetusd.run("stop")
    told = [(each["kind"], each.get("pid")) for each in of(impetusd, "start", "ready", "exit")]
    both = [[("start", pid), ("ready", pid), ("exit", pid)] for pid in (first, second)]
    assert told == both[0] + both[1]
    killed, stopped = of(impetusd, "exit")
    assert (killed["signal"], killed["asked"], killed["restarts"]) == ("SIGKILL", False, 1)
    assert killed["max_rss"] > 1 << 20
    assert (stopped["asked"], stopped["state"]) == (True, "STOPPED")
    assert [each["what"] for each in of(impetusd, "daemon")] == ["began", "stopping", "ended"]


def test_who_gave_a_command_and_how_it_went(anyone: Instance) -> None:
    anyone.start("[program:p]\ncommand = sleep 1000\n")
    anyone.run("stop", "p")
    anyone.run("restart", "nosuch", code=4)
    anyone.run("status")  # whoever only looks is not noted
    commands = wait_for(lambda: (found := of(anyone, "command"))[2:] and found, "three commands")
    assert [(each["method"], each["names"], each["outcome"]) for each in commands] == [
        ("start", [], "done"),
        ("stop", ["p"], "done"),
        ("restart", ["nosuch"], "failed"),
    ]
    assert "no unit 'nosuch'" in commands[2]["error"]
    uid = pwd.getpwnam(anyone.user).pw_uid if anyone.user is not None else os.geteuid()
    assert {(each["uid"], each["user"]) for each in commands} == {(uid, pwd.getpwuid(uid).pw_name)}
    assert {each["comm"] for each in commands} != {""}


def test_nothing_is_lost_or_doubled_while_the_supervisor_is_killed(impetusd: Instance) -> None:
    impetusd.write("""
[program:loop]
command = false
max_restarts = 100000
exp_backoff_restart_delay = 0
restart_delay = 10ms
""")
    impetusd.run("start", code=None)  # one that takes a second to end counts as started
    for _ in range(10):
        count = len(of(impetusd, "exit"))
        wait_for(lambda count=count: len(of(impetusd, "exit")) > count + 3, "the loop to go on")
        supervisor = impetusd.status().supervisor
        impetusd.kill(supervisor)
        wait_for(lambda gone=supervisor: impetusd.status().supervisor != gone, "the next supervisor")
    restarts = impetusd.status()["loop"].restarts
    impetusd.run("stop")
    starts, ends = ([each["pid"] for each in of(impetusd, kind)] for kind in ("start", "exit"))
    assert starts == ends
    assert len(set(starts)) == len(starts) > restarts
    assert [each["what"] for each in of(impetusd, "daemon")] == ["began", *["took over"] * 10, "stopping", "ended"]


def test_following_shows_each_record_once_whoever_is_killed_or_stopped_meanwhile(impetusd: Instance) -> None:
    impetusd.start("[program:p]\ncommand = sleep 1000\n")
    path = impetusd.root / "shown"
    with path.open("wb") as file:
        shown = impetusd.popen("events", "-f", "-n", 1000, "--json", stdout=file)

    def numbers() -> list[int]:
        return [json.loads(line)["n"] for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    for change in (
        lambda: impetusd.run("restart", "p"),
        lambda: impetusd.kill(impetusd.status().supervisor),
        lambda: impetusd.run("stop"),
        lambda: impetusd.run("start"),
        lambda: impetusd.run("restart", "p"),
    ):
        change()
        wait_for(lambda: numbers() == [each["n"] for each in records(impetusd)], "all to be shown")
    shown.send_signal(signal.SIGINT)
    impetusd.finish(shown, 130)


def test_the_last_words_follow_the_end(impetusd: Instance) -> None:
    impetusd.write("[program:p]\ncommand = sh -c 'echo first >&2; echo last >&2; exit 3'\nautorestart = never\n")
    impetusd.run("start", code=None)  # one that takes a second to end counts as started
    end, words = wait_for(lambda: (found := of(impetusd, "exit", "stderr"))[1:] and found, "both records")
    assert (end["code"], end["state"]) == (3, "FATAL")
    assert words["lines"] == ["first", "last"]


def test_timers_health_and_rules_are_in_it(impetusd: Instance) -> None:
    impetusd.start("""
[program:p]
command = sleep 1000
max_age = 300ms
max_restarts = 2
min_uptime = 0
[timer:job]
command = false
every = 1d
[program:sick]
command = sleep 1000
[health:sick]
exec = false
interval = 200ms
timeout = 200ms
failures = 2
action = alert
""")
    impetusd.run("trigger", "job", code=1)
    wait_for(lambda: len(of(impetusd, "health")) == 2, "the check to fail twice")
    wait_for(lambda: of(impetusd, "rule"), "its age")
    (timer,) = wait_for(lambda: of(impetusd, "timer"), "the run of the timer")
    assert (timer["unit"], timer["ok"], timer["code"], timer["why"]) == ("job", False, 1, "trigger")
    first, ill = of(impetusd, "health")
    assert (first["state"], first["failures"]) == ("failing", 1)
    assert (ill["check"], ill["unit"], ill["state"], ill["failures"]) == ("sick", "sick", "unhealthy", 2)
    assert ill["reason"].startswith("false: ")  # exit 1, unless this host is too slow even for that
    rule = of(impetusd, "rule")[0]
    assert (rule["slot"], rule["rule"]) == ("p", "max_age")
