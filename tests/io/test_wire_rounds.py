"""What one round of the supervisor asks for reaches the shim as a whole, whatever moment the supervisor dies at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from impetusd.shim import wire
from impetusd.supervisor.start.link import Link
from impetusd.supervisor.start.starter import Starter

WRITER: Any = SimpleNamespace()  # no log is written here
LEDGER: Any = SimpleNamespace(due=False, sent=lambda: None)


def told(held: dict[str, int], act: Callable[[Starter], None]) -> list[tuple[dict[str, Any], int]]:
    """The messages, each with how many descriptors it brings, that `act` has a supervisor send which holds `held`."""

    async def main() -> list[tuple[dict[str, Any], int]]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            link = Link(ours, lambda _event: None)
            link.fds = held
            starter = Starter(link, WRITER, LEDGER, {}, "")
            act(starter)
            starter.outbox.flush()
            ours.shutdown(socket.SHUT_WR)
            messages = []
            while packet := wire.recv(theirs):
                messages.append((packet[0], len(packet[1])))
                for fd in packet[1]:
                    os.close(fd)
            link.close()
            starter.outbox.close()
            return messages

    return asyncio.run(main())


def dup() -> int:
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


@pytest.mark.parametrize("count", [1, wire.MOST_FDS])
def test_descriptors_records_and_operations_are_one_message(count):
    def act(starter: Starter) -> None:
        for number in range(count):
            starter.outbox.keep(f"log:{number}:out:w", dup(), ours=False)
        starter.outbox.put("slot:web:0", "a record")
        starter.outbox.ack(7)

    (message, descriptors) = only(told({}, act))
    assert descriptors == count
    assert [op["op"] for op in message["ops"]] == ["keep"] * count + ["put", "ack"]


def test_more_descriptors_than_a_message_takes_go_ahead_of_the_record():
    def act(starter: Starter) -> None:
        for number in range(2 * wire.MOST_FDS + 1):
            starter.outbox.keep(f"log:{number}:out:w", dup(), ours=False)
        starter.outbox.put("slot:web:0", "a record")

    messages = told({}, act)
    assert [descriptors for _, descriptors in messages] == [wire.MOST_FDS, wire.MOST_FDS, 1]
    assert [op["op"] for op in messages[-1][0]["ops"]] == ["keep", "put"]


def test_what_a_dead_supervisor_had_kept_and_not_recorded_is_dropped_and_its_number_not_used_again():
    """A number used again would be kept and, in the same round, dropped as what the dead one had left: no fork then."""
    held = {name: dup() for name in ("chan:4", "chan:5", "chan:5:theirs", "log:1:out:r", "log:2:out:r")}
    seen = []

    def act(starter: Starter) -> None:
        starter.continue_from(5, {1})
        seen.append(starter._next_process)

    message, _ = only(told(held, act))
    assert seen == [6]
    assert sorted(op["name"] for op in message["ops"] if op["op"] == "drop") == [
        "chan:5",
        "chan:5:theirs",
        "log:2:out:r",
    ]


@contextlib.contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = dup()
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_long_message_is_sent_when_no_descriptor_is_left():
    """As it needs one itself, it would be the last thing that was ever said."""

    def act(starter: Starter) -> None:
        starter.outbox.put("slot:web:0", "x" * 2 * wire.INLINE)
        with no_descriptor_left():
            starter.outbox.flush()

    message, _ = only(told({}, act))
    assert len(message["ops"][0]["blob"]) == 2 * wire.INLINE


def test_a_long_message_for_which_there_is_no_descriptor_is_not_lost():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        wire.send(ours, {"text": "x" * 2 * wire.INLINE})
        with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
            wire.recv(theirs)
        packet = wire.recv(theirs)
    assert packet is not None
    assert len(packet[0]["text"]) == 2 * wire.INLINE


def only(messages: list[Any]) -> Any:
    assert len(messages) == 1
    return messages[0]
