"""What root goes by, other users cannot write, bend, or have it wait for."""

from __future__ import annotations

import errno
import os
import socket
import struct
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from attacker import as_user

from impetusd.core.access import ACL
from impetusd.core.config.parser import parse
from impetusd.core.trust import Trust
from impetusd.files import source, vetted
from impetusd.linux.host import this_host
from impetusd.supervisor.start.childspec import CannotStart, read_env_files

BOB, CAROL = 61001, 61002
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it is about files that only root may touch")


def plant(uid, act):
    """As this user."""
    assert as_user(uid, act) == ""


@pytest.fixture
def world():
    """A folder that everybody gets to, with Bob's and Carol's homes in it, and a secret of root's."""
    with tempfile.TemporaryDirectory(prefix="vetted", dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o711)
        for name, uid in (("bob", BOB), ("carol", CAROL)):
            (root / name).mkdir()
            os.chown(root / name, uid, uid)
        (root / "etc").mkdir()
        (root / "etc/secret.env").write_text("PASSWORD=hunter2\n")
        (root / "etc/secret.env").chmod(0o600)
        (root / "etc/public.env").write_text("PLACE=here\n")
        yield root


def owned(path, text, uid, mode=0o644):
    path.write_text(text)
    os.chown(path, uid, uid)
    path.chmod(mode)
    return path


def read(path, trust):
    return vetted.read(str(path), 1000, trust)


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *each) for each in entries)


ANYONE = 0xFFFFFFFF
BOB_WRITES = acl((1, 7, ANYONE), (2, 6, BOB), (4, 5, ANYONE), (16, 7, ANYONE), (32, 5, ANYONE))


class TestAsTheUsersRights:
    """Root reads on behalf of a user: what that user may not read is not read for it."""

    def test_a_link_of_its_own_leads_where_it_may_go_itself(self, world):
        at = world / "bob/app.env"
        plant(BOB, lambda: at.symlink_to(world / "etc/public.env"))
        assert read(at, Trust(BOB)) == (b"PLACE=here\n", None)

    @pytest.mark.parametrize("how", ["absolute", "relative", "folder", "two", "hard link"])
    def test_and_not_to_the_secret_of_another(self, world, how):
        at, secret = world / "bob/app.env", world / "etc/secret.env"
        if how == "absolute":
            plant(BOB, lambda: at.symlink_to(secret))
        elif how == "relative":
            plant(BOB, lambda: at.symlink_to("../etc/secret.env"))
        elif how == "folder":
            plant(BOB, lambda: (world / "bob/conf").symlink_to("../etc"))
            at = world / "bob/conf/secret.env"
        elif how == "two":
            (world / "current").symlink_to(secret)  # one of root's, at which Bob's leads
            plant(BOB, lambda: at.symlink_to(world / "current"))
        else:
            at.hardlink_to(secret)  # where fs.protected_hardlinks is 0, Bob may
        with pytest.raises(PermissionError, match="user 61001"):
            read(at, Trust(BOB))

    def test_nor_through_a_folder_that_it_may_not_search(self, world):
        owned(world / "etc/bobs.env", "A=1", BOB)
        (world / "etc").chmod(0o700)
        plant(BOB, lambda: (world / "bob/app.env").symlink_to(world / "etc/bobs.env"))
        with pytest.raises(PermissionError):
            read(world / "bob/app.env", Trust(BOB))
        assert read(world / "etc/bobs.env", Trust(BOB)) == (b"A=1", None)  # which root itself named, it may have

    def test_groups_and_access_lists_count_as_for_the_kernel(self, world):
        secret = world / "etc/secret.env"
        plant(BOB, lambda: (world / "bob/app.env").symlink_to(secret))
        os.chown(secret, 0, 777)
        secret.chmod(0o640)
        with pytest.raises(PermissionError):
            read(world / "bob/app.env", Trust(BOB, frozenset({BOB})))
        assert read(world / "bob/app.env", Trust(BOB, frozenset({BOB, 777})))[1] is None
        os.setxattr(secret, ACL, acl((1, 6, ANYONE), (2, 4, BOB), (4, 0, ANYONE), (16, 4, ANYONE), (32, 0, ANYONE)))
        assert read(world / "bob/app.env", Trust(BOB))[1] is None

    def test_a_file_that_only_root_may_read_is_read_where_no_link_is_in_the_way(self, world):
        (world / "bob/app.env").write_text("A=1")
        (world / "bob/app.env").chmod(0o600)
        assert read(world / "bob/app.env", Trust(BOB)) == (b"A=1", None)

    def test_a_link_that_is_swapped_at_any_moment_gives_nothing_away(self, world):
        at, done = world / "bob/app.env", threading.Event()

        def swap():
            while not done.is_set():
                for target in ("../etc/public.env", "../etc/secret.env"):
                    (world / "bob/new").symlink_to(target)
                    os.lchown(world / "bob/new", BOB, BOB)
                    os.rename(world / "bob/new", at)

        thread = threading.Thread(target=swap)
        thread.start()
        try:
            for _ in range(500):
                try:
                    assert read(at, Trust(BOB)) == (b"PLACE=here\n", None)
                except (PermissionError, FileNotFoundError):
                    pass
        finally:
            done.set()
            thread.join()


