"""How an alert reads, and that nothing in it is obeyed by whoever shows it."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from impetusd.core.explain import causes
from impetusd.core.explain.incidents import Problem
from impetusd.core.reasons import because
from impetusd.observer.rules import Notice
from impetusd.observer.settings import Settings, read
from impetusd.observer.text import clean, message

T0 = 1_800_000_000.0
GAVE_UP = because("gave_up", end=because("exit", code=1), restarts=3, window_s=60.0)
SETTINGS = Settings(folder="/", host="box", command="impetusd -c /etc/x.ini", link="https://ops.example.com/")
WEB = Problem(
    "fatal", "web", GAVE_UP, T0, ("web:0",), ("Traceback", "  x", "ModuleNotFoundError: No module named 'nope'")
)


def notice(kind="firing", *problems, **more):
    known = {"root": "web", "since": T0, "error": True, "problems": problems or (WEB,), **more}
    return Notice(id="s-1", incident="s-1", alert="ops", kind=kind, at=T0 + 90, **known)


def text(*args, **more):
    return message(notice(*args, **more), SETTINGS, dt.UTC).text


def test_an_alert_has_what_where_since_why_and_what_to_type():
    lines = text(waiting=("jobs",), states=("web:0 FATAL",)).splitlines()
    cause = f"web is FATAL: {GAVE_UP}: ModuleNotFoundError: No module named 'nope'"
    assert lines == [
        f"[box] {cause} (and 1 more)",
        "",
        "host   box",
        "since  2027-01-15 08:00:00 UTC (1 min 30 s)",
        f"cause  {cause}",
        f"hint   {causes.advice(WEB.lines).hint}",
        "waits  jobs",
        "slots  web:0 FATAL",
        "",
        "Last lines on stderr:",
        "    Traceback",
        "      x",
        "    ModuleNotFoundError: No module named 'nope'",
        "",
        "→ impetusd -c /etc/x.ini why web",
        "https://ops.example.com/",
        "",
        "id s-1",
    ]


@pytest.mark.parametrize(
    ("kind", "begins"),
    [
        ("recovered", "[box] recovered: web, after 1 min 30 s"),
        ("repeat", "[box] still: web is FATAL"),
        ("worse", "[box] worse: web is FATAL"),
        ("flapping", "[box] repeatedly: web is FATAL"),
    ],
)
def test_the_kind_is_in_the_title(kind, begins):
    assert message(notice(kind), SETTINGS).title.startswith(begins)


@pytest.mark.parametrize("event", ["fatal", "unhealthy", "timer", "deploy", "daemon", "disk", "memory", "restarts"])
@pytest.mark.parametrize("name", ["web", "impetusd"])
def test_every_event_reads(event, name):
    shown = message(notice("firing", Problem(event, name, because("cancelled"), T0), root=name), SETTINGS)
    assert "cancelled" in shown.title
    assert name in shown.title or event in {"deploy", "disk", "daemon"}


def test_a_test_says_that_nothing_is_wrong():
    shown = message(Notice(id="t", incident="t", alert="ops", kind="test", at=T0, by="ann"), SETTINGS)
    assert shown.title == "[box] test of alert ops, requested by ann"
    assert "nothing is wrong" in shown.text


def test_the_root_is_named_although_nothing_is_wrong_with_it():
    assert message(notice(root="db", state="STOPPED"), SETTINGS).title.startswith("[box] db is STOPPED; web is FATAL")


@pytest.mark.parametrize(
    "nasty",
    [
        "a\x1b[2Jb",
        "a\x1b]0;title\x07b",
        "a\x9b31mb",
        "a\r\nBcc: x@y\r\nb",
        "a\nid s-9\nb",
        "a\u202eb\u2066",
        "a\x00b\x7f",
    ],
)
def test_what_a_program_wrote_is_shown_and_not_obeyed(nasty):
    problem = Problem("fatal", "web", because("text", text=nasty), T0, ("web",), (nasty, nasty))
    shown = message(notice("firing", problem), SETTINGS)
    assert "\n" not in shown.title
    for char in "\x1b\x9b\r\x00\x7f\u202e\u2066\x07":
        assert char not in shown.text + shown.title
        assert json.dumps(char)[1:-1] not in json.dumps(shown.data["problems"])
    assert shown.text.splitlines().count("id s-9") == 0
    assert clean(nasty).startswith("a")


def test_the_data_is_for_programs():
    data = message(notice(), SETTINGS).data
    assert {"id", "incident", "alert", "kind", "at", "host", "root", "since", "severity", "problems", "text"} <= set(
        data
    )
    assert data["problems"][0]["cause"]["key"] == "gave_up"
    assert (data["severity"], data["command"]) == ("error", "impetusd -c /etc/x.ini why web")


def test_settings_are_read_and_what_is_not_known_is_passed_over():
    found = read(
        '{"folder": "/f", "conf": "/etc/a b.ini", "url": "http://x/", "needs": {"web": ["db"]}, "new": 1,'
        ' "alerts": {"a": {"type": "json", "url": "http://h/", "for": 5.0, "repeat": 0, "from": "a@b", "events": [], "later": 1}}}'
    )
    alert = found.alerts["a"]
    assert (found.folder, found.command, found.needs) == ("/f", "impetusd -c '/etc/a b.ini'", {"web": ("db",)})
    assert (alert.for_, alert.repeat, alert.from_, alert.sends) == (5.0, 0.0, "a@b", True)
    assert "fatal" in alert.events
    with pytest.raises(KeyError):
        read("{}")
