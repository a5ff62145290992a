"""`impetusd monit` without a terminal: what is drawn of what is known, and what each key does."""

from __future__ import annotations

import random

import pytest
from fake_supervisor import failed_row, row

from impetusd.cli.monit import view as names
from impetusd.cli.monit.draw import STYLES, columns, draw
from impetusd.cli.monit.view import Action, View
from impetusd.core.reasons import NONE, because

SIZES = [(80, 24), (40, 8), (200, 60), (81, 25), (39, 24), (80, 7), (1, 1)]


def made(*rows, attention=()):
    view = View("/etc/impetusd/impetusd.ini")
    view.rows = {
        "unit": {each["name"]: {**each, "at": 100.0} for each in rows},
        "daemon": {"": {"attention": list(attention)}},
    }
    view.live()
    return view


def text(view, width=80, height=24, **how):
    picture = draw(view, width, height, 100.0, **how)
    view.placed(picture.total, picture.room, picture.top)
    return ["".join(part for part, _ in line) for line in picture.lines]


def styles(view, of):
    return {style for line in draw(view, 80, 24, 100.0).lines for part, style in line if of in part}


def press(view, *keys):
    found = [view.press(key) for key in keys]
    text(view)
    return found[-1]


HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31mred\x1b[0m\r\n\x07\x00é漢字🙂\udc80\u202e\xa0\u2028"


@pytest.mark.parametrize("utf8", [True, False])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("mode", [names.UNITS, names.LOGS, names.WHY, names.HELP])
def test_it_fits_and_is_inert_whatever_it_is_given(width, height, mode, utf8):
    rows = [row(f"web:{n}", reason=HOSTILE * 9) for n in range(50)]
    rows += [failed_row(f"漢字{n}", reason=HOSTILE * 9, tail=[HOSTILE] * 9) for n in range(5)]
    view = made(*rows, attention=[HOSTILE * 20])
    view.title = view.of = HOSTILE * 5
    view.say(HOSTILE * 9)
    view.mode = mode
    view.more([HOSTILE * 40, "x" * 999] * 30)
    lines = text(view, width, height, utf8=utf8)
    assert len(lines) <= height
    assert all(columns(line) <= width for line in lines)
    assert all(char.isprintable() for line in lines for char in line)
    assert utf8 or "".join(lines).isascii()
    for line in draw(view, width, height, 100.0).lines:
        assert {style for _, style in line} <= set(STYLES)
    if (width, height) == (80, 24):
        assert len(lines) == 24


def test_what_is_not_as_wanted_comes_first_and_says_why():
    view = made(
        row("db"),
        row("off", state="STOPPED", want="down", pid=None, uptime_s=None),
        failed_row("web:1"),
        row("api", state="STARTING", reason="waits for db"),
        failed_row("web:0"),
        row("cache", state="FATAL", reason="exit 3; given up"),
        attention=["the disk is full"],
    )
    lines = text(view)
    assert lines[0].split("  ")[0] == "/etc/impetusd/impetusd.ini"
    assert "4 of 6 not OK" in lines[0]
    assert lines[0].endswith("live")
    assert lines[1:5] == [
        "api is STARTING: waits for db",
        "cache is FATAL: exit 3; given up",
        "web:1 is BACKOFF: exit 1; retrying in 3.2 s (3 of 16) (and 1 more of web)",
        "the disk is full",
    ]
    table = [line.split()[:2] for line in lines[6:13]]
    assert table == [
        ["NAME", "STATE"],
        ["cache", "FATAL"],
        ["web:1", "BACKOFF"],
        ["web:0", "BACKOFF"],
        ["api", "STARTING"],
        ["db", "RUNNING"],
        ["off", "STOPPED"],
    ]
    assert lines[-1].startswith("/ filter")
    assert max(map(len, lines)) <= 80
    assert styles(view, "cache is FATAL") == {"red"}


def test_what_is_tried_again_keeps_its_place_while_it_starts():
    begins = row("begins", state="STARTING")
    for state in ("BACKOFF", "STARTING"):
        view = made(begins, row("crashes", state=state, restarts=3), row("fine"))
        assert [key for key, _ in view.units()] == ["crashes", "begins", "fine"]


def test_who_waits_for_it_stands_below_it():
    cause = because("waits_for", name="db", state="", cause=NONE)
    waits = {"state": "STARTING", "reason": str(cause), "cause": cause.data()}
    lines = text(made(row("web", **waits), row("api", **waits), failed_row("db", tail=[]), row("x")))
    assert lines[1:4] == ["db is BACKOFF: exit 1; retrying in 3.2 s (3 of 16)", "waiting for db: api, web", ""]


def test_the_last_words_of_the_only_one_are_shown():
    lines = text(made(row("db"), failed_row("web")))
    assert lines[2:5] == [
        "    Traceback (most recent call last):",
        '      File "app.py", line 1, in <module>',
        "    ValueError: no",
    ]


def test_the_clock_goes_on_between_two_changes():
    view = made(row("db", uptime_s=5.0))
    assert "5s" in text(view)[2]
    assert "45s" in "".join(part for part, _ in draw(view, 80, 24, 140.0).lines[2])


def test_without_a_connection_it_says_since_when():
    view = made(row("db"))
    view.live("connection lost")
    view.state_since = 86.0
    assert text(view)[0].endswith("connection lost 14 s")


def test_numbers_that_grow_move_nothing():
    few = text(made(row("db", memory_bytes=1 << 20, cpu_percent=0.1, pid=1)))[2]
    many = text(made(row("db", memory_bytes=900 << 20, cpu_percent=100.0, pid=4194304)))[2]
    assert [at for at, char in enumerate(few) if char == "B"] == [at for at, char in enumerate(many) if char == "B"]


def test_the_selected_one_stays_selected():
    view = made(*(row(f"p{n}") for n in range(40)))
    press(view, *"jj")
    assert view.selected == "p2"
    assert styles(view, "p2 ") == {"selected"}
    view.rows["unit"]["p9"].update(state="FATAL", reason="exit 1")
    assert view.units()[0][0] == "p9"
    assert view.selected == "p2"
    press(view, "G")
    assert view.selected == "p39"
    assert any("p39" in line for line in text(view))
    press(view, names.PAGE_UP, "k", "g")
    assert view.selected == "p9"
    assert "p9" in text(view)[4]
    del view.rows["unit"]["p9"]
    assert styles(view, "p0 ") == {"selected"}  # what was selected is gone
    press(view, "j")
    assert view.selected == "p1"


def test_a_filter():
    view = made(row("web:0"), row("web:1"), failed_row("db"))
    press(view, "/", *"WEB")
    assert "/WEB_" in text(view)[-1]
    assert [key for key, _ in view.units()] == ["web:0", "web:1"]
    press(view, "q", names.BACKSPACE, names.ENTER)
    assert "filter: WEB" in text(view)[-1]
    press(view, names.ESCAPE)
    assert len(view.units()) == 3
    press(view, "/", *"back", names.ENTER)
    assert [key for key, _ in view.units()] == ["db"]
    press(view, "/", names.ESCAPE)
    press(view, "/", *"nothing")
    assert "no unit matches the filter" in "".join(text(view))
    assert press(view, names.ENTER, "S") is None


@pytest.mark.parametrize(
    ("key", "action"),
    [
        ("s", Action("start", "web:1")),
        ("S", Action("stop", "web:1")),
        ("r", Action("restart", "web:1")),
        ("R", Action("reload", "web")),
    ],
)
def test_nothing_is_done_before_it_is_confirmed(key, action):
    view = made(row("db"), failed_row("web:1"))
    press(view, key)
    assert f"{action.what.capitalize()} {action.name}?  y: yes" in text(view)[-1]
    for other in (*"nq\nsSrRjkl/", names.ENTER, names.ESCAPE, names.TAB):
        assert press(view, other) is None
        assert view.mode == names.UNITS
        assert view.confirming is None
        assert text(view)[-1] == "nothing was done"
        press(view, key)
    assert press(view, "y") == action
    assert press(view, "y") is None


def test_a_log_is_followed_and_pauses_where_one_scrolls():
    view = made(row("db"), failed_row("web"))
    assert press(view, "l") == Action("logs", "web", "error")  # where it has failed, stderr tells
    assert "no output yet" in "".join(text(view))
    view.more(f"line {n}" for n in range(100))
    assert text(view)[-3] == "line 99"
    press(view, "k")
    assert text(view)[-2] == "paused, 1 more line below; f follows"
    press(view, "k")
    assert text(view)[-3:-1] == ["line 97", "paused, 2 more lines below; f follows"]
    view.more(["more"])
    assert text(view)[-3] == "line 97"
    press(view, "f")
    assert text(view)[-3] == "more"
    press(view, "/", *"9", names.ENTER)
    assert [line for line in text(view) if line.startswith("line")][-2:] == ["line 98", "line 99"]
    press(view, "g")
    assert [line for line in text(view) if line.startswith("line")] == ["line 9"]
    assert press(view, names.TAB) == Action("logs", "web", "out")
    assert text(view)[0].startswith("stdout of web")
    view.more("x" for _ in range(2 * names.KEPT))
    assert len(view.lines) == names.KEPT
    press(view, names.ESCAPE)
    assert press(view, "q") == Action("leave")
    assert view.mode == names.UNITS


def test_a_long_line_is_shown_whole():
    view = made(row("db"))
    press(view, "l")
    view.more(["漢" * 50 + "end"])
    assert text(view)[1:3] == ["漢" * 40, "漢" * 10 + "end"]


def test_why_and_the_keys_are_panes_that_scroll():
    view = made(row("db"))
    assert press(view, names.ENTER) == press(made(row("db")), "w") == Action("why", "db")
    assert "asking ..." in text(view)
    view.explain(f"fact {n}" for n in range(50))
    assert text(view)[1] == "fact 0"
    press(view, "j", names.PAGE_DOWN)
    assert text(view)[1] == "fact 22"
    press(view, "G", "G")
    assert text(view)[-2] == "fact 49"
    assert press(view, "q", "?") is None
    assert "page up or down" in "".join(text(view))
    assert press(view, "q", "q") == Action("quit")


def test_without_units_keys_do_nothing():
    view = View("x")
    assert [press(view, key) for key in ("j", "l", "s", names.ENTER)] == [None] * 4
    view.rows = {"unit": {}}
    assert "nothing is configured to run" in text(view)


def test_whatever_is_pressed_it_can_be_drawn_and_nothing_is_done_unasked():
    chance = random.Random(11)
    keys = [*"jkgGlwsSrRyn/?qf a", *(names.ENTER, names.ESCAPE, names.BACKSPACE, names.UP, names.TAB, names.PAGE_DOWN)]
    view = made(*(row(f"p{n}") for n in range(30)), failed_row("web:0"))
    before = ""
    for _ in range(20_000):
        key = chance.choice(keys)
        action = view.press(key)
        if action is not None and action.what in {"start", "stop", "restart", "reload"}:
            assert key == "y"
            assert before == {"start": "s", "stop": "S", "restart": "r", "reload": "R"}[action.what]
        before = key
        if chance.random() < 0.1:
            view.more(["some", "lines"])
        assert len(text(view, *chance.choice(SIZES))) >= 1
