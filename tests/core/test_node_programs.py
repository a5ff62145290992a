"""Which programs are Node, and what follows of it."""

from __future__ import annotations

import json
import shlex

import pytest

from impetusd.core.config import ini, node, parser
from impetusd.core.config.include import Source
from impetusd.core.config.model import Host, Ready, Unit
from impetusd.core.config.problem import ConfigError
from impetusd.core.rules import reload

HOST = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
LISTEN = "listen = 127.0.0.1:8080\n"


def unit(keys: str, rules: int = ini.RULES) -> Unit:
    return parser.parse_all(Source("/srv/a.ini", f"[program:api]\n{keys}"), {}, HOST, rules=rules).units["api"]


@pytest.mark.parametrize(
    ("command", "is_node"),
    [
        ("node server.js", True),
        ("/usr/bin/nodejs server.js", True),
        ("npm start", True),
        ("/usr/bin/env -S NODE_ENV=production node server.js", True),
        ("node_modules/.bin/serve", True),
        ("./server.mjs", True),
        ("python node.py", False),
        ("sh -c 'node server.js'", False),
        ("env", False),
    ],
)
def test_a_command_is_node_by_its_first_word(command: str, is_node: bool) -> None:
    assert node.is_node(shlex.split(command)) is is_node


@pytest.mark.parametrize(
    ("keys", "loaded", "ready"),
    [
        ("command = node a.js\n", False, None),
        (f"command = node a.js\n{LISTEN}", True, Ready("listen", "")),
        (f"command = node a.js\n{LISTEN}wait_ready = yes\n", True, None),
        (f"command = node a.js\n{LISTEN}wait_ready = no\n", True, None),
        (f"command = node a.js\n{LISTEN}ready = log:up\n", True, Ready("log", "up")),
        (f"command = node a.js\n{LISTEN}node = no\n", False, None),
        (f"command = ./start\n{LISTEN}", False, None),
        (f"command = ./start\n{LISTEN}node = yes\n", True, Ready("listen", "")),
        (f"command = node a.js\n{LISTEN}type = oneshot\n", True, None),
    ],
)
def test_node_with_listen_is_ready_when_it_listens(keys: str, loaded: bool, ready: Ready | None) -> None:
    found = unit(keys)
    assert (node.is_loaded(found), found.ready) == (loaded, ready)


def test_what_runs_by_former_rules_stays_any_program() -> None:
    found = unit(f"command = node a.js\n{LISTEN}", rules=2)
    assert (node.is_loaded(found), found.ready) == (False, None)


def test_it_is_reloaded() -> None:
    assert reload.overlaps(unit(f"command = node a.js\n{LISTEN}"))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("command = ./start\nready = listen\n", "ready = listen is only for Node programs with listen"),
        (f"command = ./start\n{LISTEN}ready = listen\n", "ready = listen is only for Node programs with listen"),
        ("command = node a.js\nnode = yes\n", "node has no effect without listen"),
    ],
)
def test_what_would_never_be_ready_is_refused(keys: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        unit(keys)


def test_what_the_preload_is_told() -> None:
    found = unit("command = node a.js\nlisten = [::1]:8080, unix:/run/a.sock\nkill_timeout = 4s\n")
    assert json.loads(node.environment(found, [11, 12], (5, 13), "SIGTERM", "/python")) == {
        "listen": [
            {"fd": 3, "inode": 11, "host": "::1", "port": 8080},
            {"fd": 4, "inode": 12, "path": "/run/a.sock"},
        ],
        "notify": {"fd": 5, "inode": 13},
        "ready": "listen",
        "signal": "SIGTERM",
        "linger": 2.0,
        "python": "/python",
    }


def test_node_options_of_the_user_are_kept() -> None:
    assert node.options("--no-warnings").endswith('/impetusd/node/preload.cjs" --no-warnings')
    assert node.options("").startswith('--require="/')
