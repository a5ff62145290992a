"""When alerts are sent: once, grouped by cause, delayed, repeated, not while silenced; and when they are over."""

from __future__ import annotations

import pytest
from alerting import GAVE_UP, T0, Life, check, rows, run, slot, timer
from hypothesis import given
from hypothesis import strategies as st

from impetusd.core.explain import happened
from impetusd.core.explain.incidents import Problem
from impetusd.core.reasons import because, said
from impetusd.observer import rules
from impetusd.observer.settings import Alert

FATAL = slot("web", "FATAL", cause=GAVE_UP)
RUNNING = slot("web")
REFUSED = "connect to 127.0.0.1:5432: Connection refused"
LOST = because("logs_lost", files=1, cause=said("full"), lines=3, where="/l")
NOT_RELOADED = because("not_reloaded", unit="web", cause=because("cancelled"))


def problems(notice):
    return [problem.key for problem in notice.problems]


def test_a_failure_is_sent_once_and_then_its_recovery():
    life = Life()
    life.rows = rows([FATAL])
    assert life.look() == []  # what follows from it may still come
    assert life.due == T0 + rules.GATHER
    assert life.until(3600) == [(2, "firing", "web")]
    life.rows = rows([slot("web", "STARTING")])
    assert life.until(600) == []  # tried again: how that ends decides
    life.rows = rows([RUNNING])
    assert life.until(3600) == [(4205, "recovered", "web")]
    assert life.due is None
    first, last = life.sent
    assert problems(first) == problems(last) == ["fatal web"]
    assert last.problems[0].cause == GAVE_UP
    assert (first.id, last.incident) == (first.incident, first.id)
    assert last.id != first.id
    assert last.states == ("web RUNNING",)


@pytest.mark.parametrize(
    ("found", "key"),
    [
        (rows([FATAL]), "fatal web"),
        (
            rows([slot("web", held={"key": "quarantined", "how": "x", "stage": "y", "at": T0, "within_s": 60})]),
            "fatal web",
        ),
        (rows([RUNNING], [check("web")]), "unhealthy web"),
        (rows(timers=[timer("t", run(False))]), "timer t"),
        (rows(timers=[timer("t", run(False, "skipped_missed"), run(True))]), "timer t"),
        (rows(timers=[timer("t", run(False, "skipped_running"), run(False))]), "timer t"),
        (rows(notices=[LOST]), "disk /l"),
        (rows(notices=[because("shim", what="table", text="x")]), "disk table"),
        (
            rows(notices=[because("mistake", source="s", stage="t", cause=said("x"), count=1, ago_s=1.0)]),
            "daemon s mistake",
        ),
        (rows(notices=[NOT_RELOADED]), "deploy web"),
        (rows(notices=[because("ini_refused", ago_s=1.0, problem="x")]), "deploy configuration"),
        (
            rows(held={"key": "hold-only", "how": "x", "stage": "y", "at": T0, "within_s": 60}),
            "daemon impetusd hold-only",
        ),
    ],
)
def test_what_rows_show(found, key):
    life = Life()
    life.rows = found
    assert [kind for _, kind, _ in life.until(10)] == ["firing"]
    assert problems(life.sent[0]) == [key]
    life.rows = rows([RUNNING])
    assert [kind for _, kind, _ in life.until(10)] == ["recovered"]


@pytest.mark.parametrize(
    "found",
    [
        rows(
            [
                RUNNING,
                slot("db", "STOPPED", "down"),
                slot("x", "EXITED"),
                slot("b", "BACKOFF"),
                slot("f", "FATAL", "down"),
            ]
        ),
        rows([RUNNING], [check("web", "healthy"), check("web", "starting"), check("web", "unknown")]),
        rows(timers=[timer("new"), timer("t", run(True), run(False))]),
        rows(timers=[timer("t", run(False, "skipped_running"), run(True))]),
        rows(timers=[timer("t", run(False, "stopped_for_next"), run(True))]),
        rows(timers=[timer("t", run(False), state="retrying")]),  # how the retry ends decides
        rows(notices=[because("disabled", name="x")]),
    ],
)
def test_what_is_no_problem(found):
    life = Life()
    life.rows = found
    assert life.until(3600) == []


