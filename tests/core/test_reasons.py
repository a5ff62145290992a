"""Reasons are data: keys of a closed list, the facts that it names, JSON both ways, and nobody looks at sentences."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

import pytest

from impetusd.core import reasons, redact
from impetusd.core.reasons import KEYS, NONE, REASONS, STAGES, Reason, alike, because, not_started, read, said

ROOT = Path(__file__).parents[2] / "impetusd"
END = because("exit", code=1)
DEEP = because(
    "gave_up", end=not_started("exec", because("os_error", errno=2, detail=""), "/x"), restarts=3, window_s=60.0
)


@functools.cache
def all_calls():
    """(file:line, the call) of each call in all of our code but the shim's."""
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent.name != "shim"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def calls(name):
    """Of a function of this name; the shim has its own of that name."""
    return [found for found in all_calls() if getattr(found[1].func, "id", getattr(found[1].func, "attr", "")) == name]


def test_every_reason_that_is_made_has_a_key_and_the_facts_that_belong_to_it():
    found = calls("because")
    assert len(found) > 80
    for where, call in found:
        keys = [call.args[0].value] if isinstance(call.args[0], ast.Constant) else []
        given = [keyword.arg for keyword in call.keywords]
        for key in keys:
            assert key in KEYS, where
            assert None in given or set(given) == set(KEYS[key].facts), where


def test_every_stage_of_a_start_is_known():
    stages = {
        call.args[0].value
        for name in ("CannotStart", "not_started")
        for _, call in calls(name)
        if isinstance(call.args[0], ast.Constant)
    }
    assert stages <= STAGES.keys()
    paths = [ROOT / "shim" / "spawn.py", *(ROOT / "shim").glob("*.py")]
    shim = [ast.parse(path.read_text(encoding="utf-8")) for path in paths]
    found = {
        node.args[position].value
        for tree in shim
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        for position in [{"fail_start": 1, "failed": 0}.get(node.func.attr)]
        if position is not None and isinstance(node.args[position], ast.Constant)
    }
    found |= {
        node.elts[0].value
        for node in ast.walk(shim[0])
        if isinstance(node, ast.Tuple) and len(node.elts) == 3 and isinstance(node.elts[2], (ast.Lambda, ast.Attribute))
        if isinstance(node.elts[0], ast.Constant)
    }
    assert {"exec", "cwd", "uid", "fork", "process"} <= found <= STAGES.keys()


@pytest.mark.parametrize("reason", [NONE, END, DEEP, said("x"), because("left_by_code", codes=["3", "4"])])
def test_a_reason_is_the_same_after_json(reason):
    assert read(json.loads(json.dumps(reason.data()))) == reason
    assert reason.shown() == {**reason.data(), "text": str(reason)}


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        [],
        "exit 1",
        {"key": "of a newer version", "facts": {}},
        {"key": "exit", "facts": {}},
        {"key": "exit", "facts": {"code": {"key": "exit", "facts": {"code": 1}}}},
        {"key": "gave_up", "facts": {"end": "exit 1", "restarts": 3, "window_s": 60.0}},
        {"key": ["exit"], "facts": {}},
        {"key": "start_failed", "facts": {"stage": ["exec"], "what": "", "cause": {"key": "", "facts": {}}}},
        {"key": "exit", "facts": 7},
    ],
)
def test_what_makes_no_sense_here_is_the_sentence_that_stands_beside_it(data):
    assert read(data, "what it said") == said("what it said")
    assert read(data) == NONE


def test_a_tower_of_reasons_is_not_climbed():
    data = END.data()
    for _ in range(5000):
        data = {"key": "left_behind", "facts": {"end": data}}
    assert read(data, "too deep").key == "text"


def test_a_fact_that_a_newer_version_adds_is_kept():
    data = {"key": "exit", "facts": {"code": 1, "mood": "blue"}}
    assert read(data).facts["mood"] == "blue"


def test_facts_of_another_kind_are_shown_all_the_same():
    assert str(Reason("watchdog", {"within_s": "x"}))
    assert str(Reason("max_memory_kill", {"used": "x", "limit": None, "hold_s": [], "basis": 7}))
    assert str(Reason("of a newer version", {}))


def test_reasons_that_differ_in_numbers_alone_are_alike():
    assert alike(because("exit", code=1)) == alike(because("exit", code=2))
    assert alike(because("waits_for", name="a", state="", cause=NONE)) != alike(
        because("waits_for", name="b", state="", cause=NONE)
    )
    assert alike(because("left_behind", end=END)) != alike(because("left_behind", end=because("unknown_end")))


def test_secrets_are_hidden_in_the_facts_and_no_sentence_is_looked_at():
    shown = reasons.changed(not_started("increment_var", because("not_set", name="API_KEY"), "API_KEY"), redact.text)
    assert shown.facts["what"] == "API_KEY"
    told = because("bad_answer", question="GET postgres://u:hunter2@db/x", answer="500", at="/", errno=0)
    hidden = reasons.changed(because("unhealthy", cause=told), redact.text)
    assert "hunter2" not in repr(hidden)
    assert hidden.key == "unhealthy"


def test_it_cannot_be_changed():
    with pytest.raises(AttributeError):
        END.key = "other"  # type: ignore[misc]


def test_which_facts_are_reasons_is_said_by_their_names():
    made = {
        keyword.arg for _, call in calls("because") for keyword in call.keywords if isinstance(keyword.value, ast.Call)
    }
    assert REASONS & made
