"""Sections put into an INI file and taken out of it: what is written is what is read, and nothing else of it changes."""

from __future__ import annotations

import pytest

from impetusd.core.config import edit, ini

FILE = """\
; About the whole.

[impetusd]
viewers = @adm

; The web.
[pool:web]
app = shop:app
; where
listen = 127.0.0.1:1,
         127.0.0.1:2

[env:web]
A = 1
[env:web@production]
A = 2

; --- Workers ---

; asks for /
[health:ping]
target = web
http = /
exec =

[health:web]
http = /
[program:jobs]
command = jobs
[env:jobs]
B = 1
"""


def sections(text: str) -> list[ini.Section]:
    found, problems = ini.parse(text, "f")
    assert not problems
    return found


def value(text: str, *, quotes: bool = False) -> list[ini.Piece]:
    entry = sections(f"[s]\nk = {text}\n[t]\n")[0].entries["k"]
    pieces, complaints = ini.expand(entry.value if quotes else ini.unquoted(entry.value), {}, {})
    assert not complaints
    return pieces


AWKWARD = [
    *("", " ", " a ", "a ;b", ";", "#", '"', "'", "\"a' ;b", "it's ; so", "${HOME}", "$HOME", "$$", "a$", "\\", '\\"', "a\\"),
    *("[x]", "]", "=", "a = b", "ção ☃", "\t", '"a"', "'a'", "a\tb", "${", "}", "%(x)s", "'\"", '" ; $x\\'),
]  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD)
def test_a_value_means_what_was_given(text: str) -> None:
    assert ini.joined(value(edit.written(text))) == text


@pytest.mark.parametrize("text", AWKWARD)
def test_so_does_a_command(text: str) -> None:
    assert ini.words(value(edit.command(["prog", text, f"-x{text}", text]), quotes=True)) == [
        "prog",
        text,
        f"-x{text}",
        text,
    ]


@pytest.mark.parametrize(
    "text", ["a\nb", "a\n[program:evil]\ncommand = x", "\r", "a\0b", "\udcff", "\x1b[2J", "\u2028"]
)
def test_what_no_line_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line break|printable"):
        edit.written(text)
    with pytest.raises(ValueError, match=r"line break|printable"):
        edit.command(["prog", text])


@pytest.mark.parametrize(
    "text", [FILE, "", "; only this", "[program:a]\ncommand = a", FILE.replace("\n", "\r\n"), "\ufeff[a:b]\n"]
)
def test_what_is_added_stands_at_the_end_in_the_files_own_line_ends(text: str) -> None:
    block = edit.block("program:new", {"command": "x", "cwd": "/y"})
    new = edit.added(text, [block, edit.block("env:new", {"LONG_NAME": "1"})])
    assert new.startswith(text)
    assert ("\r\n" in text) == ("\r\n" in new)
    assert new.count("\n") == new.count("\r\n") or "\r" not in new
    ours = [each for each in sections(new) if each.name.endswith(":new")]
    assert [(each.name, {key: entry.value for key, entry in each.entries.items()}) for each in ours] == [
        ("program:new", {"command": "x", "cwd": "/y"}),
        ("env:new", {"LONG_NAME": "1"}),
    ]
    if text.endswith("\n"):
        back = edit.without(new, edit.belonging(sections(new), "new"), sections(new))
        assert back.text == text
        assert back.lines[:-1] == tuple(range(1, text.count("\n") + 1))


def test_a_unit_goes_with_its_environment_and_checks_and_their_comments() -> None:
    found = edit.belonging(sections(FILE), "web")
    assert [each.name for each in found] == ["pool:web", "env:web", "env:web@production", "health:ping", "health:web"]
    left = edit.without(FILE, found, sections(FILE))
    assert left.text == (
        "; About the whole.\n\n[impetusd]\nviewers = @adm\n\n; --- Workers ---\n\n[program:jobs]\ncommand = jobs\n[env:jobs]\nB = 1\n"
    )
    original = FILE.split("\n")
    assert [original[number - 1] for number in left.lines] == left.text.split("\n")


def test_what_stands_above_a_header_goes_and_what_runs_into_the_next_one_stays() -> None:
    text = "; the file\n[program:a]\ncommand = a\n; of b\n[program:b]\ncommand = b\n"
    assert edit.without(text, edit.belonging(sections(text), "a"), sections(text)).text == (
        "; the file\n; of b\n[program:b]\ncommand = b\n"
    )
    assert edit.without(text, edit.belonging(sections(text), "b"), sections(text)).text == (
        "; the file\n[program:a]\ncommand = a\n"
    )
