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
    "oom_score_adj", "cpu_affinity", "rlimits", "memory_max", "cpu_max", "env_file", "env_pass", "increment_var", "listen", "backlog", "max_requests", "access_log",
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


# [gateway], [alert:NAME] and [host:NAME] are no units: the units that they make are told all that they say when they start.
OF_GATEWAY = {
    "listen": "127.0.0.1:1", "socket": "run/gateway.sock", "tls_cert": "ops.pem", "tls_key": "ops.key", "behind_proxy": "yes",
    "hosts": "ops.example.com", "url": "https://ops.example.com/", "ceiling": "admin", "metrics": "open", "xmlrpc": "127.0.0.1:2",
    "user": "impetusd", "trusted_proxies": "10.0.0.7",
}  # fmt: skip
OF_ALERT = {
    "type": "json", "url": "https://ntfy.sh/y", "to": "a@example.com", "from": "b@example.com", "smtp": "mail:25",
    "smtp_user": "u", "smtp_password": "p", "command": "page", "events": "fatal", "units": "web", "for": "1m", "repeat": "1h",
    "heartbeat": "https://hc-ping.com/x", "heartbeat_every": "2m",
}  # fmt: skip
OF_HOST = {"url": "https://web3/", "token": "y", "ca_file": "ca.pem"}
NEEDED = {
    "tls_cert": "tls_key = ops.key", "tls_key": "tls_cert = ops.pem", "behind_proxy": "hosts = ops.example.com",
    "trusted_proxies": "behind_proxy = yes\nhosts = ops.example.com",
    "from": "to = a@example.com", "smtp": "to = a@example.com", "smtp_user": "smtp_password = p\nto = a@example.com",
    "smtp_password": "smtp_user = u\nto = a@example.com", "heartbeat_every": "heartbeat = https://hc-ping.com/x",
}  # fmt: skip
# What the observer is told of [gateway], too.
OF_BOTH = {"listen", "user", "url"}


def effects_of(old, new):
    """(kind, name, effect, keys) of each change."""
    old, new = (parser.parse(TEXT + text, "/srv/impetusd.ini", {}, HOST) for text in (old, new))
    found = plan.plan(lambda _: old, lambda _: new, lambda _: 1)
    return [(each.kind, each.name, each.effect.value, {key.name for key in each.keys}) for each in found]


@pytest.mark.parametrize("key", [key for key in schema.keys_of(schema.GATEWAY) if key != "enabled"])
def test_the_effect_of_each_key_of_the_gateway(key):
    found = effects_of("[gateway]\n", f"[gateway]\n{key} = {OF_GATEWAY[key]}\n{NEEDED.get(key, '')}\n")
    of_gateway = next(each for each in found if each[1] == "gateway")
    assert (of_gateway[:2], of_gateway[2]) == (("pool", "gateway"), "reload")
    assert key in of_gateway[3]
    # Its default address goes where it has a socket.
    assert {each[1] for each in found} == {"gateway", *(["observer"] if key in {*OF_BOTH, "socket"} else [])}


@pytest.mark.parametrize("key", [key for key in schema.keys_of(schema.ALERT) if key != "enabled"])
def test_the_effect_of_each_key_of_an_alert(key):
    own = f"{NEEDED.get(key, '')}\n"
    reaches = "" if key in {"to", "command"} or "to =" in own else "url = https://ntfy.sh/x\n"
    before = f"[alert:ops]\n{reaches or 'to = b@example.com'}\n"
    after = f"[alert:ops]\n{'' if key == 'url' else reaches}{key} = {OF_ALERT[key]}\n{own}"
    ((kind, name, effect, keys),) = effects_of(before, after)
    assert (kind, name, effect) == ("program", "observer", "restart")
    assert f"alert:ops {key}" in keys


@pytest.mark.parametrize("key", schema.keys_of(schema.HOST))
def test_the_effect_of_each_key_of_another_host(key):
    before = {"url": "https://web2/", "token": "x"}
    texts = [
        "[gateway]\n[host:web2]\n" + "".join(f"{name} = {value}\n" for name, value in keys.items())
        for keys in (before, {**before, key: OF_HOST[key]})
    ]
    assert effects_of(*texts) == [("pool", "gateway", "reload", {f"host:web2 {key}"})]


@pytest.mark.parametrize("section", ["[gateway]\n", "[alert:ops]\nurl = https://ntfy.sh/x\n"])
def test_without_a_section_or_with_it_switched_off_there_is_no_unit(section):
    added = {each[1:3] for each in effects_of("", section)}
    assert added == {("observer", "added"), *([("gateway", "added")] if "gateway" in section else [])}
    assert effects_of("", f"{section}enabled = no\n") == []
    assert {each[2] for each in effects_of(section, f"{section}enabled = no\n")} == {"removed"}


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
