"""Rows and records as `watch` sends them, and a life of the rules with a clock of its own."""

from __future__ import annotations

import json

from impetusd.core import stream
from impetusd.core.explain import happened
from impetusd.core.reasons import NONE, because
from impetusd.observer import rules
from impetusd.observer.settings import Alert, Settings

T0 = 1_800_000_000.0
GAVE_UP = because("gave_up", end=because("exit", code=1), restarts=3, window_s=60.0)


def slot(name, state="RUNNING", want="up", cause=NONE, **more):
    return {
        "name": name,
        "unit": name.partition(":")[0],
        "state": state,
        "want": want,
        "reason": str(cause),
        "cause": cause.data(),
        "held": None,
        "tail": [],
        "last_exit": None,
        **more,
    }


def check(target, state="unhealthy", cause=None):
    cause = cause or because("bad_answer", question="GET /health", answer="503", at="127.0.0.1:80", errno=0)
    return {"name": "up", "target": target, "state": state, "reason": str(cause), "cause": cause.data()}


def timer(name, *runs, state="waiting"):
    return {"name": name, "state": state, "runs": list(runs)}


def run(ok, key="exit", at="2027-01-15T08:00:00+00:00", **facts):
    cause = because(key, **(facts or ({"code": 0 if ok else 1} if key == "exit" else {})))
    skipped = key.startswith("skipped")
    return {"ok": ok, "result": str(cause), "cause": cause.data(), "at": at, "duration_s": 1.0, "skipped": skipped}


def rows(units=(), checks=(), timers=(), notices=(), silences=(), held=None):
    shown = [{**notice.shown(), "own": True} for notice in notices]
    return {
        stream.UNIT: {each["name"]: each for each in units},
        stream.CHECK: {f"{each['name']} {each['target']}": each for each in checks},
        stream.TIMER: {each["name"]: each for each in timers},
        stream.DAEMON: {"": {"notices": shown, "held": held, "alerts": {"silences": list(silences)}}},
    }


class Life:
    """The rules from T0 on; what they remember goes through JSON before each look, as over a restart of the observer."""

    def __init__(self, *alerts, needs=None, **keys):
        made = alerts or (Alert(name="ops", url="https://example.com", **keys),)
        self.settings = Settings(folder="/", host="h", needs=needs or {}, alerts={alert.name: alert for alert in made})
        self.state = rules.State(salt="s")
        self.now = T0
        self.rows = rows()
        self.sent = []
        self.due = None
        self.n = 0

    def record(self, kind, **fields):
        self.n += 1
        record = {"n": self.n, "at": self.now, "kind": kind, **fields}
        assert happened.take(self.state, record)
        assert not happened.take(self.state, record)

    def exit(self, unit="web", code=1, **fields):
        record = {"asked": False, "decision": "again", "state": "BACKOFF", **fields}
        self.record("exit", unit=unit, slot=unit, pid=1, code=code, **record)

    def look(self, *, own=()):
        """The kinds of the notices that are due now, each with its alert and root."""
        self.state = rules.State.of(json.loads(json.dumps(self.state.data())))
        made, self.due = rules.step(self.settings, self.state, self.rows, self.now, own=own)
        assert self.due is None or self.due > self.now
        for notice in made:
            assert rules.Notice.of(json.loads(json.dumps(notice.data()))) == notice
        self.sent += made
        return [(notice.kind, notice.root) for notice in made]

    def until(self, seconds):
        """All that is due within so many seconds, looked at whenever the rules ask for it: (seconds from T0, kind, root)."""
        end, found = self.now + seconds, []
        while True:
            found += [(round(self.now - T0), *each) for each in self.look()]
            if self.due is None or self.due > end:
                self.now = end
                return found
            self.now = self.due
