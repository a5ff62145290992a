"""`silence` and `alert test`: what is asked, what is printed, and the exit code."""

from __future__ import annotations

import json
import time

import pytest
from fake_supervisor import FakeSupervisor

from impetusd.cli.silence import report
from impetusd.core.protocol import EXIT_UNKNOWN_NAME, FAILED, ProtocolError

MADE = {"id": "3", "name": "web", "until": time.time() + 3600, "why": "moved\x1b[2J", "by": "ann"}


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["web", "1h"], {"name": "web", "seconds": 3600.0, "why": ""}),
        (["30m"], {"name": "", "seconds": 1800.0, "why": ""}),
        (["web", "90s", "--why", "it is moved"], {"name": "web", "seconds": 90.0, "why": "it is moved"}),
    ],
)
def test_a_silence_is_asked_for(cli, paths, words, asked):
    with FakeSupervisor(paths, silence={"ok": True, "silence": MADE}) as supervisor:
        code, out, _ = cli("silence", *words)
    assert code == 0
    assert supervisor.asked == [("silence", asked)]
    assert out.startswith("silence 3: alerts about web for ")
    assert "\x1b" not in out


def test_silences_are_listed_and_ended(cli, paths):
    status = {"units": [], "attention": [], "alerts": {"silences": [MADE]}}
    with FakeSupervisor(paths, status=status, unsilence=lambda params, _: {"ok": True, "ended": params["id"] == "3"}):
        assert "by ann: moved" in cli("silence")[1]
        assert json.loads(cli("silence", "--json")[1]) == [MADE]
        assert cli("silence", "--end", "3")[:2] == (0, "silence 3 ended\n")
        assert cli("silence", "--end", "4")[0] == 1
    with FakeSupervisor(paths, status={"units": [], "attention": []}):
        assert cli("silence")[1] == "no alerts are silenced\n"


@pytest.mark.parametrize("words", [["a", "b", "c"], ["web", "soon"], ["--end", "1", "web"]])
def test_what_makes_no_sense_is_refused(cli, paths, words):
    code, out, err = cli("silence", *words)
    assert (code, out) == (2, "")
    assert "Error" in err


def test_one_line_each_with_what_is_left():
    lines = list(report([MADE, {**MADE, "id": "4", "name": "", "why": ""}], "impetusd", MADE["until"] - 61))
    assert lines == [
        "silence 3: alerts about web for 1 min 1 s, by ann: moved",
        "silence 4: all alerts for 1 min 1 s, by ann",
        "→ impetusd silence --end 3",
    ]


@pytest.mark.parametrize("ok", [True, False])
def test_a_test_prints_what_became_of_it(cli, paths, ok):
    with FakeSupervisor(paths, **{"alert-test": {"ok": ok, "name": "ops", "text": "said\x1b[31m"}}) as supervisor:
        assert cli("alert", "test", "ops")[:2] == (0 if ok else 1, "ops: said\n")
    assert supervisor.asked == [("alert-test", {"name": "ops"})]


def test_a_refusal_is_told(cli, paths):
    refused = ProtocolError(FAILED, "no unit, timer, group or alert 'x'", EXIT_UNKNOWN_NAME)
    with FakeSupervisor(paths, silence=refused):
        assert cli("silence", "x", "1h")[0] == EXIT_UNKNOWN_NAME


@pytest.mark.parametrize("words", [["silence"], ["silence", "1h"], ["silence", "--end", "1"], ["alert", "test", "x"]])
def test_without_a_daemon(cli, paths, words):
    assert cli(*words)[0] == 3
