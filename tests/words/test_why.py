"""The explanation: cause, rule, how often, next and what to type, of everything that there is."""

from __future__ import annotations

import datetime as dt
import json
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from impetusd.core.explain import news, story
from impetusd.core.explain.finding import Facts
from impetusd.core.explain.why import explain
from impetusd.core.reasons import NONE, because, not_started, said
from impetusd.core.rules.lifecycle import (
    Deadline,
    Exited,
    Fail,
    Gone,
    HandOver,
    Ready,
    Recycle,
    Restart,
    Slot,
    Spawned,
    Start,
    Stop,
    step,
)
from impetusd.core.rules.policy import Exit, Policy
from impetusd.supervisor.disk.ledger import as_json

NOW = 1764108300.0  # 2025-11-25 22:05:00 UTC
DB_IS_DOWN = because("waits_for", name="db", state="FATAL", cause=NONE)
WAITS = {"reason": str(DB_IS_DOWN), "cause": DB_IS_DOWN.data()}
ROOT = {"uid": 0, "user": "root", "login": "alice", "tty": "pts/3"}


def row(name="web", state="RUNNING", **changes):
    up = state == "RUNNING"
    own = {"name": name, "unit": name.partition(":")[0], "kind": "program", "state": state, "want": "up", "reason": ""}
    return {**own, "pid": 7 if up else None, "uptime_s": 60.0 if up else None, "restarts": 0, **changes}


class Past:
    """Records, each a second after the one before, up to NOW."""

    def __init__(self):
        self.records = []

    def add(self, kind, slot="web", **fields):
        whose = {"unit": slot.partition(":")[0], "slot": slot} if kind not in {"daemon", "command", "config"} else {}
        self.records.append({"n": len(self.records) + 1, "kind": kind, **whose, **fields})
        return self

    def run(self, pid=7, words=(), slot="web", **end):
        """A process that ended."""
        decided = {"asked": False, "state": "FATAL", "decision": "gave up (max_restarts = 16)", "rule": "max_restarts"}
        self.add("start", slot, pid=pid, why="")
        self.add("exit", slot, **{"pid": pid, "ran_s": 0.5, "code": 1, **decided, **end})
        return self.add("stderr", slot, pid=pid, lines=list(words)) if words else self

    def command(self, method, *names, **fields):
        told = {"method": method, "names": list(names), "params": {}, "outcome": "done", "error": "", **ROOT}
        return self.add("command", **{**told, **fields})

    def facts(self, *rows, **more):
        count = len(self.records)
        dated = [{"at": NOW - count + number, **record} for number, record in enumerate(self.records)]
        return Facts(
            **{"now": NOW, "running": True, "rows": rows, "records": dated, "own": dated, "zone": dt.UTC, **more}
        )


def told(facts, *names):
    """The one finding, its facts by their label."""
    (finding,) = explain(facts, names)
    return finding, dict(finding.facts)


def typed(finding):
    return [what for what, _ in finding.commands]


def test_what_was_given_up_has_its_cause_its_rule_and_what_to_type():
    past = Past().run(1, ["ValueError: no"]).run(2, ["ValueError: no"])
    finding, facts = told(past.facts(row(state="FATAL", reason="exit 1; gave up")), "web")
    assert finding.headline == "web is FATAL (given up) since 22:04:58, 2 s ago"
    assert facts["cause"] == "exit 1: ValueError: no"
    assert facts["rule"] == "gave up (max_restarts = 16)"
    assert facts["often"] == "2 times in a row, since 22:04:55, 5 s ago"
    assert facts["next"] == "it stays down until you start it"
    assert finding.words == ("ValueError: no",)
    assert typed(finding) == ["impetusd logs web", "impetusd restart web"]


def test_a_start_by_command_begins_the_count_anew():
    past = Past().run(1).run(2).command("start").run(3)
    assert "often" not in told(past.facts(row(state="FATAL")), "web")[1]


