"""What a changed key takes to be in force: stated here once more, key by key, so that no new key is forgotten."""

from __future__ import annotations

import dataclasses
from enum import Enum

import pytest

from impetusd.core.config import parser, schema
from impetusd.core.config.model import Host, Listen, Ready
from impetusd.core.rules import plan

HOST = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
TEXT = """
[pool:web]
app = shop:app
listen = 127.0.0.1:8080
[program:db]
command = postgres
[timer:tidy]
command = tidy
every = 1h
[health:web]
exec = ask
"""
WHERE = {
    schema.POOL: ("units", "web"),
    schema.PROGRAM: ("units", "db"),
    schema.TIMER: ("timers", "tidy"),
    schema.HEALTH: ("health", "web"),
}
# What a process is given when it starts. Of a pool, new workers have it beside the old ones.
OF_THE_START = {
    "app", "protocol", "threads", "root_path", "command", "node", "interpreter", "preload", "drain_timeout", "wait_ready", "watchdog", "cwd", "user", "group", "umask", "nice",
    "no_new_privs", "capabilities", "header_timeout", "body_timeout",
    "oom_score_adj", "cpu_affinity", "rlimits", "env_file", "increment_var", "listen", "backlog", "max_requests",
}  # fmt: skip
# All others are rules, which never restart anything.
RULES = {
    "on_fatal", "type", "instances", "standby", "autostart", "depends_on", "ready", "listen_timeout", "autorestart", "stop_exit_codes", "min_uptime",
    "max_restarts", "restart_window", "restart_delay", "exp_backoff_restart_delay", "exp_backoff_max_delay", "retry_after",
    "critical", "reload_parallel", "reload_watch", "cron_restart", "timezone", "max_age", "watch", "watch_ignore", "watch_delay", "max_memory_restart",
    "memory_hold", "max_memory_kill", "kill_signal", "kill_timeout", "treekill", "out_file", "error_file", "merge_logs", "time",
    "log_format", "log_max_line", "log_max_size", "log_max_age", "log_keep", "log_compress",
}  # fmt: skip
ITEMS = {
    "listen": Listen("::1", 1),
    "rlimits": ("core", 0, 0),
    "cpu_affinity": 1,
    "stop_exit_codes": 7,
    "headers": ("A", "b"),
    "status": (404, 404),
}


def expected(section, key):
    if key == "enabled":
        return "removed"
    if section in {schema.TIMER, schema.HEALTH}:
        return "live"  # what they run is started anew each time
    assert (key in OF_THE_START) != (key in RULES), (
        f"say in this file whether {key} is a rule, or given to a process when it starts"
    )
    if key in RULES:
        return "live"
    return "reload" if section == schema.POOL else "restart"


def another(key, value):
    """A value that differs, of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(each for each in type(value) if each is not value)
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple):
        return (*value, ITEMS.get(key, "other"))
    return Ready("tcp", "a:1") if value is None else f"{value}x"


CASES = [(section, key) for section in WHERE for key in schema.keys_of(section)]


@pytest.mark.parametrize(("section", "key"), CASES)
def test_the_effect_of_each_key(section, key):
    old = parser.parse(TEXT, "/srv/impetusd.ini", {}, HOST)
    kind, name = WHERE[section]
    each = getattr(old, kind)[name]
    field = "command" if key == "exec" else key
    if hasattr(each, field):
        changed = dataclasses.replace(each, **{field: another(key, getattr(each, field))})
    else:
        changed = dataclasses.replace(
            each, unit=dataclasses.replace(each.unit, **{field: another(key, getattr(each.unit, field))})
        )
    new = dataclasses.replace(old, **{kind: {**getattr(old, kind), name: changed}})
    (change,) = plan.plan(lambda _: old, lambda _: new, lambda _: 1)
    assert (change.kind, change.name, change.effect.value) == (section, name, expected(section, key))
    assert [each.name for each in change.keys] == ([] if key == "enabled" else [key])


def test_a_variable_is_given_to_a_process_when_it_starts():
    old = parser.parse(TEXT, "/srv/impetusd.ini", {}, HOST)
    new = parser.parse(TEXT + "[env:web]\nA = b\n[env:db]\nA = b\n[env:tidy]\nA = b\n", "/srv/impetusd.ini", {}, HOST)
    found = {(each.kind, each.name): each.effect.value for each in plan.plan(lambda _: old, lambda _: new, lambda _: 1)}
    assert found == {
        ("pool", "web"): "reload",
        ("program", "db"): "restart",
        ("timer", "tidy"): "live",
        ("health", "web"): "live",
    }


def test_of_a_group_the_one_that_has_changed_is_restarted_and_for_a_rule_none():
    group = "[group:all]\nmembers = *\n"
    old = parser.parse(TEXT + group, "/srv/impetusd.ini", {}, HOST)

    def effects(more):
        new = parser.parse(
            TEXT.replace("command = postgres\n", f"command = postgres\n{more}\n") + group, "/srv/impetusd.ini", {}, HOST
        )
        return [(each.name, each.effect.value) for each in plan.plan(lambda _: old, lambda _: new, lambda _: 1)]

    assert effects("nice = 5") == [("db", "restart")]
    assert effects("autorestart = never") == [("db", "live")]
