"""`events`: as a person reads it and as a program does, with a daemon and without one, page after page."""

from __future__ import annotations

import json
import os
import time

import pytest
from fake_supervisor import FakeSupervisor

from impetusd.cli import events, past
from impetusd.cli.screen.terminal import Screen
from impetusd.core.reasons import because
from impetusd.files import ledgerfile

STARTED = {"n": 1, "at": 1764108251.0, "kind": "start", "unit": "web", "slot": "web:0", "pid": 7, "why": ""}
ENDED = {
    "n": 2,
    "at": 1764108254.0,
    "kind": "exit",
    "unit": "web",
    "slot": "web:0",
    "pid": 7,
    "ran_s": 3.0,
    "code": 1,
    "decision": "gave up (max_restarts = 16 within restart_window = 1 min)",
    "state": "FATAL",
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def stopped(paths):
    """An instance that has run."""
    os.makedirs(paths.state_dir)
    with open(f"{paths.state_dir}/{ledgerfile.NAME}", "w", encoding="ascii") as file:
        file.writelines(json.dumps(each) + "\n" for each in (STARTED, ENDED))
    return paths


@pytest.mark.usefixtures("stopped")
class TestWithoutADaemon:
    def test_the_files_are_read(self, cli):
        code, out, err = cli("events")
        assert (code, err) == (0, "")
        started, ended = out.splitlines()
        assert started == "2025-11-25 22:04:11  web:0         started, pid 7"
        assert ended.startswith(f"2025-11-25 22:04:14  web:0         {because('exit', code=1)} after 3 s; ")

    def test_json_is_a_record_a_line(self, cli):
        assert [json.loads(each) for each in cli("events", "--json", "web")[1].splitlines()] == [STARTED, ENDED]

    def test_fewer_are_the_last_ones(self, cli):
        assert f"{because('exit', code=1)} after" in cli("events", "-n", "1")[1]
        assert "started" not in cli("events", "-n", "1")[1]

    def test_since(self, cli):
        assert len(cli("events", "--since", "2025-11-25 22:04:12")[1].splitlines()) == 1
        assert cli("events", "--since", "2026-01-01") == (0, "", "no records since then\n")
        assert "is not a time" in cli("events", "--since", "soon")[2]

    def test_of_what_there_is_and_has_done_nothing(self, cli):
        assert cli("events", "db") == (0, "", "no records of db\n")

    def test_of_a_group(self, cli, paths):
        with open(paths.conf, "a", encoding="utf-8") as file:
            file.write("[group:shop]\nmembers = db, web\n[group:rest]\nmembers = db\n")
        assert len(cli("events", "shop")[1].splitlines()) == 2
        assert len(cli("events", "sh*")[1].splitlines()) == 2
        assert cli("events", "rest") == (0, "", "no records of rest\n")

    def test_of_what_there_is_not(self, cli):
        assert cli("events", "dbb") == (4, "", "impetusd: no unit 'dbb'; did you mean db?\n")


def test_a_file_that_may_not_be_read_is_told(cli, paths):
    os.makedirs(f"{paths.state_dir}/{ledgerfile.NAME}")
    assert cli("events") == (
        1,
        "",
        f"impetusd: cannot read the ledger {paths.state_dir}/{ledgerfile.NAME}: Is a directory\n",
    )


def test_a_daemon_is_asked_page_by_page(cli, paths):
    def answer(params, _):
        first = params["after"] == 0
        return {"records": [STARTED] if first else [ENDED], "last": 1 if first else 2, "more": first}

    with FakeSupervisor(paths, events=answer, status={"groups": {}}) as fake:
        code, out, _ = cli("events", "--json", "--since", "2025-11-25", "web")
    assert (code, len(out.splitlines())) == (0, 2)
    pages = [params for method, params in fake.asked if method == "events"]
    assert [params["after"] for params in pages] == [0, 1]
    assert not any(params["wait"] for params in pages)


def test_following_goes_on_where_the_daemon_has_ended(paths, stopped, monkeypatch):
    """From its socket to its files, without a gap or a repetition, and back."""
    monkeypatch.setattr(past, "AGAIN", 0.0)
    asked = []

    def answer(params, _):
        asked.append((params["after"], params["wait"]))
        return {"records": [STARTED], "last": 1, "more": False} if not params["after"] else {**later, "last": 3}

    later = {"records": [{**ENDED, "n": 3}], "more": False}
    pages = past.records(paths, ledgerfile.Query(last=20), follow=True)
    with FakeSupervisor(paths, events=answer):
        assert next(pages) == [STARTED]
    assert next(pages) == [ENDED]
    assert next(pages) == []
    with FakeSupervisor(paths, events=answer):
        assert next(pages) == [{**ENDED, "n": 3}]
    assert asked == [(0, False), (2, True)]


def test_on_a_terminal_a_long_line_goes_on_below_its_beginning():
    lines = events.line(ENDED, Screen(width=60)).splitlines()
    assert max(map(len, lines)) <= 60
    assert [each[:21] for each in lines] == ["2025-11-25 22:04:14  ", *[" " * 21] * (len(lines) - 1)]


def test_what_a_program_wrote_is_shown_and_not_obeyed():
    words = {**STARTED, "kind": "stderr", "lines": ["\x1b[2Jboom\x07"]}
    assert events.line(words, Screen()).endswith("last output: boom")