class TestWhoCouldHaveWrittenIt:
    """Each case: who is trusted, what is done to /srv/x.ini, and the clause that tells of it; "" for nothing."""

    @pytest.mark.parametrize(
        ("uid", "do", "what"),
        [
            (0, lambda at: None, ""),
            (0, lambda at: os.chown(at / "x.ini", BOB, BOB), "it belongs to user 61001"),
            (BOB, lambda at: os.chown(at / "x.ini", BOB, BOB), ""),
            (CAROL, lambda at: os.chown(at / "x.ini", BOB, BOB), "it belongs to user 61001"),
            (BOB, lambda at: (at / "x.ini").chmod(0o666), "every user can write it"),
            (0, lambda at: os.chown(at, BOB, BOB), "the folder {at} belongs to user 61001"),
            (BOB, lambda at: os.chown(at, BOB, BOB), ""),
            (CAROL, lambda at: os.chown(at, BOB, BOB), "the folder {at} belongs to user 61001"),
            (0, lambda at: at.chmod(0o777), "every user can write to the folder {at}"),
            (BOB, lambda at: at.chmod(0o777), "every user can write to the folder {at}"),
            (0, lambda at: at.chmod(0o1777), ""),
            (0, lambda at: (os.chown(at, 0, 777), at.chmod(0o775)), "group 777 can write to the folder {at}"),
            (BOB, lambda at: (os.chown(at, 0, 777), at.chmod(0o775)), ""),  # one of Bob's own groups
            (0, lambda at: os.setxattr(at, ACL, BOB_WRITES), "user 61001 can write to the folder {at}"),
            (BOB, lambda at: os.setxattr(at, ACL, BOB_WRITES), ""),
            (0, lambda at: os.setxattr(at / "x.ini", ACL, BOB_WRITES), "user 61001 can write it"),
            (0, lambda at: (at.chmod(0o1777), (at / "y").hardlink_to(at / "x.ini")), "it has a second hard link"),
            (0, lambda at: (at / "y").hardlink_to(at / "x.ini"), ""),
        ],
    )
    def test_is_told(self, world, uid, do, what):
        at = world / "srv"
        at.mkdir()
        (at / "x.ini").write_text("x")
        do(at)
        _, fault = read(at / "x.ini", Trust(uid, frozenset({777} if uid == BOB else ())))
        assert (fault.what if fault else "")[: len(what.format(at=at))] == what.format(at=at)
        assert bool(fault) == bool(what)
        assert not fault or str(at) in fault.fix

    def test_a_link_of_another_is_not_followed_to_what_is_fine(self, world):
        plant(CAROL, lambda: (world / "carol/x").symlink_to(world / "etc/public.env"))
        os.chown(world / "carol", 0, 0)
        for trust in (Trust(), Trust(BOB)):
            assert read(world / "carol/x", trust)[1].what == f"the link {world}/carol/x belongs to user 61002"

    def test_links_of_root_are_followed_and_judged_where_they_lead(self, world):
        (world / "current").symlink_to("bob/../bob")
        owned(world / "bob/x.ini", "x", 0)
        assert read(world / "current/x.ini", Trust())[1].what == f"the folder {world}/bob belongs to user 61001"
        assert read(world / "current/x.ini", Trust(BOB)) == (b"x", None)


