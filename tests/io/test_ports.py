"""Who has a port, and whose `doctor` takes it for where its processes cannot be seen."""

from __future__ import annotations

import os
import pwd
import socket
import types

import pytest

from impetusd.cli import facts
from impetusd.client import ports
from impetusd.core.config.model import Listen


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock.getsockname()[1]


def test_who_listens_is_told_by_pid_and_name(port):
    assert ports.holder(port).startswith(f"pid {os.getpid()} (")


def test_where_its_files_may_not_be_seen_by_user(port, monkeypatch):
    monkeypatch.setattr(ports.inet, "held", lambda _: {})
    assert ports.holder(port) == f"a process of user {pwd.getpwuid(os.geteuid()).pw_name}"


def test_nobody_listens_where_a_socket_is_bound_only():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        assert ports.holder(sock.getsockname()[1]) == ""


@pytest.mark.parametrize(("up", "running", "owner"), [({"web"}, 1, "impetusd"), (set(), 1, "user"), (set(), None, "user")])  # fmt: skip
def test_what_no_unit_that_is_up_holds_is_a_strangers(port, monkeypatch, up, running, owner):
    monkeypatch.setattr(ports.inet, "held", lambda _: {})
    monkeypatch.setattr(facts, "_listening", lambda: {port: [None]})
    unit = types.SimpleNamespace(name="web", backlog=1, listen=(Listen("127.0.0.1", port),))
    (found,) = facts._listeners([unit], running, up)
    assert owner in found.owner


def test_what_a_process_calls_itself_stays_on_its_line(port, monkeypatch):
    monkeypatch.setattr(ports, "_name", lambda _: "x\nimpetusd: all is well\x1b[2J")
    assert ports.holder(port) == f"pid {os.getpid()} (x?impetusd: all is well?[2J)"
