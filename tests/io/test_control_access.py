"""Who the kernel says a peer is, and whom the control socket's file lets in."""

from __future__ import annotations

import errno
import os
import socket
import stat

import pytest

from impetusd.core.access import ACL, Person
from impetusd.supervisor.api.control import Peer
from impetusd.supervisor.start.sockets import bind_unix, set_acl

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
ALICE = Person("viewer", "alice", 61001, frozenset({61001}))
OPS = Person("operator", "@ops", None, frozenset({61027}))


def in_child(body):
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if body() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_root
@pytest.mark.parametrize("count", [0, 3, 256, 3000])
def test_all_groups_of_a_peer_are_known_however_many(count):
    groups = range(70000, 70000 + count)

    def body():
        os.setgroups(list(groups))
        os.setgid(61002)
        os.setuid(61001)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            peer = Peer.of(ours)
            return (peer.uid, peer.gid, peer.groups) == (61001, 61002, {61002, *groups})

    in_child(body)


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "control.sock")
    with bind_unix(path):
        yield path


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_the_socket_is_its_owners_alone_when_nobody_has_a_role(path):
    assert set_acl(path, []) == ""
    assert mode(path) == 0o600
    assert ACL not in os.listxattr(path)


def test_who_loses_the_role_is_out_again(path):
    assert set_acl(path, [ALICE, OPS]) == ""
    assert ACL in os.listxattr(path)
    assert set_acl(path, []) == ""
    assert mode(path) == 0o600
    assert ACL not in os.listxattr(path)


class TestWithoutAccessLists:
    @pytest.fixture(autouse=True)
    def without(self, monkeypatch):
        def setxattr(*_args, **_kwargs):
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

        monkeypatch.setattr(os, "setxattr", setxattr)

    @needs_root
    def test_a_single_group_gets_the_socket(self, path):
        assert set_acl(path, [OPS, Person("admin", "root", 0, frozenset({0}))]) == ""
        assert (mode(path), os.stat(path).st_gid) == (0o660, 61027)
        assert set_acl(path, []) == ""
        assert mode(path) == 0o600

    def test_of_more_nobody_gets_it_and_that_is_told(self, path):
        assert "so alice, @ops cannot be given access" in set_acl(path, [ALICE, OPS])
        assert mode(path) == 0o600


def test_what_was_put_in_the_sockets_place_is_left_alone(path, tmp_path):
    other = tmp_path / "other"
    other.write_text("")
    other.chmod(0o604)
    os.unlink(path)
    for plant in (lambda: os.symlink(other, path), lambda: os.link(other, path)):
        plant()
        assert "is no longer the socket that was created there" in set_acl(path, [ALICE])
        os.unlink(path)
        assert mode(other) == 0o604
