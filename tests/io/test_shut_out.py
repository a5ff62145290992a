"""Who may still get into the queue of a TCP socket that is about to be closed: the filter, run by the kernel."""

from __future__ import annotations

import array
import socket
import struct

import pytest

from impetusd.supervisor.start import sockets

FIN, SYN, ACK, PSH = 0x01, 0x02, 0x10, 0x08


def header(flags: int) -> bytes:
    """A TCP header without options."""
    return struct.pack("!HHIIBBHHH", 4711, 80, 1, 2, 5 << 4, flags, 1024, 0, 0)


@pytest.mark.parametrize(
    ("flags", "taken"), [(SYN, False), (ACK, True), (PSH | ACK, True), (FIN | ACK, True), (SYN | ACK, True)]
)
def test_only_a_new_connection_is_kept_out(flags: int, taken: bool) -> None:
    """A datagram socket's filter begins where its data do, as a TCP socket's begins at the header."""
    program = array.array("B", b"".join(struct.pack("HBBI", *each) for each in sockets.ONLY_KNOWN))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        theirs.setsockopt(
            socket.SOL_SOCKET,
            sockets.SO_ATTACH_FILTER,
            struct.pack("HP", len(sockets.ONLY_KNOWN), program.buffer_info()[0]),
        )
        theirs.setblocking(False)
        try:
            ours.send(header(flags))
            said = theirs.recv(64)
        except (BlockingIOError, PermissionError):  # it was kept out
            said = b""
    assert bool(said) is taken


def test_a_listening_socket_that_is_shut_lets_nobody_in() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        sockets.drop_new_connections(listener.fileno())
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.connect(listener.getsockname())
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
