"""The shim after a killed one takes descriptors out of survivors, of whom any may be hostile."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from types import SimpleNamespace

import pytest

from impetusd.linux import getfd, proc
from impetusd.shim import descriptors, table

NOBODY = 65534


@contextlib.contextmanager
def survivor(act, uid=None, without=None):
    """A process that calls `act` for ever, as `uid` and `without` a descriptor; as the shim knows it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if without is not None:
                os.close(without)
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            os.write(writer, b"!")
            while True:
                act()
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    pidfd = os.pidfd_open(pid)
    try:
        yield SimpleNamespace(pid=pid, pidfd=pidfd)
    finally:
        os.close(pidfd)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def pipe():
    reader, writer = os.pipe2(os.O_CLOEXEC)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def search(kept, *survivors):
    found = descriptors.Search(kept)
    found.within(survivors)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to lose")
def test_a_survivor_that_puts_another_file_at_the_number_gains_nothing(pipe, tmp_path):
    """It needs no right to the file for that: an O_PATH descriptor will do, and the shim is root."""
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    others = [os.open(path, os.O_PATH) for path in (secret, fifo)]
    reader, writer = pipe
    spare = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 500)  # looked at after the number that is played with

    def flip():
        for other in others:
            os.dup2(other, writer)
            os.dup2(spare, writer)

    ours = table.ident(writer)
    with survivor(flip, NOBODY, without=reader) as hostile:
        for _ in range(2000):
            kept = {"out:w": ours, "out:r": [*ours[:2], os.O_RDONLY]}
            found = search(kept, hostile).found
            for name, fd in found.items():
                assert table.ident(fd) == kept[name]
                os.close(fd)
    for fd in (*others, spare):
        os.close(fd)


def test_both_ends_of_a_pipe_are_found_by_either_and_are_ours_alone(pipe):
    """What the survivor does with the flags of its own end is nothing to ours."""
    reader, writer = pipe
    kept = {"r": table.ident(reader), "w": table.ident(writer)}
    for keep in pipe:

        def hold(keep=keep):
            for fd in pipe:
                if fd != keep:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            os.set_blocking(keep, False)
            signal.pause()

        with survivor(hold) as alive:
            found = search(kept, alive).found
            assert {name: table.ident(fd) for name, fd in found.items()} == kept
            assert os.get_blocking(found["w"])
            os.write(found["w"], b"x")
            assert os.read(reader, 1) == b"x"
            for fd in found.values():
                os.close(fd)


def test_a_socket_is_copied_and_a_descriptor_of_another_mode_is_not_taken(pipe):
    listener = socket.create_server(("127.0.0.1", 0))
    kept = {"listen": table.ident(listener.fileno()), "log": [*table.ident(listener.fileno())[:2], os.O_RDONLY]}
    with listener, survivor(signal.pause) as alive:
        found = search(kept, alive).found
        assert list(found) == ["listen"]
        with socket.socket(fileno=found["listen"]) as copy:
            assert copy.getsockname() == listener.getsockname()


@pytest.mark.parametrize("same", [True, False])
def test_where_nothing_may_be_copied_pipes_of_our_own_user_are_found_all_the_same(pipe, monkeypatch, same):
    """As with Yama, of an ordinary user's daemon. Of another user's process nothing is opened by its path."""

    def refused(pidfd, number):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(getfd, "by_pidfd", refused)
    if not same:
        monkeypatch.setattr(proc, "is_our_equal", lambda pid: False)
    reader, writer = pipe
    kept = {"r": table.ident(reader), "w": table.ident(writer)}
    with survivor(signal.pause) as alive:
        looked = search(kept, alive)
        assert {name: table.ident(fd) for name, fd in looked.found.items()} == (kept if same else {})
        assert looked.barred == ([] if same else [alive.pid])
        for fd in looked.found.values():
            os.close(fd)
