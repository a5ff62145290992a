"""A port shared with another process's socket, on real sockets: who gets connections, and what is left afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import traceback

import pytest

from impetusd.interop.takeover import share, sockets
from impetusd.interop.takeover.share import Share
from impetusd.linux import getfd

SERVER = """
import socket, sys
family, host = (socket.AF_INET6, "::") if sys.argv[1] == "6" else (socket.AF_INET, "127.0.0.1")
sock = socket.socket(family)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind((host, 0))
sock.listen(128)
print(sock.getsockname()[1], sock.fileno(), flush=True)
while True:
    connection, _ = sock.accept()
    connection.sendall(b"theirs")
    connection.close()
"""


class Server:
    """Another process, which answers b"theirs"."""

    def __init__(self, family: str, user: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-c", SERVER, family],
            stdout=subprocess.PIPE,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        assert self.process.stdout is not None
        self.port, self.number = map(int, self.process.stdout.readline().split())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(params=["4", "6"])
def server(request):
    found = Server(request.param)
    yield found
    found.end()


def answers(port: int, ours: socket.socket, count: int = 50) -> set[bytes]:
    """Who answers so many clients: ours are accepted here."""
    ours.setblocking(False)
    found = set()
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), 30) as client:
            with contextlib.suppress(BlockingIOError):
                connection, _ = ours.accept()
                connection.sendall(b"ours")
                connection.close()
            found.add(client.recv(10))
    return found


def is_shared(server: Server) -> bool:
    with socket.socket(fileno=getfd.of(server.process.pid, server.number)) as copy:
        return bool(copy.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT))


def test_connections_go_where_they_are_sent(server):
    shared = Share(server.process.pid, server.number)
    shared.open()
    assert answers(server.port, shared.ours) == {b"theirs"}
    shared.to_ours()
    assert answers(server.port, shared.ours) == {b"ours"}
    shared.to_theirs()
    assert answers(server.port, shared.ours) == {b"theirs"}
    shared.to_ours()
    ours = shared.ours.dup()
    with ours:
        server.end()
        assert answers(server.port, ours) == {b"ours"}
        shared.close(undone=False)
        assert answers(server.port, ours) == {b"ours"}
        assert not ours.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT), "nobody else can bind beside it"


def test_undone_the_old_one_is_as_it_was(server):
    shared = Share(server.process.pid, server.number)
    shared.open()
    shared.to_ours()
    shared.close(undone=True)
    assert not is_shared(server)
    with socket.socket() as nobody:
        assert answers(server.port, nobody_accepts(nobody)) == {b"theirs"}


def nobody_accepts(sock: socket.socket) -> socket.socket:
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def test_a_second_take_over_of_the_same_port(server):
    """The socket of one that was killed lives on in the supervisor, and is closed when the next is given."""
    first = Share(server.process.pid, server.number)
    first.open()
    first.to_ours()
    second = Share(server.process.pid, server.number)
    second.open()
    first.let_go()
    assert answers(server.port, second.ours) == {b"theirs"}
    second.to_ours()
    assert answers(server.port, second.ours) == {b"ours"}
    second.close(undone=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has no other")
def test_of_another_user():
    server = Server("6", 65534)
    try:
        shared = Share(server.process.pid, server.number)
        shared.open()
        shared.to_ours()
        assert answers(server.port, shared.ours) == {b"ours"}
        shared.close(undone=True)
    finally:
        server.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user is one already")
def test_as_an_ordinary_user():
    server = Server("6", 65534)
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            shared = Share(server.process.pid, server.number)
            shared.open()
            assert answers(server.port, shared.ours) == {b"theirs"}
            shared.to_ours()
            assert answers(server.port, shared.ours) == {b"ours"}
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        server.end()


def test_what_is_said_of_sockets(server, monkeypatch):
    (found,) = sockets.listening([server.process.pid])
    assert (found.port, found.pid, found.number, found.refusal) == (server.port, server.process.pid, server.number, "")
    assert sockets.listening([]) == []
    assert sockets.ports([server.process.pid]) == {server.port} == sockets.listened_on([server.port, 1])

    def forbidden(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(getfd, "of", forbidden)
    assert "ptrace_scope" in sockets.listening([server.process.pid])[0].refusal
    assert share.look(server.process.pid, server.number)[0] == sockets.listening([server.process.pid])[0].refusal


def test_connections_that_are_not_answered():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        assert sockets.unanswered([os.getpid()], {port}) == 0
        with socket.create_connection(("127.0.0.1", port)) as client:
            # Our own end is not counted: it has another port.
            assert sockets.unanswered([os.getpid()], {port}) == 1, "it is in the queue"
            accepted, _ = sock.accept()
            with accepted:
                assert sockets.unanswered([os.getpid()], {port}) == 1
                client.shutdown(socket.SHUT_WR)
                assert accepted.recv(1) == b""
                assert sockets.unanswered([os.getpid()], {port}) == 1, "it waits for its answer"
        assert sockets.unanswered([os.getpid()], {port}) == 0
