"""Where programs notify: who gets there, and that no address dies with those who listen at it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from attacker import as_user

from impetusd.core.config.location import Paths
from impetusd.supervisor.start import notify_sockets
from impetusd.supervisor.start.notify_sockets import OF_UNIT, OLD, SINGLE, NotifySockets, folder_for

BOB, CAROL = 61001, 61002
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about other users")


class Life:
    """One supervisor's, on what the shim holds: a starter and a Notify as far as they are needed."""

    def __init__(self, shim, units=("api", "web"), processes=()):
        self.shim = shim
        self.heard: dict[str, socket.socket] = {}
        held = {name: os.dup(fd) for name, fd in shim.fds.items()}
        self.take = lambda name: held.pop(name, None)
        self.sockets = NotifySockets(self, shim.paths, self)
        self.sockets.resume(dict(shim.blobs), units, processes)

    def keep_now(self, name, fd, blob):
        self.drop(name)
        self.shim.fds[name] = os.dup(fd)
        self.put(name, blob)

    def put(self, key, blob):
        self.shim.blobs[key] = blob
        if blob is None:
            del self.shim.blobs[key]

    def drop(self, name):
        if name in self.shim.fds:
            os.close(self.shim.fds.pop(name))

    def listen(self, name, sock):
        self.unlisten(name)
        sock.setblocking(False)
        self.heard[name] = sock

    def unlisten(self, name):
        if name in self.heard:
            self.heard.pop(name).close()

    def drain(self, name):
        pass

    def die(self):
        for name in list(self.heard):
            self.unlisten(name)

    def hears(self, address, message=b"READY=1"):
        """By which of its sockets what is sent there is heard."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(message, "\0" + address[1:] if address.startswith("@") else address)
        for name, heard in self.heard.items():
            try:
                assert heard.recv(100) == message
            except BlockingIOError:
                continue
            return name
        return None


@pytest.fixture
def shim():
    with tempfile.TemporaryDirectory(prefix="impn", dir="/tmp") as name:
        os.chmod(name, 0o755)
        paths = Paths(f"{name}/x.ini", name, f"{name}/run", name, f"{name}/log")
        shim = SimpleNamespace(fds={}, blobs={}, paths=paths)
        yield shim
        if (folder := folder_for(paths, BOB)).startswith("/run/"):
            shutil.rmtree(folder, ignore_errors=True)
        for fd in shim.fds.values():
            os.close(fd)


def killed(shim):
    """The shim, too: what it remembers is in its table, what it held is gone."""
    for fd in shim.fds.values():
        os.close(fd)
    shim.fds.clear()


def test_each_unit_has_its_own_and_it_is_the_same_for_each_supervisor(shim):
    one = Life(shim)
    addresses = [one.sockets.address(unit, os.geteuid()) for unit in ("api", "web", "api")]
    assert addresses == [f"{shim.paths.run_dir}/notify/{unit}" for unit in ("api", "web", "api")]
    assert [one.hears(address) for address in addresses] == ["api", "web", "api"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"READY=1", addresses[0])
    one.die()
    two = Life(shim)
    assert two.heard["api"].recv(100) == b"READY=1"  # it waited in what the shim holds
    two.die()
    killed(shim)
    three = Life(shim)
    assert [three.hears(address) for address in addresses] == ["api", "web", "api"]
    three.sockets.close()
    assert (shim.fds, shim.blobs, os.path.exists(f"{shim.paths.run_dir}/notify")) == ({}, {}, False)


def test_what_somebody_removed_is_made_again(shim):
    life = Life(shim)
    address = life.sockets.address("api", os.geteuid())
    os.unlink(address)
    assert life.sockets.address("api", os.geteuid()) == address
    assert life.hears(address) == "api"
    os.unlink(address)
    os.rmdir(os.path.dirname(address))
    life.sockets.restore()
    assert life.hears(address) == "api"
    life.die()


def test_that_of_a_unit_that_is_no_more_goes(shim):
    one = Life(shim)
    address = one.sockets.address("web", os.geteuid())
    one.die()
    Life(shim, units=("api",)).die()
    assert (shim.fds, shim.blobs, os.path.exists(address)) == ({}, {}, False)


def test_a_long_name_has_a_short_path(shim):
    life = Life(shim, units=("x" * 100, "x" * 99 + "y"))
    addresses = {life.sockets.address(unit, os.geteuid()) for unit in ("x" * 100, "x" * 99 + "y")}
    assert len(addresses) == 2
    assert all(len(address) <= 107 and life.hears(address) for address in addresses)
    life.die()


@as_root
class TestWhoGetsThere:
    def say(self, address, uid):
        def act():
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"READY=1", address)

        return as_user(uid, act)

    def test_its_user_and_nobody_else(self, shim):
        life = Life(shim)
        of_bob, of_root = life.sockets.address("api", BOB), life.sockets.address("web", 0)
        assert self.say(of_bob, BOB) == ""
        assert life.heard["api"].recv(100) == b"READY=1"
        for address, uid in ((of_bob, CAROL), (of_root, BOB), (of_root, CAROL)):
            assert "PermissionError" in self.say(address, uid)
        assert life.sockets.address("api", CAROL) == of_bob  # after an apply that changed `user`
        assert "PermissionError" in self.say(of_bob, BOB)
        assert self.say(of_bob, CAROL) == ""
        life.die()

    def test_also_from_below_a_folder_that_only_root_gets_to(self, shim):
        os.chmod(shim.paths.base_dir, 0o700)
        life = Life(shim)
        address = life.sockets.address("api", BOB)
        assert address.startswith("/run/impetusd-")
        assert self.say(address, BOB) == ""
        assert "PermissionError" in self.say(address, CAROL)
        of_root = life.sockets.address("web", 0)
        assert of_root == f"{shim.paths.run_dir}/notify/web"
        life.sockets.merge(())  # for another version: these are in two folders
        assert (self.say(address, BOB), self.say(of_root, 0)) == ("", "")
        life.die()
        again = Life(shim)
        assert (again.hears(address), again.hears(of_root)) == ("api", "web")
        again.sockets.close()
        assert not os.path.exists(os.path.dirname(address))
        assert not os.path.exists(os.path.dirname(of_root))

    def test_a_link_in_its_place_is_not_followed(self, shim):
        life = Life(shim)
        address = life.sockets.address("api", BOB)
        os.unlink(address)
        os.symlink("/etc/passwd", f"{address}.new")
        life.sockets.address("api", BOB)
        assert os.stat("/etc/passwd").st_uid == 0
        assert life.hears(address) == "api"
        life.die()


class TestOtherVersions:
    """One that knows a single socket: `notify` in the shim's store, its address in the shim's memory."""

    def single(self, shim):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(f"\0impetusd/{os.urandom(8).hex()}")
        shim.fds[SINGLE] = sock.detach()
        with socket.socket(fileno=os.dup(shim.fds[SINGLE])) as sock:
            shim.blobs[SINGLE] = f"@{sock.getsockname()[1:].decode()}"
        return shim.blobs[SINGLE]

    def test_what_it_started_is_heard_until_the_last_has_ended(self, shim):
        address = self.single(shim)
        one = Life(shim, processes=(3, 5))
        new = one.sockets.address("api", os.geteuid())
        assert (one.hears(new), one.hears(address)) == ("api", notify_sockets.ALL)
        one.sockets.ended(3)
        one.die()
        two = Life(shim, processes=(5, 6, 7))
        assert two.hears(address) == notify_sockets.ALL
        two.die()
        killed(shim)
        three = Life(shim, processes=(5, 7))
        assert (three.hears(address), three.hears(new)) == (notify_sockets.ALL, "api")
        three.sockets.ended(5)
        assert SINGLE not in three.shim.fds.keys() | three.shim.blobs.keys() | three.heard.keys()
        three.die()

    def test_with_nothing_running_none_is_kept(self, shim):
        self.single(shim)
        Life(shim).die()
        assert (shim.fds, shim.blobs) == ({}, {})

    def test_taking_over_hears_at_its_single_one_what_has_its_own(self, shim):
        one = Life(shim, processes=(1, 2))
        addresses = [one.sockets.address(unit, os.geteuid()) for unit in ("api", "web")]
        one.sockets.merge((1, 2))
        one.die()
        with socket.socket(fileno=os.dup(shim.fds[SINGLE])) as old:  # all that it knows of
            for address in addresses:
                with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                    sock.sendto(address.encode(), address)
                assert old.recv(200) == address.encode()
            known = old.getsockname()
        shim.blobs[SINGLE] = known  # as it writes it down itself
        two = Life(shim, processes=(1, 2, 3))  # and back: 3 was started by it
        assert [two.hears(address) for address in addresses] == ["api", "web"]
        assert two.hears(known) == notify_sockets.ALL
        assert json.loads(shim.blobs[OLD]) == [3, 4]
        two.sockets.ended(3)
        assert not os.path.exists(known)
        two.die()
        assert set(shim.fds) == {f"{OF_UNIT}api", f"{OF_UNIT}web"}


def test_an_ordinary_user_with_a_long_path_has_one_for_all(shim, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: BOB)
    shim.paths = shim.paths._replace(run_dir="/tmp/" + "x" * 90)
    assert folder_for(shim.paths, BOB) == ""
    life = Life(shim)
    address = life.sockets.address("api", BOB)
    assert address == life.sockets.address("web", BOB) == shim.blobs[SINGLE]
    life.die()
    again = Life(shim, processes=(4,))
    assert again.sockets.address("api", BOB) == address
    again.sockets.ended(4)
    assert again.hears(address) == notify_sockets.ALL  # others were told of it since
    again.sockets.close()
    assert (shim.fds, shim.blobs, Path(shim.paths.run_dir).exists()) == ({}, {}, False)