def test_what_is_tried_again_says_when():
    past = Past().run(1, state="BACKOFF", retry_s=9.0)
    finding, facts = told(past.facts(row(state="BACKOFF", reason="exit 1 (3 of 16)")), "web")
    assert facts["next"] == "it restarts in 8 s"
    assert typed(finding)[-1] == "impetusd restart web"
    again = Past().run(1, state="FATAL", retry_s=60.0)
    assert told(again.facts(row(state="FATAL")), "web")[1]["next"] == "one more attempt in 59 s (retry_after)"


def test_a_rule_that_ended_it_is_the_cause():
    reason = "uses 120 MB, over max_memory_kill = 100 MB"
    past = Past().add("start", pid=7, why="").add("rule", pid=7, rule="max_memory_kill", reason=reason)
    past.add("exit", pid=7, ran_s=5.0, signal="SIGKILL", asked=False, state="FATAL", decision="given up")
    facts = told(past.facts(row(state="FATAL")), "web")[1]
    assert (facts["cause"], facts["rule"]) == (reason, "max_memory_kill ended it; given up")


def test_the_words_of_another_run_are_not_shown():
    past = Past().run(1, ["first"]).add("start", pid=2, why="")
    past.add("exit", pid=2, ran_s=1.0, code=2, asked=False, state="FATAL", decision="")
    finding, facts = told(past.facts(row(state="FATAL")), "web")
    assert (facts["cause"], finding.words) == ("exit 2", ())


def test_what_waits_is_told_with_what_it_waits_for():
    past = Past().run(1, ["no"], slot="db")
    facts = past.facts(
        row("db", "FATAL", reason="exit 1"),
        row("web:0", "STARTING", **WAITS),
        row("web:1", "STARTING", **WAITS),
    )
    web, db = explain(facts, ["web"])
    assert web.headline == "web:0 and web:1 are STARTING: waits for db, which is FATAL"
    assert dict(db.facts)["cause"] == "exit 1: no"


def test_slots_that_suffer_from_the_same_are_told_once():
    past = Past().run(1, slot="web:0").run(2, slot="web:1")
    finding, _ = told(past.facts(*(row(f"web:{n}", "FATAL", reason=f"exit {n}") for n in range(2))), "web")
    assert finding.headline.startswith("web:0 and web:1 are FATAL")


def test_one_that_is_unhealthy_names_the_check_and_its_keys():
    check = {
        "name": "web",
        "target": "web",
        "state": "unhealthy",
        "action": "restart",
        "threshold": 3,
        "interval_s": 10.0,
    }
    answer = because("bad_answer", question="GET /", answer="500", at="/", errno=0)
    reason = because("held", cause=answer, held=because("just_restarted", ago_s=5.0, every_s=60.0))
    held = {"reason": str(reason), "cause": reason.data()}
    past = Past().add("health", check="web", state="unhealthy", failures=3, reason="GET /: 500", action="restart")
    finding, facts = told(past.facts(row(), checks=[{**check, **held}]))
    assert finding.headline == "web is RUNNING, but unhealthy since 22:04:59, 1 s ago"
    assert facts["cause"] == "GET /: 500"
    assert facts["rule"] == "[health:web] failures = 3, action = restart"
    assert facts["next"] == "it is checked again every 10 s"
    assert facts["held"] == "not restarted yet: a health check restarted it 5 s ago; the limit is once every 60 s"
    assert explain(past.facts(row(), checks=[{**check, "name": "probe", **held}]), ["probe"])


def test_a_reload_that_failed_is_told_with_its_unit_named_or_not():
    why = "web:0:next: exit 1 (no such module)"
    lines = ["Traceback (most recent call last):", "ModuleNotFoundError: No module named 'x'"]
    past = Past().add("reload", what="began", generation=2, reason="reload")
    past.add("reload", what="failed", generation=2, reason=why)
    past.add("reload", what="rolled back", generation=2, reason=why, took_s=0.1, lines=lines)
    facts = past.facts(row("web:0"), troubles=[because("not_reloaded", unit="web", cause=said(why))])
    (unasked,) = explain(facts, [])
    well, asked = explain(facts, ["web"])
    assert unasked == asked
    assert (well.ok, asked.ok) == (True, False)
    assert asked.headline == "Reload of web failed; the old version keeps serving, since 22:04:59, 1 s ago"
    assert dict(asked.facts)["cause"] == why
    assert asked.words == tuple(lines)
    assert typed(asked)[-1] == "impetusd reload web"
    assert [line.text for line in well.happened][-1].startswith("reload to generation 2 rolled back")