class TestRecords:
    def test_many_restarts_are_one_problem_until_they_stop(self):
        life = Life()
        for _ in range(happened.RESTARTS - 1):
            life.exit()
            assert life.until(10) == []
        life.exit()
        life.record("stderr", unit="web", slot="web", pid=1, lines=["Traceback", "ValueError: nope"])
        assert life.until(10) == [(20, "firing", "web")]
        for _ in range(5):
            life.exit()
            assert life.until(60) == []
        assert life.until(1000) == [(30 + 4 * 60 + 120 + 5, "recovered", "web")]
        notice = life.sent[0]
        assert notice.problems[0].cause == because(
            "restarted_often", end=because("exit", code=1), count=3, window_s=happened.RESTART_WINDOW
        )
        assert notice.problems[0].lines[-1] == "ValueError: nope"
        assert notice.since == T0

    def test_what_is_started_by_hand_and_fails_on_has_not_recovered(self):
        life = Life()
        for _ in range(happened.RESTARTS):
            life.exit()
        backoff = rows([slot("web", "BACKOFF", cause=because("exit", code=1))])
        life.rows = backoff
        assert [each[1:] for each in life.until(10)] == [("firing", "web")]
        life.record("command", method="start", names=["web"], outcome="done", took_s=1.0)
        assert life.until(60) == []
        life.rows = rows([RUNNING])
        assert life.until(rules.RECOVERY - 1) == []
        life.rows = backoff
        for _ in range(happened.RESTARTS):
            life.exit()
        assert life.until(60) == []
        life.rows = rows([RUNNING])
        assert [each[1:] for each in life.until(600)] == [("recovered", "web")]

    @pytest.mark.parametrize("more", [{"asked": True}, {"decision": None}])
    def test_ends_that_were_asked_for_and_those_of_jobs_are_none(self, more):
        life = Life()
        for _ in range(10):
            fields = {"asked": False, "decision": "again", **more}
            if fields["decision"] is None:
                del fields["decision"]
            life.record("exit", unit="web", slot="web", pid=1, code=1, **fields)
        assert life.until(100) == []

    def test_a_crash_loop_that_is_given_up_is_one_incident(self):
        life = Life(for_=5.0)
        for _ in range(4):
            life.exit()
            life.until(1)
        life.rows = rows([FATAL])
        assert [each[1:] for each in life.until(100)] == [("firing", "web")]
        assert problems(life.sent[0]) == ["fatal web"]
        life.record("command", method="start", names=["web"], outcome="done", took_s=1.0)
        life.rows = rows([RUNNING])
        assert [each[1:] for each in life.until(20)] == [("recovered", "web")]

    def test_from_a_warning_to_an_error_there_is_one_more(self):
        life = Life()
        for _ in range(3):
            life.exit()
        assert [each[1:] for each in life.until(10)] == [("firing", "web")]
        life.rows = rows([FATAL])
        assert [each[1:] for each in life.until(100)] == [("worse", "web")]
        assert not life.sent[0].error
        assert life.sent[1].error

    @pytest.mark.parametrize(
        ("record", "key"),
        [
            ({"kind": "rule", "rule": "max_memory_restart"}, "memory web"),
            ({"kind": "rule", "rule": "max_memory_kill"}, "memory web"),
            ({"kind": "rule", "rule": "watchdog"}, "unhealthy web"),
            ({"kind": "exit", "code": None, "signal": "SIGKILL", "oom": "oom-kill", "asked": True}, "memory web"),
        ],
    )
    def test_rules_that_acted(self, record, key):
        life = Life()
        life.record(**{"unit": "web", "slot": "web:0", "pid": 1, "reason": "why", **record})
        assert [each[1:] for each in life.until(10)] == [("firing", "web")]
        assert problems(life.sent[0]) == [key]
        assert life.sent[0].problems[0].slots == ("web:0",)
        assert [each[1:] for each in life.until(3600)] == [("recovered", "web")]

    def test_a_supervisor_that_was_killed_is_a_problem_and_one_that_handed_over_is_no_problem(self):
        life = Life()
        for what in ("began", "handing over", "took over"):
            life.record("daemon", what=what, pid=1, shim=2, version="1")
        assert life.until(100) == []
        life.record("daemon", what="took over", pid=1, shim=2, version="1")
        assert [each[1:] for each in life.until(1000)] == [("firing", "impetusd"), ("recovered", "impetusd")]

    def test_a_record_of_a_kind_that_is_not_known_is_passed_over(self):
        life = Life()
        life.record("of a newer version", unit="web")
        assert life.until(10) == []


