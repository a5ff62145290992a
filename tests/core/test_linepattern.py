"""Lines are matched as `re` does it, one step for each byte."""

from __future__ import annotations

import random
import re

import pytest

from impetusd.core.config import ini, linepattern, parser
from impetusd.core.config.include import Source
from impetusd.core.config.linepattern import FOUND, LinePattern
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError

HOST = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
ATOMS = [
    "a",
    "b",
    ".",
    "[ab]",
    "[^a]",
    r"\w",
    r"\D",
    "^",
    "$",
    r"\A",
    r"\Z",
    r"\b",
    r"\B",
    " ",
    r"\s",
    "(?i:A)",
    "",
    "é",
]
REPEATS = ["*", "+", "?", "{2}", "{1,3}", "*?", "{2,}", "+?", "??"]


def found(pattern, *pieces, **how):
    made = LinePattern(pattern, **how)
    state = made.begin
    for piece in pieces:
        state = made.feed(state, piece)
    return state is FOUND


def expression(rng, depth):
    kind = rng.random()
    if depth == 0 or kind < 0.3:
        return rng.choice(ATOMS)
    if kind < 0.55:
        return expression(rng, depth - 1) + expression(rng, depth - 1)
    if kind < 0.7:
        return f"({expression(rng, depth - 1)}|{expression(rng, depth - 1)})"
    return f"(?:{expression(rng, depth - 1)}){rng.choice(REPEATS)}"


@pytest.mark.parametrize("seed", range(4))
def test_as_re_finds_them(seed, monkeypatch):
    monkeypatch.setattr(linepattern, "MOST_STATES", 3)  # they are forgotten on the way, too
    rng = random.Random(seed)
    for _ in range(500):
        text = expression(rng, 4)
        pattern = text.encode()
        expected, made = re.compile(pattern), LinePattern(pattern)
        for _ in range(5):
            line = "".join(rng.choices("abA1 -é\t", k=rng.randrange(1, 8))).encode()
            state = made.feed(made.begin, b"\n" + line + b"\n\n" if "^" in text else line + b"\n")
            lines = [b"", line] if "^" in text else [line]
            if r"\B" in text:  # in an empty line: re's answer depends on Python's version
                lines, state = [line], made.feed(made.begin, line + b"\n")
            assert (state is FOUND) == any(map(expected.search, lines)), (pattern, line)


def test_a_line_in_pieces_and_only_one_line():
    assert found(rb"^listening on \d+$", b"not list", b"ening\nlisteni", b"ng on 80", b"80\nmore")
    assert not found(rb"^listening on \d+$", b"listening on 80")
    assert not found(rb"a\sb", b"a\nb\n")
    assert not found(rb"a[^x]b", b"a\nb\n")
    assert found(rb"(?i)READY", b"i am Ready\n")


@pytest.mark.parametrize(
    "pattern", [rb"(a+)+$", rb"(a|a)*$", rb"(a|aa)+$", rb"a*a*a*a*a*a*a*a*$", b"(a?){40}" + b"a" * 40 + b"$"]
)
def test_what_backtracks_for_ages_takes_one_step_for_each_byte(pattern, monkeypatch):
    made = LinePattern(pattern)
    taken = []
    step = LinePattern._step
    monkeypatch.setattr(LinePattern, "_step", lambda *of: taken.append(1) or step(*of))
    state = made.feed(made.begin, b"a" * 40 + b"!")
    assert state is not FOUND
    state = made.feed(state, b"a" * 50_000 + b"!")
    assert state is not FOUND
    assert len(taken) < 300  # all others were known
    assert made.feed(state, b"\n" + b"a" * 40 + b"\n") is FOUND


@pytest.mark.parametrize("pattern", [rb"(){1000000000}a", rb"(?:(?:){1000000}){1000000}a", rb"(?:a{0}){1000000000}a"])
def test_nothing_is_repeated_in_no_time(pattern):
    assert found(pattern, b"a\n")


def test_no_more_states_are_kept_than_that(monkeypatch):
    monkeypatch.setattr(linepattern, "MOST_STATES", 50)
    made = LinePattern(rb"(a|b)*a(a|b){30}c")
    made.feed(made.begin, bytes(random.Random(1).choices(b"ab", k=5000)))
    assert len(made._states) <= 50


REFUSED = {
    "(?=a)a": "lookahead or lookbehind",
    "(?<!b)a": "lookahead or lookbehind",
    r"(a)\1": "a reference to a group",
    "(b)?(?(1)c|a)": "a reference to a group",
    "a++": "possessive repetition",
    "(?>a)": "an atomic group",
    "(?:a{1000}){1000}": "more than 500 steps",
    "a" * 501: "more than 500 steps",
}


def read(pattern, rules):
    text = f"[program:db]\ncommand = db\nready = log:{pattern}\n"
    return parser.parse_all(Source("/srv/impetusd.ini", text), {}, HOST, rules=rules).units["db"]


@pytest.mark.parametrize("pattern", REFUSED)
def test_what_has_no_bound_is_refused_and_goes_on_in_a_file_that_is_in_force(pattern):
    with pytest.raises(ConfigError) as refused:
        read(pattern, ini.RULES)
    (problem,) = refused.value.problems
    assert REFUSED[pattern] in str(problem)
    assert problem.line == 3
    assert read(pattern, 1).ready.value == pattern
    assert found(pattern.encode(), b"a" * 1000 + b"\n", lenient=True)


@pytest.mark.parametrize("pattern", [r"\u00e9", "(?u)a", "(a"])
def test_what_is_none_for_bytes_is_refused(pattern):
    with pytest.raises(ConfigError, match=r"(invalid|unsupported) regular expression \("):
        read(pattern, ini.RULES)
