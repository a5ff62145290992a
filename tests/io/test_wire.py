"""The channel's own promises: whole messages, with their descriptors, in order, also from a peer that has died."""

from __future__ import annotations

import os
import resource
import socket

import pytest

from impetusd.shim import wire


@pytest.fixture
def pair():
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


@pytest.fixture
def pipes():
    """Makes pipes and closes them."""
    made = []

    def pipe():
        made.append(os.pipe())
        return made[-1]

    yield pipe
    for ends in made:
        for end in ends:
            os.close(end)


def open_fds():
    return len(os.listdir("/proc/self/fd"))


def same(one, other):
    return os.path.samestat(os.fstat(one), os.fstat(other))


def close(fds):
    for fd in fds:
        os.close(fd)


@pytest.mark.parametrize("size", [0, 1, wire.SHORT - 64, wire.SHORT, wire.INLINE - 32, wire.INLINE, 5_000_000])
def test_a_message_of_any_size_arrives_with_its_descriptors(pair, pipes, size):
    one, other = pair
    reader, writer = pipes()
    wire.send(one, {"text": "x" * size}, [reader, writer])
    message, fds = wire.recv(other)
    assert message == {"text": "x" * size}
    assert [same(fd, sent) for fd, sent in zip(fds, (reader, writer), strict=True)] == [True, True]
    assert not any(os.get_inheritable(fd) for fd in fds)
    close(fds)


def test_text_that_is_no_utf8_survives(pair):
    one, other = pair
    wire.send(one, {"path": os.fsdecode(b"/srv/\xff")})
    message, _ = wire.recv(other)
    assert os.fsencode(message["path"]) == b"/srv/\xff"


def test_as_many_descriptors_as_we_say_fit(pair, pipes):
    one, other = pair
    reader, _ = pipes()
    for text in ("short", "x" * (wire.INLINE + 1)):
        wire.send(one, {"text": text}, [reader] * wire.MOST_FDS)
        _, fds = wire.recv(other)
        assert len(fds) == wire.MOST_FDS
        close(fds)


def test_nothing_yet_is_not_the_end(pair):
    with pytest.raises(BlockingIOError):
        wire.recv(pair[1])


def test_a_full_buffer_is_told_and_loses_nothing(pair):
    one, other = pair
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            wire.send(one, {"number": sent, "text": "x" * 5000})
            sent += 1
    assert sent > 0
    assert [wire.recv(other)[0]["number"] for _ in range(sent)] == list(range(sent))
    wire.send(one, {"number": sent})
    assert wire.recv(other)[0]["number"] == sent


def test_what_a_peer_had_sent_arrives_after_its_death(pair):
    one, other = pair
    wire.send(one, {"number": 1})
    wire.send(one, {"number": 2})
    one.close()
    assert [wire.recv(other)[0]["number"] for _ in range(2)] == [1, 2]
    assert wire.recv(other) is None


def test_what_a_peer_had_sent_arrives_though_it_died_without_reading(pair):
    """The kernel says ECONNRESET first then, once, ahead of what is queued."""
    one, other = pair
    wire.send(other, {"never": "read"})
    wire.send(one, {"number": 1})
    wire.send(one, {"number": 2})
    one.close()
    assert [wire.recv(other)[0]["number"] for _ in range(2)] == [1, 2]
    assert wire.recv(other) is None


def test_sending_to_a_dead_peer_raises(pair):
    one, other = pair
    other.close()
    with pytest.raises(BrokenPipeError):
        wire.send(one, {})


@pytest.mark.parametrize("packet", [b"\0", b"J", b"J{", b"J[1", b"M", b"X{}", b"J\xff", b"J[]", b"J1"], ids=repr)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_nonsense_is_refused_and_leaks_nothing(pair, pipes, packet, count):
    one, other = pair
    reader, _ = pipes()  # as a memfd it cannot be read: it is none
    before = open_fds()
    socket.send_fds(one, [packet], [reader] * count)
    with pytest.raises(ValueError):
        wire.recv(other)
    assert open_fds() == before
    wire.send(one, {"still": "works"})
    assert wire.recv(other)[0] == {"still": "works"}


def test_an_older_version_sends_more_in_one_packet(pair):
    one, other = pair
    body = b'{"text":"' + b"x" * (wire.INLINE - 12) + b'"}'
    assert wire.SHORT < len(body) < wire.INLINE
    wire.send_packet(one, b"J" + body, ())
    message, fds = wire.recv(other)
    assert (len(message["text"]), fds) == (wire.INLINE - 12, [])


def test_messages_of_some_size_do_not_fill_the_channel(pair):
    one, other = pair
    for number in range(20):
        wire.send(one, {"number": number, "text": "x" * (wire.SHORT + 1)})
    assert [wire.recv(other)[0]["number"] for _ in range(20)] == list(range(20))


def test_a_packet_longer_than_any_of_ours_is_refused(pair, pipes):
    one, other = pair
    reader, _ = pipes()
    before = open_fds()
    socket.send_fds(one, [b"J" + b" " * (wire.INLINE + 1)], [reader])
    with pytest.raises(ValueError, match="cut off"):
        wire.recv(other)
    assert open_fds() == before


def test_without_a_free_descriptor_the_message_arrives_all_the_same(pair, pipes):
    """Fewer come than were sent; what the message says besides must not be lost with them."""
    one, other = pair
    reader, _ = pipes()
    wire.send(one, {"text": "short"}, [reader] * 3)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    used = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, limits[1]))
    try:
        while True:
            try:
                used.append(os.dup(reader))
            except OSError:
                break
        os.close(used.pop())
        message, fds = wire.recv(other)
        used += fds
        assert message == {"text": "short"}
        assert len(fds) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        close(used)