class TestOneUnit:
    """Of which something was sent already."""

    @pytest.mark.parametrize(
        ("first", "then", "sent"),
        [
            (rows([RUNNING], notices=[NOT_RELOADED]), rows([FATAL], notices=[NOT_RELOADED]), True),
            (rows([FATAL]), rows([FATAL], notices=[NOT_RELOADED]), True),
            (rows([RUNNING], [check("web")]), rows([FATAL], [check("web")]), True),
            (rows([FATAL]), rows([FATAL], [check("web")]), False),  # which follows from that
        ],
    )
    def test_what_is_new_is_sent_and_what_follows_is_not(self, first, then, sent):
        life = Life()
        life.rows = first
        assert [kind for _, kind, _ in life.until(10)] == ["firing"]
        life.rows = then
        assert [kind for _, kind, _ in life.until(10)] == ["worse"] * sent
        life.rows = rows([RUNNING])
        assert [kind for _, kind, _ in life.until(60)] == ["recovered"]

    def test_what_is_over_and_comes_again_is_sent_again(self):
        life = Life()
        life.rows = rows([FATAL], notices=[NOT_RELOADED])
        assert [kind for _, kind, _ in life.until(10)] == ["firing"]
        life.rows = rows([FATAL])
        assert life.until(60) == []
        life.rows = rows([FATAL], notices=[NOT_RELOADED])
        assert [kind for _, kind, _ in life.until(10)] == ["worse"]
        assert problems(life.sent[-1]) == ["deploy web", "fatal web"]

    def test_impetusds_own_troubles_are_different_ones(self):
        life = Life()
        life.rows = rows(notices=[because("ini_refused", ago_s=1.0, problem="x")])
        assert [kind for _, kind, _ in life.until(10)] == ["firing"]
        life.record("daemon", what="took over", pid=1, shim=2, version="1")
        assert life.until(10)[0][1:] == ("firing", "impetusd")
        life.rows = rows(held={"key": "hold-only", "how": "x", "stage": "y", "at": T0, "within_s": 60})
        assert [kind for _, kind, _ in life.until(4)] == ["worse"]


