"""The method give-socket: which descriptor it takes, of whom, and for which unit."""

from __future__ import annotations

import contextlib
import os
import socket
from types import SimpleNamespace

import pytest

from impetusd.core.config import parser
from impetusd.core.config.model import Listen, Unit
from impetusd.core.protocol import ProtocolError
from impetusd.core.rules.lifecycle import State
from impetusd.interop.importing.writer import ANYWHERE
from impetusd.supervisor.api.giving import Giving


class Listeners:
    """What was given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []
        self.taken_back = 0

    def give(self, unit: Unit, address: Listen, fd: int) -> None:
        os.close(fd)
        self.given.append((unit.name, str(address)))

    def take_back(self, _unit: Unit) -> None:
        self.taken_back += 1


@pytest.fixture
def listening():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


def giving(port, state=State.STOPPED):
    text = f"[program:web]\ncommand = x\nlisten = 127.0.0.1:{port}\n"
    units = parser.parse(text, "/x/impetusd.ini", {"HOME": "/root"}, ANYWHERE).units
    listeners = Listeners()
    slots = [SimpleNamespace(slot=SimpleNamespace(state=state))]
    return Giving(lambda: units, lambda _: slots, listeners), listeners


def asked(fd, **more):
    return {"name": "web", "fd": fd, "pid": os.getpid(), **more}


def test_a_socket_of_the_process_that_asks(listening):
    method, listeners = giving(listening.getsockname()[1])
    assert method.give(asked(listening.fileno()))["ok"]
    assert listeners.given == [("web", f"127.0.0.1:{listening.getsockname()[1]}")]
    assert method.give(asked(None))["ok"]
    assert listeners.taken_back == 1


def test_what_is_refused(listening):
    port = listening.getsockname()[1]
    held = len(os.listdir("/proc/self/fd"))
    method, listeners = giving(port)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket())
        other.bind(("127.0.0.1", 0))
        datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        null = stack.enter_context(open(os.devnull, "rb"))
        cases = [
            (asked(listening.fileno(), name="db"), "no unit 'db'"),
            (asked(listening.fileno(), pid=0), "only over a direct connection"),
            (asked(99_999), "cannot take it"),
            (asked(other.fileno()), "it is not listening"),
            (asked(datagrams.fileno()), "not a TCP socket"),
            (asked(null.fileno()), "not a TCP socket"),
        ]
        for params, said in cases:
            with pytest.raises(ProtocolError, match=said):
                method.give(params)
        other.listen()
        with pytest.raises(ProtocolError, match=r"bound to 127\.0\.0\.1:\d+, which the unit's listen does not contain"):
            method.give(asked(other.fileno()))
    with pytest.raises(ProtocolError, match="it is running"):
        giving(port, State.RUNNING)[0].give(asked(listening.fileno()))
    assert not listeners.given
    assert len(os.listdir("/proc/self/fd")) == held, "what was taken is closed again"
