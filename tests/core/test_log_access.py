"""log_owner and log_mode of [impetusd]: what is taken, what is refused, and that a change of them restarts nothing."""

from __future__ import annotations

import pytest

from impetusd.cli.logs import logrotate
from impetusd.core.config import parser
from impetusd.core.config.model import Host, LogAccess
from impetusd.core.config.problem import ConfigError
from impetusd.core.rules.plan import plan

ROOT = Host(euid=0, cpus=4, user_exists={"alice", "1001"}.__contains__, group_exists={"adm", "4"}.__contains__)
MORTAL = Host(euid=1000, cpus=4, user_exists=ROOT.user_exists, group_exists=ROOT.group_exists)


def parsed(keys, host=ROOT):
    return parser.parse(f"[impetusd]\n{keys}\n[program:db]\ncommand = db\n", "/srv/impetusd.ini", {}, host)


@pytest.mark.parametrize(
    ("keys", "meant"),
    [
        ("", LogAccess()),
        ("log_owner = :adm", LogAccess(log_owner=":adm")),
        ("log_owner = alice:4\nlog_mode = 644", LogAccess(log_mode=0o644, log_owner="alice:4")),
        ("log_owner = 1001\nlog_mode = 0o600", LogAccess(log_mode=0o600, log_owner="1001")),
    ],
)
def test_what_is_taken(keys, meant):
    assert parsed(keys).logs == meant


@pytest.mark.parametrize(
    ("keys", "host", "told"),
    [
        ("log_owner = bob", ROOT, "log_owner: no user bob on this host; create it, or use another"),
        ("log_owner = alice:web", ROOT, "log_owner: no group web on this host; create it, or use another"),
        (
            "log_owner = alice",
            MORTAL,
            "only root can assign files to another user; write :GROUP, or start impetusd as root",
        ),
        ("log_owner = :web", MORTAL, "no group web on this host"),
        *(
            (f"log_owner = {text}", ROOT, "no user or group given; write USER, USER:GROUP or :GROUP")
            for text in (":", "a:", "a b", "a:b:c")
        ),
        *(
            (f"log_mode = {text}", ROOT, "write 0600, 0640, 0660, 0644 or 0664")
            for text in ("0", "440", "666", "0755", "4640", "rw", "8")
        ),
    ],
)
def test_what_is_refused(keys, host, told):
    with pytest.raises(ConfigError) as refused:
        parsed(keys, host)
    (problem,) = refused.value.problems
    assert told in str(problem)
    assert problem.line == 2


def test_a_member_of_a_group_may_name_it():
    assert parsed("log_owner = :adm", MORTAL).logs.log_owner == ":adm"


def test_a_change_is_shown_and_restarts_nothing():
    (change,) = plan(lambda _: parsed("log_owner = :adm"), lambda _: parsed("log_mode = 0644"), lambda _: 1)
    assert (change.kind, change.effect.value) == ("impetusd", "live")
    assert [(key.name, key.old, key.new) for key in change.keys] == [
        ("log_owner", ":adm", ""),
        ("log_mode", "", "0644"),
    ]


@pytest.mark.parametrize(
    ("keys", "create"), [("", "create 0640 root adm"), ("log_mode = 0644", "create 0644 root adm")]
)
def test_logrotate_makes_new_files_so_too(keys, create):
    assert f"    {create}\n" in logrotate.text(parsed(keys), "/usr/bin/impetusd", "root", "adm")