class TestGrouping:
    NEEDS = {"web": ["api"], "api": ["db"], "jobs": ["db"]}  # noqa: RUF012  # a test's own

    def test_the_database_comes_first_and_what_needs_it_is_folded_in(self):
        life = Life(needs=self.NEEDS)
        waits = because("waits_for", name="db", state="FATAL", cause=because("exit", code=1))
        life.rows = rows(
            [
                RUNNING,
                slot("api", "FATAL", cause=GAVE_UP),
                slot("jobs", "STARTING", cause=waits),
                slot("db", "FATAL", cause=GAVE_UP),
            ],
            [check("web")],
        )
        assert life.until(3600) == [(2, "firing", "db")]
        assert problems(life.sent[0]) == ["fatal db", "fatal api", "unhealthy web"]
        assert life.sent[0].waiting == ("jobs",)
        life.rows = rows([RUNNING, slot("api"), slot("jobs"), slot("db")])
        assert [each[1:] for each in life.until(60)] == [("recovered", "db")]

    def test_a_recovery_names_what_the_first_message_named_also_when_the_rest_is_well_only_later(self):
        life = Life(needs=self.NEEDS)
        life.rows = rows([RUNNING, slot("api"), slot("db", "FATAL", cause=GAVE_UP)], [check("web")])
        assert life.until(10) == [(2, "firing", "db")]
        life.rows = rows([RUNNING, slot("api"), slot("db")], [check("web")])
        assert life.until(60) == []
        life.rows = rows([RUNNING, slot("api"), slot("db")])
        assert [each[1:] for each in life.until(60)] == [("recovered", "db")]
        assert problems(life.sent[-1]) == ["fatal db", "unhealthy web"]

    def test_a_database_that_was_stopped_is_the_cause_of_what_fails(self):
        life = Life(needs=self.NEEDS)
        life.rows = rows([slot("web", "FATAL", cause=GAVE_UP), slot("db", "STOPPED", "down")])
        assert life.until(10) == [(2, "firing", "db")]
        assert (life.sent[0].state, problems(life.sent[0])) == ("STOPPED", ["fatal web"])

    def test_a_reload_that_failed_is_no_consequence_of_what_is_down(self):
        life = Life(needs=self.NEEDS)
        life.rows = rows([RUNNING, slot("db", "STOPPED", "down")], notices=[NOT_RELOADED])
        assert life.until(10) == [(2, "firing", "web")]
        assert (life.sent[0].state, problems(life.sent[0])) == ("", ["deploy web"])

    def test_a_cause_that_is_found_later_is_sent_and_its_end_ends_it(self):
        life = Life(needs=self.NEEDS)
        life.rows = rows([RUNNING, slot("api"), slot("db")], [check("web")])
        assert life.until(10) == [(2, "firing", "web")]
        life.rows = rows([RUNNING, slot("api"), slot("db", "FATAL", cause=GAVE_UP)], [check("web")])
        assert life.until(10) == [(12, "worse", "db")]
        life.rows = rows([RUNNING, slot("api"), slot("db")], [check("web")])
        assert life.until(60) == []  # web is not well yet
        life.rows = rows([RUNNING, slot("api"), slot("db")])
        assert [each[1:] for each in life.until(60)] == [("recovered", "db")]  # which was sent last
        assert {*problems(life.sent[-1])} == {"fatal db", "unhealthy web"}
        assert len({notice.incident for notice in life.sent}) == 1

    def test_a_full_disk_is_one_incident_whoever_meets_it(self):
        life = Life()
        full = because("logs_lost", files=1, cause=because("os_error", errno=28, detail=""), lines=3, where="/l")
        words = ["OSError: [Errno 28] No space left on device"]
        life.rows = rows([slot("backup", "FATAL", cause=GAVE_UP, tail=words)], notices=[full])
        assert life.until(10) == [(2, "firing", "backup")]
        assert problems(life.sent[0]) == ["fatal backup", "disk /l"]

    def test_the_same_trouble_outside_is_one_incident(self):
        life = Life()
        life.rows = rows(
            [slot("a", "FATAL", cause=GAVE_UP, tail=[REFUSED]), slot("b", "FATAL", cause=GAVE_UP, tail=[REFUSED])]
        )
        assert life.until(10) == [(2, "firing", "a")]
        assert problems(life.sent[0]) == ["fatal a", "fatal b"]

    def test_the_same_words_of_their_own_are_not(self):
        life = Life()
        life.rows = rows(
            [slot("a", "FATAL", cause=GAVE_UP, tail=["bye"]), slot("b", "FATAL", cause=GAVE_UP, tail=["bye"])]
        )
        assert life.until(10) == [(2, "firing", "a"), (2, "firing", "b")]

    def test_an_incident_that_falls_apart_is_not_sent_again(self):
        life = Life(needs=self.NEEDS)
        whole = [slot("web", "FATAL", cause=GAVE_UP), slot("jobs", "FATAL", cause=GAVE_UP)]
        life.rows = rows([*whole, slot("db", "FATAL", cause=GAVE_UP)])
        assert life.until(10) == [(2, "firing", "db")]
        life.rows = rows([*whole, slot("db")])
        assert life.until(600) == []
        life.rows = rows([slot("web"), slot("jobs"), slot("db")])
        assert [each[1] for each in life.until(60)] == ["recovered"]

    def test_many_at_once_are_one_message_and_are_over_together(self):
        life = Life(repeat=600.0)
        names = [f"u{number}" for number in range(30)]
        life.rows = rows([slot(name, "FATAL", cause=GAVE_UP, tail=[name]) for name in names])
        assert life.until(10) == [(2, "firing", "u0")]
        assert len(life.sent[0].problems) + life.sent[0].more == 30
        assert [each[1] for each in life.until(600)] == ["repeat"]
        life.rows = rows([slot(name) for name in names[1:]] + [slot("u0", "FATAL", cause=GAVE_UP)])
        assert life.until(60) == []
        life.rows = rows([slot(name) for name in names])
        assert [each[1] for each in life.until(60)] == ["recovered"]
        assert {notice.incident for notice in life.sent} == {life.sent[0].id}

    def test_a_few_at_once_have_their_own(self):
        life = Life()
        life.rows = rows([slot(f"u{number}", "FATAL", cause=GAVE_UP) for number in range(rules.SEVERAL)])
        assert [each[1] for each in life.until(10)] == ["firing"] * rules.SEVERAL

    def test_a_circle_of_needs_ends(self):
        life = Life(needs={"a": ["b"], "b": ["a"]})
        life.rows = rows([slot("a", "FATAL", cause=GAVE_UP), slot("b", "FATAL", cause=GAVE_UP)])
        assert life.until(10) != []