def test_who_stopped_it_is_told():
    past = Past().run(7, asked=True, state="STOPPED", decision="stopped as requested").command("stop", "web")
    finding, facts = told(past.facts(row(state="STOPPED", want="down")), "web")
    assert facts["cause"] == "impetusd stop web, by root (alice had logged in) on pts/3, at 22:04:59, 1 s ago"
    assert "until you start it" in facts["next"]
    assert typed(finding)[0] == "impetusd start web"
    assert finding.ok


def test_one_that_is_well_tells_its_last_end():
    past = Past().run(6, signal="SIGSEGV", core=True, state="STARTING").add("start", pid=7, why="")
    finding, facts = told(past.facts(row(restarts=1)), "web")
    assert finding.ok
    assert finding.headline == "web has been RUNNING since 22:04:00, 1 min ago, pid 7"
    assert facts["last end"].startswith("killed by SIGSEGV (core dumped), at 22:04:58")
    assert typed(finding)[0] == "coredumpctl info 6"


def test_of_what_is_well_nothing_is_said_unasked():
    assert explain(Past().facts(row()), []) == []


TIMER = {
    "name": "job",
    "words": "every 1 d",
    "enabled": True,
    "state": "waiting",
    "next_in_s": 7200.0,
    "running_s": None,
}


def test_a_timer_tells_its_last_run_and_its_next():
    past = Past().run(7, ["disk full"], slot="job", decision="")
    past.add("timer", "job", ok=False, code=1, duration_s=2.0, why="schedule", reason="exit 1", attempt=3, retries=2)
    finding, facts = told(past.facts(timers=[TIMER]))
    assert finding.headline == "job failed at 22:04:59, 1 s ago"
    assert facts["cause"] == "exit 1: disk full"
    assert facts["rule"] == "retries = 2, 2 used"
    assert facts["next"] == "it runs again in 2 h (every 1 d)"
    assert typed(finding)[-1] == "impetusd trigger job"
    skipped = past.add(
        "timer",
        "job",
        ok=False,
        code=None,
        duration_s=0.0,
        why="schedule",
        reason="skipped: the previous run is still running",
        attempt=1,
        cause={"key": "skipped_running", "facts": {}},
    )
    assert told(skipped.facts(timers=[TIMER]))[1]["since"].startswith("skipped: the previous run is still running")


def test_what_is_switched_off_says_by_whom():
    past = Past().command("disable", "web")
    assert told(past.facts(known=["web"]), "web")[1]["cause"].startswith("impetusd disable web, by root")
    assert "enabled = no" in told(Past().facts(known=["web"]), "web")[1]["cause"]


def test_a_refused_file_is_told_with_every_problem():
    past = Past().add(
        "config", what="refused", changes=[], reason="2 problems", problems=["/x.ini:3: a", "/x.ini:4: b"]
    )
    finding, _ = told(past.facts(troubles=[because("ini_refused", ago_s=0.0, problem="x.ini:3: a")]))
    assert [text for label, text in finding.facts if label == "problem"] == ["/x.ini:3: a", "/x.ini:4: b"]
    assert typed(finding) == ["impetusd check", "impetusd apply"]


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        (
            [("stopping", "impetusd stop"), "command", ("ended", "")],
            "impetusd stop, by root (alice had logged in) on pts/3",
        ),
        ([("stopping", "stopped by a signal"), ("ended", "")], "stopped by a signal"),
        ([], "killed or the host went down"),
    ],
)
def test_without_a_daemon_it_says_how_that_ended_and_what_was_then(ends, cause):
    past = Past().add("daemon", what="began", pid=1, shim=2).run(7, ["no"])
    for end in ends:
        past = past.command("stop") if end == "command" else past.add("daemon", what=end[0], why=end[1], pid=1, shim=2)
    daemon, web = explain(past.facts(running=False), ["web"])
    assert daemon.headline.startswith("impetusd is not running")
    assert cause in dict(daemon.facts)["cause"]
    assert web.headline == "web was FATAL when impetusd last ran"
    assert dict(web.facts)["last end"].startswith("exit 1: no, at ")


