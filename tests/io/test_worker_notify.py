"""What a worker tells when nobody listens for long: in order, each thing once, and never by waiting."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest
from waiting import until

from impetusd.worker.heartbeat import Heartbeat
from impetusd.worker.notify import Notifier


@pytest.fixture
def receiver(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("notify")
        sock.setblocking(False)
        yield sock


@pytest.fixture
def notifier():
    made = []

    def make(path: str) -> Notifier:
        made.append(Notifier(path))
        return made[-1]

    yield make
    for each in made:
        if each._socket is not None:
            each._socket.close()


def _received(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(100))
        except BlockingIOError:
            return found


def _fill(notify: Notifier) -> None:
    """Different messages until one has to wait."""
    number = 0
    while not notify.waiting:
        notify(f"N={number}")
        number += 1


async def _received_until(sock: socket.socket, last: bytes) -> list[bytes]:
    found: list[bytes] = []

    def came() -> bool:
        found.extend(_received(sock))
        return last in found

    await until(came, f"{last!r}")
    return found


def test_what_waits_to_be_told_is_told_once_and_in_order(receiver, notifier):
    async def scenario():
        notify = notifier("notify")
        _fill(notify)
        for _ in range(3):
            notify("WATCHDOG=1")
            notify("STOPPING=1")
        told = await _received_until(receiver, b"STOPPING=1")
        assert told[-2:] == [b"WATCHDOG=1", b"STOPPING=1"]
        assert told[:-2] == [b"N=%d" % number for number in range(len(told) - 2)]
        notify("WATCHDOG=1")  # what has been told may be told again
        assert await _received_until(receiver, b"WATCHDOG=1") == [b"WATCHDOG=1"]

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.ENOMEM])
def test_a_kernel_without_memory_loses_nothing(receiver, notifier, monkeypatch, error):
    class Short(socket.socket):
        failures = 2

        def sendto(self, *arguments):
            if Short.failures:
                Short.failures -= 1
                raise OSError(error, os.strerror(error))
            return super().sendto(*arguments)

    async def scenario():
        monkeypatch.setattr(socket, "socket", Short)
        notify = notifier("notify")
        notify("READY=1")
        assert await _received_until(receiver, b"READY=1") == [b"READY=1"]

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["", "nobody", "x" * 200])
def test_nobody_to_tell_leaves_nothing_waiting(tmp_path, notifier, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    notify = notifier(path)
    notify("READY=1")
    assert not notify.waiting


def test_no_watchdog_no_beat():
    heartbeat = Heartbeat(0, Notifier(""))
    heartbeat.start()  # it would need a running loop
    assert heartbeat.stuck() == 0