class TestKeys:
    def test_for_delays(self):
        life = Life(for_=120.0)
        life.rows = rows([FATAL])
        assert life.until(119) == []
        life.rows = rows([RUNNING])
        assert life.until(600) == []  # over before that
        life.rows = rows([FATAL])
        assert life.until(600) == [(839, "firing", "web")]

    def test_repeat_reminds_while_it_lasts(self):
        life = Life(repeat=3600.0)
        life.rows = rows([FATAL])
        assert [at for at, kind, _ in life.until(4 * 3600) if kind == "repeat"] == [3602, 7202, 10802]

    def test_events_and_units_select(self):
        life = Life(
            Alert(name="a", url="u", events=("fatal",)),
            Alert(name="b", url="u", units=("w*",)),
            Alert(name="c", url="u", units=("db",)),
            Alert(name="d", url="u", events=("unhealthy", "recovered")),
            Alert(name="e", heartbeat="u"),
        )
        life.rows = rows([FATAL])
        life.until(10)
        life.rows = rows([RUNNING])
        life.until(60)
        assert [(notice.alert, notice.kind) for notice in life.sent] == [
            ("a", "firing"),
            ("b", "firing"),
            ("b", "recovered"),
        ]

    def test_what_is_not_selected_makes_nothing_worse(self):
        life = Life(events=("restarts", "recovered"))
        for _ in range(3):
            life.exit()
        assert [each[1:] for each in life.until(10)] == [("firing", "web")]
        life.rows = rows([RUNNING], [check("web")])
        assert life.until(60) == []

    def test_what_needs_a_selected_unit_selects_the_cause(self):
        life = Life(units=("web",), needs={"web": ["db"]})
        life.rows = rows([FATAL, slot("db", "FATAL", cause=GAVE_UP)])
        assert life.until(10) == [(2, "firing", "db")]

    @pytest.mark.parametrize("name", ["", "web", "w*", "ops"])
    def test_a_silence_delays_what_lasts_longer(self, name):
        life = Life(repeat=600.0)
        life.rows = rows([FATAL], silences=[{"id": "1", "name": name, "until": T0 + 3600}])
        assert life.until(3599) == []
        assert life.until(10) == [(3600, "firing", "web")]

    def test_a_silence_of_another_does_not(self):
        life = Life()
        life.rows = rows([FATAL], silences=[{"id": "1", "name": "db", "until": T0 + 3600}])
        assert life.until(10) == [(2, "firing", "web")]

    def test_a_silence_keeps_repetitions_back_and_not_the_recovery(self):
        life = Life(repeat=60.0)
        life.rows = rows([FATAL])
        life.until(10)
        life.rows = rows([FATAL], silences=[{"id": "1", "name": "", "until": T0 + 3600}])
        assert life.until(1000) == []
        life.rows = rows([RUNNING], silences=[{"id": "1", "name": "", "until": T0 + 3600}])
        assert [kind for _, kind, _ in life.until(1000)] == ["recovered"]

    def test_what_flaps_is_said_to_and_then_left_alone_until_it_is_well(self):
        life = Life()
        found = []
        for _ in range(10):
            life.rows = rows([FATAL])
            found += [kind for _, kind, _ in life.until(30)]
            life.rows = rows([RUNNING])
            found += [kind for _, kind, _ in life.until(30)]
        assert found == ["firing", "recovered", "firing", "recovered", "flapping"]
        assert [kind for _, kind, _ in life.until(3600)] == ["recovered"]
        life.rows = rows([FATAL])
        assert [kind for _, kind, _ in life.until(60)] == ["firing"]

    def test_an_alert_that_is_no_more_is_forgotten(self):
        life = Life()
        life.rows = rows([FATAL])
        life.until(10)
        life.settings.alerts.clear()
        assert life.until(10) == []
        assert (life.state.cases, life.state.fired) == ({}, {})

    def test_its_own_troubles_are_problems(self):
        life = Life()
        own = [Problem("disk", "/x", because("not_kept", path="/x", cause=because("os_error", errno=28, detail="")))]
        life.look(own=own)
        life.now += rules.GATHER
        assert life.look(own=own) == [("firing", "/x")]


