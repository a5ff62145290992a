"""Whatever comes in over the control socket of a daemon that runs, it goes on: nothing acts, nothing leaks."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import census
from instance import Instance, wait_for

from impetusd.core import protocol

LINES = 2000
NONSENSE: tuple[object, ...] = (
    *(None, True, -1, 1e308, "", "p", "x" * 300, "\0", "\ud800", [], {}, [[]], ["p", 7], [""], {"a": []}, ["*"] * 50),
    json.loads("[" * 100 + "]" * 100),
)


def lines(chance: random.Random) -> Iterator[bytes]:
    """Requests of which none may do anything: bytes, JSON that is none of ours, and methods with wrong parameters."""
    while True:
        method = chance.choice([*protocol.METHODS, "__class__", "", "a.b", 7])
        known = protocol.METHODS.get(method) if isinstance(method, str) else None
        looks = known is not None and known.role == protocol.VIEWER
        names = list(known.params) if known is not None else ["names"]
        params: object = {chance.choice([*names, "other"]): chance.choice(NONSENSE) for _ in range(chance.randrange(3))}
        # An operator's method acts when its parameters are right, and `watch` and `tail` take the rest of the connection.
        acts = not looks or method in {"watch", "tail"}
        if acts:
            params = {**params, "no such parameter": 1} if isinstance(params, dict) else params
        request = {"jsonrpc": "2.0", "id": chance.choice([1, "a", None, [], 1.5]), "method": method, "params": params}
        replaceable = sorted(request.keys() - {"params"} if acts else request)  # {} would be right for some
        for key in chance.sample(replaceable, chance.choice([0, 0, 0, 1, 2])):
            request[key] = chance.choice(NONSENSE)
        line = json.dumps(request).encode()
        yield chance.choice([line, line, line, line[: chance.randrange(len(line))], chance.randbytes(200)]).replace(
            b"\n", b" "
        )


def resident(pid: int) -> int:
    """Bytes of memory that are there."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def ask(path: Path, some: list[bytes], *, cut: bool) -> int:
    """Send the lines over one connection, the last without its end if `cut`; how many answers came."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        sock.sendall(b"\n".join(some) + (b"" if cut else b"\n"))
        sock.shutdown(socket.SHUT_WR)
        answers = b""
        while part := sock.recv(65536):
            answers += part
    for answer in answers.splitlines():
        assert json.loads(answer)["jsonrpc"] == "2.0"
    return answers.count(b"\n")


def test_thousands_of_requests_that_make_no_sense_change_nothing(impetusd: Instance) -> None:
    before = impetusd.start("[program:p]\ncommand = sleep 300\nmin_uptime = 0\n")
    before = impetusd.settle()
    made, chance = lines(random.Random(46)), random.Random(46)
    ask(impetusd.control_socket, [next(made) for _ in range(200)], cut=False)
    impetusd.status()
    fds, size = census.descriptors(before.supervisor), resident(before.supervisor)
    sent = 0
    while sent < LINES:
        some = [next(made) for _ in range(chance.randrange(1, 60))]
        cut = chance.random() < 0.2
        assert ask(impetusd.control_socket, some, cut=cut) == len(some) - cut
        sent += len(some)
    after = impetusd.status()
    assert (after.shim, after.supervisor, after.pids) == (before.shim, before.supervisor, before.pids)
    assert after["p"].fields | {"uptime_s": 0, "cpu_percent": 0, "memory_bytes": 0} == before["p"].fields | {
        "uptime_s": 0,
        "cpu_percent": 0,
        "memory_bytes": 0,
    }
    wait_for(
        lambda: not census.difference(census.descriptors(before.supervisor), fds),
        lambda: f"{census.difference(census.descriptors(before.supervisor), fds)} to be closed",
    )
    assert resident(before.supervisor) - size < 5 << 20
    assert "Traceback" not in impetusd.log()
    assert "failed inside impetusd" not in impetusd.log()
    assert "control:" not in impetusd.log()
