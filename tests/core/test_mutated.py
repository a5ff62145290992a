"""Files as accidents leave them: each is a configuration or a list of problems, and none takes longer than its size."""

from __future__ import annotations

import random
import sys

import pytest

from impetusd.core.config import ini, parser, sample
from impetusd.core.config.include import Source
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError

HOST = Host(euid=0, cpus=4, user_exists=lambda name: name != "ghost", group_exists=lambda _: True)
SEED, FILES, PARTS = 20_13, 5_000, 5
FULL = """
[impetusd]
base_dir = /srv/shop
operators = alice, @web
[include]
files = a/*.ini "b c/*.ini"
[pool:web]
app = shop.web:create_app
listen = 127.0.0.1:8080, [::]:8081 v6only=yes
    unix:run/web.sock mode=0660 owner=www:www
instances = 2..4
depends_on = db
[program:db]
command = sh -c 'a && b > "c"' --x=${DATABASE_URL:-postgresql:///x?user=${USER:+y}} ; a comment
    --more "quo\\"ted" \\
    --end
cwd = '/srv/my app'
env_file = a.env
ready = log:(ready|up)$
rlimits = nofile=65536, core=0:infinity
kill_timeout = 90s
[timer:clean]
command = tidy
cron = 30 3 * * 1-5
timezone = UTC
[health:web]
http = /health
headers = Host: shop
    X-A: b
[group:all]
members = web, d*
[env:db]
PORT = 80${INSTANCE}
discovery.type = "a\\"b\\\\"
PEM = '-----BEGIN
    B = c
    -----END'
[env:db@test]
PORT = 90
"""
PIECES = ["[", "]", "=", ";", "#", ":", '"', "'", "\\", "\n", "\n  ", "${", "}", "$", "\t", "\r", "\0", "\ufeff", "\u2028", "\f", "@", ",", "-", "..",
          "é", "9" * 30, "x" * 300, "[program:", "[env:db@", "command = ", "${INSTANCE}", "&&", "|", ">", "~/", "listen = [::]:"]  # fmt: skip


def mutated(text: str, chance: random.Random) -> str:
    """The text with one to eight accidents: something is lost, doubled, moved, or put in."""
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.choice((1, 2, 5, 20, 200)))
        match chance.randrange(5):
            case 0:
                text = text[:at] + text[end:]
            case 1:
                text = text[:at] + text[at:end] * 2 + text[end:]
            case 2:
                other = chance.randrange(len(text) + 1)
                text = text[:at] + text[other : other + end - at] + text[at:]
            case 3:
                text = text[:at] + chance.choice(PIECES) + text[at:]
            case _:
                text = text[:at] + chance.choice(PIECES) + text[end:]
    return text


def read(text: str, **how: int) -> None:
    try:
        found = parser.parse_all(Source("/srv/x.ini", text), {"USER": "u"}, HOST, **how)
    except ConfigError as error:
        told = [str(problem) for problem in error.problems]
        assert told
        assert all("\n" not in each and len(each) < 2_000 for each in told)
    else:
        assert all("\n" not in str(each) for each in found.warnings)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_accident_is_more_than_a_list_of_problems(part):
    chance = random.Random(SEED + part)
    whole = FULL, sample.sample("..")
    for number in range(FILES // PARTS):
        text = mutated(whole[number % 20 == 0], chance)
        for how in ({}, {"instance": 1}, {"rules": 1}) if number % 5 == 0 else ({},):
            try:
                read(text, **how)
            except Exception as error:  # with what it takes to see it again
                raise AssertionError(f"part {part}, file {number}, {how}: {text!r}") from error


@pytest.mark.parametrize(
    "line",
    [
        "A = 'b", 'A = "\\"', "[env:db]\n", "command = a && b\n", "  user = x", "x = ${A:-", "x = 'a'b\n  c = d\n", "listen = [::]:80\n",
        "[program:a", "[include]\nfiles = '", "\\", "é", "= =", "; c", "[program:p]\ncommand = 'x'\n", "files = a b,c ", "[pool:w]\n  app",
    ],
)  # fmt: skip
def test_what_a_file_costs_grows_as_it_does(line):
    """Calls counted, not seconds: a file that is four times as long takes four times as many, and a little more."""
    counts = []
    for times in (300, 1_200):
        calls = 0

        def count(*_):
            nonlocal calls
            calls += 1

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            read(f"[program:db]\ncommand = x\n{line * times}")
        finally:
            sys.setprofile(before)
        counts.append(calls)
    assert counts[1] < counts[0] * 4.6 + 5_000


@pytest.mark.parametrize(
    "piece", ["'", '"', "\\", '\\"', "a ", "a'b ", ";", " ;", "${A:-x}", "$$", "'a\n  ", "\n  a = b"]
)
def test_nor_does_one_value_cost_more_than_its_length(piece):
    text = "[program:db]\ncommand = x " + piece * (400_000 // len(piece))
    read(text)  # pytest's timeout is the measure: it takes 0.3 s, and anything quadratic minutes
    sections, _ = ini.parse(text, "x")
    for entry in sections[0].entries.values():
        ini.continuations(entry.value)
        ini.unquoted(f'"{entry.value}"')
