"""The ledger's format: every kind is known, stands in one line, and is found by the names that it is about."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from impetusd.core.explain import ledger, news

ROOT = Path(__file__).parents[2]
SLOT = {"unit": "web", "slot": "web:0"}
WHO = {"uid": 0, "gid": 0, "user": "root", "login": "alice", "tty": "pts/3", "comm": "impetusd", "role": "admin"}
COMMAND = {"method": "restart", "names": ["web"], "params": {"rolling": True}, "outcome": "done", "error": "", **WHO}
DECIDED = {"decision": "gave up (max_restarts = 16 within restart_window = 1 min)", "state": "FATAL"}
SAID = [
    ({"kind": "start", **SLOT, "pid": 7, "why": ""}, "started, pid 7"),
    ({"kind": "start", **SLOT, "pid": 7, "why": "exit 1"}, "started, pid 7: exit 1"),
    ({"kind": "ready", **SLOT, "pid": 7, "after_s": 0.25}, "ready after 250 ms"),
    (
        {"kind": "exit", **SLOT, "pid": 7, "ran_s": 12.0, "code": 1, "cpu_s": 0.5, "max_rss": 48 << 20, **DECIDED},
        f"exit 1 after 12 s; {DECIDED['decision']}",
    ),
    (
        {"kind": "exit", **SLOT, "pid": 7, "ran_s": 3.0, "signal": "SIGSEGV", "core": True, "decision": ""},
        "killed by SIGSEGV (core dumped) after 3 s",
    ),
    (
        {"kind": "exit", **SLOT, "pid": None, "ran_s": None, "stage": "executing x", "error": "no\nsuch", "decision": "y"},
        "executing x failed: no such; y",
    ),
    ({"kind": "gone", **SLOT, "decision": "z"}, "its leftover processes have ended; z"),
    ({"kind": "stderr", **SLOT, "lines": ["a", " b ", ""]}, "last output: b (and 1 line before)"),
    ({"kind": "rule", **SLOT, "pid": 7, "rule": "max_age", "reason": "older"}, "rule max_age: older"),
    (
        {"kind": "reload", "unit": "web", "what": "rolled back", "generation": 2, "reason": "x: exit 3", "took_s": 1.5},
        "reload to generation 2 rolled back after 1.5 s: x: exit 3",
    ),
    (
        {"kind": "command", **COMMAND, "method": "reload", "params": {"canaries": 1, "watch": 60.0, "cancel": False}},
        "impetusd reload --canary 1 --watch 60s web, by root (alice had logged in) on pts/3: done",
    ),
    (
        {"kind": "health", **SLOT, "check": "web", "state": "unhealthy", "failures": 3, "reason": "GET /: 500"},
        "health check web: unhealthy: GET /: 500",
    ),
    (
        {"kind": "timer", "unit": "job", "ok": False, "duration_s": 2.0, "reason": "exit 1", "why": "retry", "attempt": 2},
        "failed after 2 s: exit 1 (retry, attempt 2)",
    ),
    (
        {"kind": "config", "what": "applied", "changes": [{"name": "web", "effect": "reload"}], "ok": True},
        "the configuration was applied: web reload",
    ),
    (
        {"kind": "config", "what": "refused", "changes": [], "reason": "1 problem", "problems": ["/x.ini:3: what?"]},
        "the configuration was refused: /x.ini:3: what?",
    ),
    (
        {"kind": "command", **COMMAND},
        "impetusd restart --rolling web, by root (alice had logged in) on pts/3: done",
    ),
    (
        {"kind": "daemon", "what": "stopping", "pid": 8, "shim": 7, "version": "1", "why": "impetusd stop"},
        "impetusd stopping (supervisor 8, shim 7): impetusd stop",
    ),
    ({"kind": "hold", "unit": "web", "slot": "web:0", "what": "quarantined", "reason": "exit 70"}, "quarantined: exit 70"),
    ({"kind": "hold", "what": "released"}, "released"),
    ({"kind": "lost", "records": 3}, "3 records were lost, because the disk could not be written"),
    ({"kind": "lost", "records": 1}, "1 record was lost, because the disk could not be written"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "said"), SAID)
def test_each_kind_stands_in_one_line(record, said):
    assert ledger.sentence(record) == said
    assert record.keys() - {"kind"} <= ledger.KINDS[record["kind"]].keys()


def test_each_kind_is_tried():
    assert {record["kind"] for record, _ in SAID} == set(ledger.KINDS)


def test_a_kind_of_a_later_version_is_shown_as_it_is():
    assert ledger.sentence({"n": 1, "at": 0, "kind": "moon", "phase": 3}) == 'moon {"phase": 3}'


def written(path):
    """The kinds that a module gives to the ledger: `add("x", …)`, `record("x", …)`, `record(entry, "x", …)`, {"kind": "x"}."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (
                v.value
                for k, v in pairs
                if isinstance(k, ast.Constant) and k.value == "kind" and isinstance(v, ast.Constant)
            )
        elif (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"add", "_record"}
        ):
            ours = node.func.attr == "_record" or "ledger" in ast.unparse(node.func)
            words = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            yield from words[:1] if ours or ast.unparse(node.func) == "self.add" else ()


def test_every_kind_that_is_written_is_known():
    modules = [*(ROOT / "impetusd" / "supervisor").rglob("*.py"), Path(news.__file__)]
    assert {kind for path in modules for kind in written(path)} == set(ledger.KINDS)


@pytest.mark.parametrize("line", [b"", b"{", b'{"n": 1', b"[]", b"3", b'{"n": 1, "at": 2.0}', b"\xff"])
def test_what_is_no_record_is_passed_over(line):
    assert ledger.parse(line) is None


def test_a_record_is_read():
    record = {"n": 1, "at": 2.0, "kind": "moon"}
    assert ledger.parse(json.dumps(record).encode()) == record


@pytest.mark.parametrize(
    ("record", "named", "others"),
    [
        ({"kind": "start", **SLOT}, ["web", "web:0", "w*", "web:*"], ["web:1", "we"]),
        ({"kind": "health", "check": "probe", **SLOT}, ["probe", "web", "web:0"], ["x"]),
        ({"kind": "command", "names": ["web:1"]}, ["web", "web:1"], ["web:0"]),
        ({"kind": "config", "changes": [{"name": "api"}]}, ["api"], ["web"]),
        ({"kind": "daemon", "what": "began"}, [], ["web"]),
    ],
)
def test_whom_a_record_is_about(record, named, others):
    assert ledger.about([])(record)
    assert all(ledger.about([name])(record) for name in named)
    assert not any(ledger.about([name])(record) for name in others)
