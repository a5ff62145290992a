"""What people know from elsewhere: each foreign key and section is answered with ours."""

from __future__ import annotations

import pytest

from impetusd.core.config import habits, ini, schema
from impetusd.core.config.parser import parse
from impetusd.core.config.problem import ConfigError
from impetusd.linux.host import this_host

SECTIONS = {
    schema.PROGRAM: "[program:api]\ncommand = x\n",
    schema.POOL: "[pool:api]\napp = a:b\nlisten = 127.0.0.1:1\n",
    schema.TIMER: "[timer:api]\ncommand = x\n",
    schema.GROUP: "[program:a]\ncommand = x\n[group:api]\n",
    schema.IMPETUSD: "[impetusd]\n",
}
# What a program of supervisord may have, by its documentation, and an app of PM2, by its schema.
SUPERVISORD = [
    "command",
    "process_name",
    "numprocs",
    "numprocs_start",
    "priority",
    "autostart",
    "startsecs",
    "startretries",
    "autorestart",
    "exitcodes",
    "stopsignal",
    "stopwaitsecs",
    "stopasgroup",
    "killasgroup",
    "user",
    "redirect_stderr",
    "stdout_logfile",
    "stdout_logfile_maxbytes",
    "stdout_logfile_backups",
    "stdout_capture_maxbytes",
    "stdout_events_enabled",
    "stdout_syslog",
    "stderr_logfile",
    "stderr_logfile_maxbytes",
    "stderr_logfile_backups",
    "stderr_capture_maxbytes",
    "stderr_events_enabled",
    "stderr_syslog",
    "environment",
    "directory",
    "umask",
    "serverurl",
]
PM2 = [
    "script",
    "name",
    "namespace",
    "filter_env",
    "install_url",
    "cwd",
    "args",
    "exec_interpreter",
    "node_args",
    "out_file",
    "error_file",
    "log_file",
    "disable_logs",
    "log_type",
    "log_date_format",
    "time",
    "env",
    "max_memory_restart",
    "pid_file",
    "restart_delay",
    "exp_backoff_restart_delay",
    "source_map_support",
    "disable_source_map_support",
    "wait_ready",
    "instances",
    "kill_timeout",
    "shutdown_with_message",
    "listen_timeout",
    "cron_restart",
    "merge_logs",
    "vizion",
    "autostart",
    "autorestart",
    "stop_exit_codes",
    "watch_delay",
    "watch",
    "ignore_watch",
    "min_uptime",
    "max_restarts",
    "exec_mode",
    "force",
    "append_env_to_name",
    "post_update",
    "trace",
    "disable_trace",
    "v8",
    "event_loop_inspector",
    "deep_monitoring",
    "increment_var",
    "instance_var",
    "pmx",
    "automation",
    "treekill",
    "port",
    "username",
    "uid",
    "gid",
    "windowsHide",
    "kill_retry_time",
]


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, "/x/impetusd.ini", {}, this_host())
    return [each.text for each in caught.value.problems]


def of(ours: str) -> str:
    """A kind of section that takes our key."""
    return next(kind for kind in SECTIONS if not ours or ours in schema.keys_of(kind))


@pytest.mark.parametrize("key", habits.KEYS)
def test_a_foreign_key_is_answered_with_ours(key: str) -> None:
    habit = habits.KEYS[key]
    kind = of(habit.ours)
    assert key not in schema.keys_of(kind), "it is ours already"
    said = f"use {habit.ours}" if habit.ours else habit.how
    name = "impetusd" if kind == schema.IMPETUSD else f"{kind}:api"
    told = [each for each in problems(f"{SECTIONS[kind]}{key} = 1\n") if f"'{key}'" in each]
    assert len(told) == 1
    assert told[0].startswith(f"unknown key '{key}' in [{name}]: {said}"), told
    assert habit.how in told[0]


def test_no_key_of_theirs_is_unheard_of() -> None:
    assert {*SUPERVISORD, *PM2} - {*habits.KEYS, *schema.keys_of(schema.PROGRAM)} == set()


@pytest.mark.parametrize("kind", habits.SECTIONS)
def test_so_is_a_foreign_section(kind: str) -> None:
    assert f"unknown section [{kind}:x]; {habits.SECTIONS[kind]}" in problems(f"[{kind}:x]\n")


def test_where_ours_is_no_key_of_the_section_either_nothing_is_advised() -> None:
    assert "use" not in problems("[health:x]\nnumprocs = 2\n[program:x]\ncommand = x\n")[0]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10MB", 10 << 20),
        ("1GiB", 1 << 30),
        ("512k", 512 << 10),
        ("300 MB", 300 << 20),
        ("4kb", 4096),
        ("7", 7),
        ("2T", 2 << 40),
    ],
)
def test_sizes_as_others_write_them(text: str, size: int) -> None:
    assert schema.parse_size(text) == size


@pytest.mark.parametrize("text", ["10B", "1MiBs", "MB", "1iB", "1KK", "1 M B", "1EB", "1.5G", "-1M", "1BB", "1I"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        schema.parse_size(text)


def test_no_message_is_longer_than_a_line_can_be() -> None:
    assert all(len(ini.brief(habit.how, 120)) < 120 for habit in habits.KEYS.values())


def test_what_is_advised_is_taken() -> None:
    for keys in (
        "out_file = /x/log\nerror_file = /x/log\n",
        "out_file = /dev/null\nerror_file = /dev/null\n",
        "rlimits = nofile=1024\n",
    ):
        parse(f"{SECTIONS[schema.PROGRAM]}{keys}", "/x/impetusd.ini", {}, this_host())