@pytest.mark.parametrize(
    ("left", "fact"), [(1, "1 process it started is still running"), (2, "2 processes it started are still running")]
)
def test_what_a_killed_one_has_left_is_counted(left, fact):
    past = Past().add("daemon", what="began", why="", pid=1, shim=2)
    (finding,) = explain(past.facts(running=False, left=left), [])
    assert dict(finding.facts)["left"] == fact


def test_nothing_at_all_is_known():
    (finding,) = explain(Facts(now=NOW, running=False), [])
    assert finding.headline == "impetusd is not running and left no records"


ENDS = [
    Exit(code=0),
    Exit(code=1),
    Exit(signal=signal.SIGKILL, oom="out of memory"),
    Exit(failed=not_started("exec", because("no_file", name="/x"), "/x")),
]
EVENTS = st.one_of(
    *(st.just(event) for event in (Start(), Stop(), Restart(), Ready(), Gone(), Deadline())),
    st.builds(Spawned, st.integers(1, 3)),
    st.builds(Exited, st.sampled_from(ENDS), st.booleans()),
    st.builds(HandOver, st.integers(4, 6), st.just(because("max_age", limit_s=86400.0))),
    st.builds(Recycle, st.just(because("max_age", limit_s=86400.0))),
    st.builds(Fail, st.just(because("unhealthy", cause=said("GET /: 500"))), st.booleans()),
)


@settings(deadline=None)
@given(
    st.lists(EVENTS, max_size=40),
    st.integers(0, 40),
    st.booleans(),
    st.sampled_from([Policy(), Policy(watchdog=1.0, wait_ready=True, retry_after=9.0)]),
)
def test_whatever_happens_is_explained_also_when_the_ledger_has_lost_its_beginning(events, lost, running, policy):
    slot, at, records = Slot(), 100.0, []
    for event in events:
        before = slot
        slot, _ = step(policy, slot, event, at, 0.5)
        for record in news.transition_records(policy, before, slot, at):
            written = json.loads(json.dumps(as_json(record)))
            records.append({"n": len(records) + 1, "at": NOW - 1000 + at, "unit": "web", "slot": "web", **written})
        at += 0.7
    now = row(
        state=slot.state.name, want=slot.want.value, reason=str(slot.reason), cause=slot.reason.data(), pid=slot.pid
    )
    facts = Facts(now=NOW, running=running, rows=[now] if running else [], records=records[lost:], own=records[lost:])
    for names in ([], ["web"], ["w*"]):
        found = explain(facts, names)
        assert all(finding.headline and all(text for _, text in finding.facts) for finding in found)
        if running and names:
            assert found
    assert len(story.summarize(records, 5, named=True)) <= 5


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("start", "not everything came up"),
        ("trigger", "the job failed"),
        ("reload", "it failed"),
        ("stop", "some processes did not exit"),
    ],
)
def test_a_command_that_failed_is_said_to_have_failed_in_what_it_is_for(method, said):
    past = Past().command(method, "web", outcome="failed")
    assert story.summarize(past.facts().records, 1, named=False)[0].text.endswith(f": {said}")


def test_of_what_puts_itself_into_the_background_it_says_how_it_stays():
    past = Past().run(code=0)
    gone = row(state="FATAL")
    assert (
        "in the foreground: nginx -g 'daemon off;'"
        in told(past.facts(gone, programs={"web": ("nginx",)}), "web")[1]["hint"]
    )
    assert "a service must not exit" in told(past.facts(gone, programs={"web": ("./run",)}), "web")[1]["hint"]
