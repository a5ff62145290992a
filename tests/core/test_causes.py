"""Known errors: what they mean, and what to type to see for oneself."""

from __future__ import annotations

import pytest

from impetusd.core import causes


@pytest.mark.parametrize(
    ("said", "hint", "command"),
    [
        ("ModuleNotFoundError: No module named 'shop.db'", "no module shop.db", ""),
        ("/usr/bin/python3: No module named shop", "no module shop", ""),
        ("listening on 127.0.0.1:8080 failed: Address already in use", "its port", "ss -ltnp 'sport = :8080'"),
        ("error while attempting to bind on address ('0.0.0.0', 80): address already in use", "port", "ss -ltnp 'sport = :80'"),
        ("OSError: [Errno 98] Address already in use", "its address", "ss -lnp"),
        ("cp: error writing '/srv/x.tar': No space left on device", "disk is full", "df -h /srv/x.tar"),
        ("OSError: [Errno 28] No space left on device: '/var/x'", "disk is full", "df -h /var/x"),
        ("OSError: [Errno 28] No space left on device", "a disk is full", "df -h"),
        ("executing /srv/run failed: Permission denied", "not executable", "namei -l /srv/run"),
        ("PermissionError: [Errno 13] Permission denied: '/etc/shadow'", "", "namei -l /etc/shadow"),
        ("cat: /etc/shadow: Permission denied", "", "namei -l /etc/shadow"),
        ("executing /srv/run failed: No such file or directory", "interpreter", "ls -l /srv/run"),
        ("reading env_file /srv/env failed: No such file or directory", "", "ls -l /srv/env"),
        ("Connect call failed ('127.0.0.1', 5432)", "nothing listens at 127.0.0.1, port 5432", "nc -vz 127.0.0.1 5432"),
        (
            'connection to server at "db.example", port 5432 failed: Connection refused',
            "nothing listens at db.example, port 5432",
            "nc -vz db.example 5432",
        ),
        ("redis:6379: Connection refused", "nothing listens at redis, port 6379", "nc -vz redis 6379"),
        ("ConnectionRefusedError: [Errno 111] Connection refused", "does not listen", ""),
        ("socket.gaierror: [Errno -2] Name or service not known", "cannot be looked up", "resolvectl status"),
        ("looking up user and group failed: getpwnam(): name not found: 'shop'", "user is not there", "getent passwd shop"),
        ("killed by SIGKILL (out of memory: the kernel killed it)", "max_memory_restart", "journalctl -k --grep 'Killed process'"),
        ("OSError: [Errno 24] Too many open files", "rlimits = nofile", ""),
    ],
)  # fmt: skip
def test_what_is_known(said, hint, command):
    found = causes.advice(["first", said, "then it ended"])
    assert hint in found.hint
    assert bool(hint) == bool(found.hint)
    assert [what for what, _ in found.commands] == ([command] if command else [])


def test_the_last_line_that_is_known_counts():
    assert "port" in causes.advice(["No module named 'x'", "bind: 127.0.0.1:80: address already in use"]).hint


def test_of_what_nobody_knows_nothing_is_guessed():
    assert causes.advice(["ValueError: no"]) == causes.Advice()


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ([], ""),
        (["", "  "], ""),
        (["Traceback:", '  File "x"', "ValueError: no", ""], "ValueError: no"),
        (["panic: oh", "  goroutine 1"], "panic: oh"),
        (["  only this"], "only this"),
    ],
)
def test_the_line_that_names_the_error(lines, line):
    assert causes.telling(lines) == line


def test_where_it_hung_is_the_first_frame_of_the_main_thread():
    stacks = ["Fatal Python error: Aborted", "", "Thread 0x1 (most recent call first):", '  File "/a.py", line 1 in other', "",
              "Current thread 0x2 (most recent call first):", '  File "/b.py", line 6 in look_up', '  File "/c.py", line 9 in main']  # fmt: skip
    assert causes.stuck(stacks) == "in look_up, /b.py line 6"
    assert causes.stuck(["nothing"]) == ""


def test_what_the_shell_means():
    assert "not find" in causes.of_exit_code(127)
    assert causes.of_exit_code(1) == causes.of_exit_code(None) == ""
