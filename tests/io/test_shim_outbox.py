"""What the shim has to say to the supervisor: in order, and not too much at once."""

from __future__ import annotations

import os
import socket

import pytest

from impetusd.shim import supervision, wire
from impetusd.shim.loop import Loop
from impetusd.shim.state import ShimState


@pytest.fixture
def shim():
    """Its state and its end of a channel, and the supervisor's end."""
    loop, state = Loop(), ShimState("life", {})
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    state.channel = ours
    with ours, theirs:
        yield state, supervision.Supervision(state, loop, None, ()), theirs
    loop.release()
    loop.epoll.close()
    os.close(loop.null)


def received(theirs):
    theirs.setblocking(False)
    messages = []
    while True:
        try:
            message, fds = wire.recv(theirs)
        except BlockingIOError:
            return messages
        messages.append((message["events"], len(fds)))
        for fd in fds:
            os.close(fd)


def test_many_events_go_in_several_messages_and_in_their_order(shim):
    state, it, theirs = shim
    events = [{"event": "gone", "process": number} for number in range(2 * supervision.AT_ONCE + 1)]
    for event in events:
        state.outbox.append((event, ()))
    it.flush()
    found = received(theirs)
    assert [len(of) for of, _ in found] == [supervision.AT_ONCE, supervision.AT_ONCE, 1]
    assert [event for of, _ in found for event in of] == events
    assert not state.outbox


def test_an_event_with_descriptors_is_alone(shim):
    state, it, theirs = shim
    for number in range(3):
        state.outbox.append(({"event": "gone", "process": number}, (1, 2) if number == 1 else ()))
    it.flush()
    assert [([event["process"] for event in of], fds) for of, fds in received(theirs)] == [([0], 0), ([1], 2), ([2], 0)]
