"""Roles for real: users that are somebody else, on a daemon of root, with a table of theirs in the INI."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection

import pytest
from instance import Instance, program, wait_for

from impetusd.core import protocol

pytestmark = pytest.mark.usefixtures("as_root")
# Numbers that no user of this host has, and a group that each has.
LOOKS, RUNS, RULES, MEMBER, STRANGER = 61001, 61002, 61003, 61004, 61005
GROUP = 61027
INI = f"""
[impetusd]
viewers = {{}}
operators = {RUNS}, @{GROUP}
admins = {RULES}
[program:p]
command = {program("tell_ready", "self")}
wait_ready = yes
"""
PARAMS: dict[str, dict[str, object]] = {
    "describe": {"name": "p"},
    "tail": {"name": "p"},
    "signal": {"names": ["p"], "signal": "CONT"},
    "scale": {"name": "p", "n": 1},
    "trigger": {"name": "p"},
    "reload": {"names": ["q"]},
    "disable": {"names": ["q"]},
    "enable": {"names": ["q"]},
    "env": {"name": "p"},
    "exec": {"name": "p", "command": ["id"]},
    "search": {"names": ["p"]},
    "silence": {"seconds": 1},
    "unsilence": {"id": "7"},
    "alert-test": {"name": "q"},
    "give-socket": {"name": "q", "fd": 3},
    "observer-report": {"report": {}},
}
TAKES = re.compile("requires the role|must be run as the user")
# Asks, as another user, for each method on a connection of its own; prints what was answered.
ASK = """
import json, os, socket, sys
path, uid, groups, requests = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
os.setgroups(groups); os.setgid(uid); os.setuid(uid)
for method, params in requests:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path)
        sock.sendall(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\\n")
        with sock.makefile("rb") as answers:
            for line in answers:
                if b'"progress"' not in line:
                    break
            else:
                line = b"closed"
    except PermissionError:
        line = b"denied"
    except ConnectionError:
        line = b"closed"
    print(method, line.decode().strip(), flush=True)
    sock.close()
"""


def asked(instance: Instance, uid: int, groups: Collection[int] = (), methods: Collection[str] = ()) -> dict[str, str]:
    """What each method was answered: done, refused (for the role), failed, closed or denied."""
    requests = [(method, PARAMS.get(method, {})) for method in methods or protocol.METHODS]
    arguments = [str(instance.control_socket), str(uid), json.dumps([*groups]), json.dumps(requests)]
    out = subprocess.run([sys.executable, "-c", ASK, *arguments], capture_output=True, text=True, check=True).stdout
    told = {}
    for line in out.splitlines():
        method, _, answer = line.partition(" ")
        if answer.startswith("{"):
            error = json.loads(answer).get("error")
            answer = "done" if error is None else "refused" if TAKES.search(error["message"]) else "failed"
        told[method] = answer
    return told


def open_up(instance: Instance) -> None:
    instance.root.chmod(0o755)  # mkdtemp makes it 0700


def may(role: str) -> set[str]:
    """But what is for the user alone that impetusd runs as: none of these is."""
    return {name for name, method in protocol.METHODS.items() if protocol.may(role, name) and not method.secrets}


def commands(instance: Instance) -> list[dict[str, object]]:
    return [record for record in instance.ledger() if record["kind"] == "command"]


def test_every_peer_gets_what_its_role_may_and_each_command_is_written_down(impetusd: Instance) -> None:
    open_up(impetusd)
    impetusd.start(INI.format(LOOKS))
    before = impetusd.status()["p"].pid
    peers = [(LOOKS, (), "viewer"), (RUNS, (), "operator"), (MEMBER, (4, GROUP), "operator"), (RULES, (), "admin")]
    # What ends what is asked next is left out: `stop` without a name ends the daemon, apply and upgrade hand it over.
    left_out = {"stop", "restart", "apply", "upgrade"}
    for uid, groups, role in peers:
        told = asked(impetusd, uid, groups, set(protocol.METHODS) - left_out)
        assert {name for name, answer in told.items() if answer == "refused"} == set(told) - may(role), (uid, told)
        assert set(told.values()) <= {"done", "failed", "refused"}, told
    for uid, groups in ((LOOKS, ()), (STRANGER, ())):
        told = asked(impetusd, uid, groups, left_out)
        assert set(told.values()) == {"refused" if uid == LOOKS else "denied"}
    assert asked(impetusd, STRANGER, (STRANGER, 4), ["ping"]) == {"ping": "denied"}
    assert impetusd.status()["p"].pid == before

    def complete() -> bool:
        return len([each for each in commands(impetusd) if each["uid"] in {uid for uid, _, _ in peers}]) >= expected

    # Each that was not merely a look: what was refused, too.
    per_peer = {
        role: len([n for n, m in protocol.METHODS.items() if n not in left_out and not (m.looks and n in may(role))])
        for _, _, role in peers
    }
    expected = sum(per_peer[role] for _, _, role in peers) + len(left_out)
    wait_for(complete, f"{expected} commands in the ledger")
    for uid, _, role in peers:
        own = [each for each in commands(impetusd) if each["uid"] == uid]
        assert {each["role"] for each in own} == {role}
        assert {each["method"] for each in own if each["outcome"] == "refused"} == (
            set(protocol.METHODS) - may(role) - (left_out if uid != LOOKS else set())
        )


def test_apply_changes_roles_without_touching_a_process(impetusd: Instance) -> None:
    open_up(impetusd)
    before = impetusd.start(INI.format(""))
    assert asked(impetusd, LOOKS, (), ["ping"]) == {"ping": "denied"}
    impetusd.write(INI.format(f"{LOOKS}"))
    assert f"viewers: (none) → {LOOKS}" in impetusd.run("plan", code=1, env={"LC_ALL": "C.UTF-8"}).out
    impetusd.run("apply")
    assert asked(impetusd, LOOKS, (), ["ping", "stop"]) == {"ping": "done", "stop": "refused"}
    impetusd.write(INI.format(f"@{GROUP}"))
    impetusd.run("apply")
    assert asked(impetusd, LOOKS, (), ["ping"]) == {"ping": "denied"}
    after = impetusd.status()
    assert (after.shim, after.pids) == (before.shim, before.pids)
    # And what holds is not forgotten with the supervisor, nor with the socket's file.
    impetusd.kill(after.supervisor)
    wait_for(lambda: impetusd.status().supervisor != after.supervisor, "the next supervisor")
    impetusd.control_socket.unlink()
    wait_for(impetusd.control_socket.exists, "the control socket")
    assert impetusd.status().pids == before.pids
    assert asked(impetusd, MEMBER, (GROUP,), ["ping", "start"]) == {"ping": "done", "start": "done"}
    assert asked(impetusd, LOOKS, (), ["ping"]) == {"ping": "denied"}


def may_read_logs(instance: Instance, uid: int, groups: Collection[int]) -> bool:
    """Whether a user can list log_dir, and read every log there."""
    read = "import os, sys; [open(each).close() for each in os.scandir(sys.argv[1])]"
    argv = [sys.executable, "-c", read, str(instance.root / "var/log")]
    return (
        subprocess.run(argv, user=uid, group=uid, extra_groups=groups, capture_output=True, check=False).returncode == 0
    )


def test_apply_gives_the_logs_to_a_group_without_touching_a_process(impetusd: Instance) -> None:
    open_up(impetusd)
    before = impetusd.start(INI.format(LOOKS))
    assert not may_read_logs(impetusd, MEMBER, [GROUP])
    impetusd.write(INI.format(LOOKS).replace("[program:p]", f"log_owner = :{GROUP}\n[program:p]"))
    impetusd.run("apply")
    wait_for(lambda: may_read_logs(impetusd, MEMBER, [GROUP]), "the logs to be the group's")
    assert not may_read_logs(impetusd, STRANGER, [])
    assert impetusd.status().pids == before.pids


def test_a_peer_that_the_file_system_lets_in_and_no_role_does_is_closed_and_told_why(
    impetusd: Instance, command_of_anyone: list[str]
) -> None:
    open_up(impetusd)
    impetusd.start(INI.format(LOOKS))
    impetusd.control_socket.chmod(0o666)
    assert asked(impetusd, STRANGER, (), ["ping"]) == {"ping": "closed"}
    told = subprocess.run(
        [*command_of_anyone, "-c", str(impetusd.conf), "status"],
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        env=impetusd.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 1
    assert told.stderr.startswith("impetusd closed the connection without a response, ")
    assert f" user {STRANGER} has no role; " in told.stderr


def test_the_command_line_serves_a_viewer_and_tells_it_what_it_may_not(
    impetusd: Instance, command_of_anyone: list[str]
) -> None:
    open_up(impetusd)
    impetusd.start(INI.format(LOOKS))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*command_of_anyone, "-c", str(impetusd.conf), *arguments]
        how: dict[str, object] = {"user": LOOKS, "group": LOOKS, "extra_groups": [], "env": impetusd.environ}
        return subprocess.run(command, capture_output=True, text=True, check=False, **how)  # type: ignore[call-overload,no-any-return]

    assert run("status").returncode == 0
    refused = run("restart", "p")
    assert refused.returncode == 1
    assert "restart requires the role operator, but yours is viewer; see [impetusd] in the INI file" in refused.stderr