class TestWhatIsNoOrdinaryFile:
    @pytest.mark.parametrize("trust", [None, Trust(), Trust(BOB)])
    def test_is_refused_and_not_waited_for(self, world, trust):
        os.mkfifo(world / "fifo")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(world / "sock"))
        for name in ("fifo", "sock", "/dev/zero", "/dev/tty", "etc"):
            with pytest.raises(OSError):
                read(world / name, trust)
        (world / "large").touch()
        os.truncate(world / "large", 1 << 40)
        with pytest.raises(OSError) as caught:
            read(world / "large", trust)
        assert caught.value.errno == errno.EFBIG

    def test_a_circle_of_links_ends(self, world):
        (world / "x").symlink_to("y")
        (world / "y").symlink_to("x")
        with pytest.raises(OSError) as caught:
            read(world / "x", Trust())
        assert caught.value.errno == errno.ELOOP


class TestAnIni:
    def problems(self, path):
        return [problem.text for problem in source.read(str(path), {}).problems]

    def test_of_another_user_is_not_gone_by_nor_what_it_includes(self, world):
        included = owned(world / "etc/more.ini", "[program:x]\ncommand = true\n", 0)
        conf = owned(world / "bob/x.ini", f"[include]\nfiles = {included}\n", BOB)
        found = source.read(str(conf), {})
        assert found.included == ()
        (told,) = (problem.text for problem in found.problems)
        assert told.startswith(f"the folder {world}/bob belongs to user 61001, but impetusd runs the commands in this")
        assert f"cp {conf} /etc/impetusd/" in told
        os.chown(world / "bob", 0, 0)
        assert self.problems(conf)[0].endswith(f"run: chown root {conf}")
        os.chown(conf, 0, 0)
        assert self.problems(conf) == []
        os.chown(included, BOB, BOB)
        assert self.problems(conf)[0].startswith("it belongs to user 61001")

    def test_of_its_own_an_ordinary_user_goes_by_whatever_it_says(self, world):
        def check():
            assert source.read(str(conf), {}).problems == ()

        conf = owned(world / "carol/x.ini", "[program:x]\ncommand = true\n", BOB)
        plant(CAROL, check)

    def test_all_of_its_files_together_have_a_bound(self, world, monkeypatch):
        monkeypatch.setattr(vetted, "MOST_BYTES", 100)
        for name in "abc":
            owned(world / f"etc/{name}.ini", "#" * 30, 0)
        conf = owned(world / "etc/x", "[include]\nfiles = *.ini\n", 0)
        (told,) = self.problems(conf)
        assert "c.ini: it is larger than 16 bytes; use narrower patterns" in told


class TestAnEnvFile:
    def unit(self, path, user):
        host = replace(this_host(), user_exists=lambda _: True, group_exists=lambda _: True)
        text = f"[program:x]\ncommand = true\nuser = {user}\nenv_file = {path}\n"
        return parse(text, "/x.ini", {}, host).units["x"]

    def test_gives_its_user_no_secret_of_another(self, world):
        os.chown(world / "bob", 65534, 65534)
        at = world / "bob/app.env"
        plant(65534, lambda: at.symlink_to("../etc/secret.env"))
        with pytest.raises(CannotStart, match=f"reading env_file {at} failed: a link owned by user 65534 points"):
            read_env_files(self.unit(at, "nobody"))
        assert read_env_files(self.unit(world / "etc/secret.env", "nobody")) == {"PASSWORD": "hunter2"}

    def test_of_a_user_is_for_its_own_units_alone(self, world):
        at = owned(world / "bob/app.env", "LD_PRELOAD=/tmp/x.so", 65534, 0o600)
        os.chown(world / "bob", 65534, 65534)
        assert read_env_files(self.unit(at, "nobody")) == {"LD_PRELOAD": "/tmp/x.so"}
        with pytest.raises(CannotStart, match="belongs to user 65534, so LD_PRELOAD in it could run their code"):
            read_env_files(self.unit(at, "root"))

    def test_may_be_missing_if_that_is_said_and_counts_if_it_is_there(self, world):
        at = world / "etc/later.env"
        with pytest.raises(CannotStart, match="No such file"):
            read_env_files(self.unit(at, "nobody"))
        assert read_env_files(self.unit(f"-{at}", "nobody")) == {}
        owned(at, "A=1", 0)
        assert read_env_files(self.unit(f"-{at}", "nobody")) == {"A": "1"}
        at.chmod(0o666)
        with pytest.raises(CannotStart, match="every user can write it"):
            read_env_files(self.unit(f"-{at}", "nobody"))

    def test_that_is_a_fifo_is_not_waited_for(self, world):
        os.mkfifo(world / "etc/x.env")
        with pytest.raises(CannotStart, match="not a regular file"):
            read_env_files(self.unit(world / "etc/x.env", "nobody"))
