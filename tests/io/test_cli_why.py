"""`why`: from the daemon's answers or the ledger's files to a page that fits the screen, and to JSON."""

from __future__ import annotations

import json
import os
import time

import pytest
from fake_supervisor import FakeSupervisor, failed_row, row

from impetusd.core.reasons import because
from impetusd.files import ledgerfile

NAMES = {"web": "web:0"}


@pytest.fixture
def records():
    """A worker that ended with a long sentence, and words that would move the cursor."""
    at = time.time() - 30
    slot = {"unit": "web", "slot": "web:0"}
    decided = {
        "asked": False,
        "state": "BACKOFF",
        "decision": "restarting in 1 min (restart_delay)",
        "retry_s": 60.0,
    }
    return [
        {"n": 1, "at": at, "kind": "start", **slot, "pid": 7, "why": ""},
        {"n": 2, "at": at + 1, "kind": "exit", **slot, "pid": 7, "ran_s": 1.0, "code": 1, **decided},
        {"n": 3, "at": at + 2, "kind": "stderr", **slot, "pid": 7, "lines": ["\x1b[2Jboom: " + "very " * 30 + "long"]},
    ]


def daemon(paths, records, *rows, groups=None):
    status = {
        "version": "1",
        "shim": {"pid": 1},
        "supervisor": {"pid": 2},
        "units": list(rows),
        "groups": groups or {},
        "attention": [],
        "troubles": [],
    }
    events = {"records": records, "last": len(records), "more": False}
    return FakeSupervisor(paths, status=status, health={"checks": []}, timers={"timers": []}, events=events)


def test_a_page_fits_80_columns_and_obeys_nothing(paths, cli, records):
    with daemon(paths, records, failed_row("web:0")):
        code, out, err = cli("why", "web")
    assert (code, err) == (0, "")
    assert out.startswith("web:0 is BACKOFF (waiting to restart) since ")
    assert "\n  rule   " in out
    assert "\x1b" not in out
    head, words = out.split("Last lines on stderr")
    assert max(map(len, head.splitlines())) <= 80
    assert "    boom: very very" in words
    assert f"impetusd -c {paths.conf} logs web" in words


def test_it_says_so_where_no_daemon_runs(paths, cli, records):
    os.makedirs(paths.state_dir)
    with open(f"{paths.state_dir}/{ledgerfile.NAME}", "w", encoding="ascii") as file:
        file.writelines(json.dumps(each) + "\n" for each in records)
    code, out, err = cli("why", "web")
    assert (code, err) == (0, "")
    assert out.startswith("impetusd is not running")
    assert "web:0 was BACKOFF when impetusd last ran" in out


def test_of_a_group(paths, cli, records):
    with daemon(paths, records, failed_row("web:0"), row("db"), row("other"), groups={"shop": ["web", "db"]}):
        code, out, err = cli("why", "shop")
    assert (code, err) == (0, "")
    assert "web:0 is BACKOFF" in out
    assert "db has been RUNNING" in out
    assert "other" not in out


def test_json_has_the_same(paths, cli, records):
    with daemon(paths, records, failed_row("web:0")):
        answer = json.loads(cli("why", "--json", "web")[1])
    assert answer["running"] is True
    (finding,) = answer["findings"]
    assert (finding["name"], finding["ok"]) == ("web", False)
    assert {each["what"] for each in finding["facts"]} == {"cause", "rule", "next"}
    assert finding["stderr"] == records[2]["lines"]


def test_of_several_each_is_short_and_says_where_there_is_more(paths, cli, records):
    with daemon(paths, records, failed_row("web:0"), failed_row("db")):
        out = cli("why")[1]
    assert out.count("→" if "→" in out else "->") == 2
    assert "Last lines" not in out
    assert f"impetusd -c {paths.conf} why db" in out


def test_if_all_is_well_what_happened_lately_is_told(paths, cli, records):
    with daemon(paths, records, row("web:0"), row("db")):
        out = cli("why")[1]
    assert out.startswith("all 2 up\n")
    assert f"web:0: {because('exit', code=1)} after 1 s" in out
    with daemon(paths, [], row("web:0")):
        assert "Nothing unplanned has happened" in cli("why")[1]


def test_an_unknown_name(paths, cli, records):
    with daemon(paths, records, row("web:0")):
        assert cli("why", "wbe") == (4, "", "impetusd: no unit 'wbe'; did you mean web?\n")
