"""Two slots write into one file only where the INI says so."""

from __future__ import annotations

import pytest

from impetusd.core.config import logpaths, parser
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError

HOST = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
POOL = "[pool:web]\napp = shop:app\nlisten = 127.0.0.1:8080\n"


def program(name, keys=""):
    return f"[program:{name}]\ncommand = x\n{keys}\n"


def problems(text):
    try:
        parser.parse(text, "/srv/impetusd.ini", {}, HOST)
    except ConfigError as error:
        return [problem.text for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("text", "path", "whose"),
    [
        (program("a", "instances = 2") + program("a-0"), "/srv/var/log/a-0-out.log", "[program:a]"),
        (program("a-1") + program("a", "instances = 1..3"), "/srv/var/log/a-1-out.log", "[program:a]"),
        (POOL + program("web-template"), "/srv/var/log/web-template-out.log", "[pool:web]"),
        (POOL + program("web-0"), "/srv/var/log/web-0-out.log", "[pool:web]"),
        (POOL + program("web-standby"), "/srv/var/log/web-standby-out.log", "[pool:web]"),
        (
            program("a", "instances = 2\nout_file = x.log") + program("b", "out_file = x-1.log"),
            "/srv/x-1.log",
            "[program:a]",
        ),
        (program("a", "instances = 2\nout_file = x") + program("b", "error_file = x-1"), "/srv/x-1", "[program:a]"),
        (
            program("b") + program("a", "out_file = ${LOG_DIR}/b-error.log"),
            "/srv/var/log/b-error.log",
            "[program:b]",
        ),
        (program("a", "out_file = ${LOG_DIR}/impetusd.log"), "/srv/var/log/impetusd.log", "impetusd itself"),
        (
            program("a", "instances = 2") + "[timer:a-0]\ncommand = x\nevery = 1h\n",
            "/srv/var/log/a-0-out.log",
            "[program:a]",
        ),
    ],
)
def test_it_is_refused_where_it_is_not_meant(text, path, whose):
    (problem,) = problems(text)
    assert f"{whose} writes to the same log file {path}; " in problem


@pytest.mark.parametrize(
    "text",
    [
        program("a", "instances = 2") + program("a-2") + program("a-00") + program("a-x"),
        program("a", "instances = 2\nmerge_logs = yes") + program("a-0"),
        program("a") + program("a-0"),
        program("a", "instances = 2") + program("a-0", "enabled = no"),
        program("a", "out_file = x\nerror_file = x") + program("b", "out_file = x"),
        program("a", "instances = 2\nout_file = x-${INSTANCE}") + program("b", "out_file = x-1"),
        POOL + "standby = 0\npreload = no\n" + program("web-standby") + program("web-template"),
    ],
)
def test_it_is_no_mistake_where_it_is_meant_or_is_not_so(text):
    assert problems(text) == []


def test_what_is_in_force_since_before_there_was_this_rule_stays_so():
    source = parser.Source("/srv/impetusd.ini", program("a", "instances = 2") + program("a-0"))
    assert list(parser.parse_all(source, {}, HOST, rules=1).units) == ["a", "a-0"]


@pytest.mark.parametrize("name", ["stdout", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_has_several_names(name):
    unit = parser.parse(program("a", f"out_file = {name}\ninstances = 2"), "/srv/impetusd.ini", {}, HOST).units["a"]
    assert logpaths.log_file(unit, "out", "-1", "/l") == "stdout"
    assert logpaths.log_file(unit, "error", "-1", "/l") == "/l/a-1-error.log"


def test_by_former_rules_a_name_was_a_file():
    source = parser.Source("/srv/impetusd.ini", program("a", "out_file = stdout"))
    assert parser.parse_all(source, {}, HOST, rules=1).units["a"].out_file == "/srv/stdout"