def test_what_a_newer_version_remembers_more_is_passed_over():
    life = Life()
    life.rows = rows([FATAL])
    life.until(10)
    data = life.state.data()
    newer = {**data, "new": 1, "cases": {"ops": {"web": {**data["cases"]["ops"]["web"], "new": 2}}}}
    assert rules.State.of(newer) == life.state
    assert rules.Notice.of({**life.sent[0].data(), "new": 3}) == life.sent[0]


STATES = st.sampled_from(["RUNNING", "FATAL", "STARTING", "STOPPED", "unhealthy", "exit", "wait"])


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "db"]), STATES, st.floats(0.1, 2000.0)), max_size=30))
def test_whatever_happens_each_incident_is_opened_once_and_ends(steps):
    """And ids are never given twice, one second sends nothing again, and when all is well nothing is left."""
    life = Life(repeat=600.0, needs={"a": ["db"], "b": ["db"]})
    units = {name: slot(name) for name in ("a", "b", "db")}
    sick = set()
    for name, what, wait in steps:
        if what == "exit":
            life.exit(name)
        elif what == "unhealthy":
            sick ^= {name}
        elif what != "wait":
            units[name] = slot(
                name, what, "down" if what == "STOPPED" else "up", GAVE_UP if what == "FATAL" else because("start")
            )
        life.rows = rows(units.values(), [check(each) for each in sorted(sick)])
        life.until(wait)
        assert life.look() == []
    life.rows = rows([slot(name) for name in units])
    life.until(3 * 3600.0)
    assert life.state.cases == {"ops": {}}
    assert life.due is None
    ids = [notice.id for notice in life.sent]
    assert len(set(ids)) == len(ids)
    opened = [notice.incident for notice in life.sent if notice.kind in {"firing", "flapping"}]
    assert len(set(opened)) == len(opened)
    assert {notice.incident for notice in life.sent} == set(opened)
    over = [notice for notice in life.sent if notice.kind == "recovered"]
    assert {each for notice in over for each in (notice.incident, *notice.merged)} == set(opened)
