"""`impetusd doctor` on this host: it finds what was put wrong on purpose, and says so at 80 columns."""

from __future__ import annotations

import json
import os
import re
import socket

from instance import Instance, program

INI = """
[impetusd]
viewers = {viewer}
[program:web]
command = {command}
wait_ready = yes
listen = 127.0.0.1:{port}
"""


def test_what_was_put_wrong_is_found_and_nothing_is_touched(impetusd: Instance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        impetusd.write(INI.format(viewer="61001", command=program("tell_ready", "self"), port=port))
        impetusd.root.chmod(0o702)
        told = impetusd.run("doctor", code=1).out
        assert max(map(len, told.splitlines())) <= 80
        flat = " ".join(told.split())
        assert re.search(rf"web listens on 127\.0\.0\.1:{port}, which is in use by \S+ \(pid {os.getpid()}\)", flat)
        assert f"{impetusd.conf}: every user can write to the folder {impetusd.root}" in flat
        assert f"viewer 61001 cannot reach the control socket because of {impetusd.root} (mode 0702)" in flat
        assert impetusd.members() == []
        assert not (impetusd.root / "var").exists()


def test_of_what_runs_its_own_port_is_no_trouble(impetusd: Instance) -> None:
    impetusd.root.chmod(0o755)
    impetusd.start(INI.format(viewer="61001", command=program("tell_ready", "self"), port=impetusd.port()))
    found = json.loads(impetusd.run("doctor", "--json", code=None).out)["findings"]
    levels = {each["subject"]: each["level"] for each in found}
    assert [levels[subject] for subject in ("configuration", "ports", "roles", "permissions")] == ["ok"] * 4
    assert {each["level"] for each in found if each["subject"] == "kernel"} <= {"ok", "warn"}


def test_a_file_with_a_mistake_is_no_reason_not_to_look(impetusd: Instance) -> None:
    impetusd.write("[program:web]\ncommand = true\ncomand = true\n")
    told = impetusd.run("doctor", code=1).out
    assert "unknown key 'comand'" in " ".join(told.split())
    assert "kernel" in told


def test_an_ordinary_user_is_told_of_a_port_that_another_user_has(ordinary: Instance) -> None:
    """Also while impetusd runs: what it does not hold, though its processes cannot be told from others', is a stranger's."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = INI.format(viewer="61001", command=program("tell_ready", "self"), port=port)
        ordinary.write(f"{text}retry_after = 1h\nmax_restarts = 0\n")
        ordinary.run("start", code=1)
        flat = " ".join(ordinary.run("doctor", code=1).out.split())
        who = "a process of user root" if os.geteuid() == 0 else rf"\S+ \(pid {os.getpid()}\)"
        assert re.search(rf"web listens on 127\.0\.0\.1:{port}, which is in use by {who}", flat)
