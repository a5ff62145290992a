"""A file that a command changes: entirely or not at all, one command at a time, with its mode, owner and links."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading

import pytest

from impetusd.files import rewrite
from impetusd.files.rewrite import Rewriting

MOST = 1 << 20


def test_mode_owner_and_links_are_kept_and_nothing_is_left_beside(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(real, 61001, 61002)
    before = real.stat()
    link.symlink_to("real")
    with Rewriting(str(link), MOST) as file:
        assert (file.data, file.path, file.mode) == (b"old", str(real), 0o640)
        file.replace(b"new")
        assert file.is_still(b"new")
    after = real.stat()
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_nobody_else_can_open_what_takes_the_place_of_a_private_file(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(0o600)
    modes = []
    kept = Rewriting._as_before

    def as_before(self, fd):
        modes.append(os.fstat(fd).st_mode & 0o777)
        kept(self, fd)

    monkeypatch.setattr(Rewriting, "_as_before", as_before)
    with Rewriting(str(path), MOST) as file:
        file.replace(b"secret", 0o644)
    assert modes == [0o600]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_new_file_is_made_with_its_folder_and_never_over_another(tmp_path):
    path = tmp_path / "a" / "b.ini"
    with Rewriting(str(path), MOST) as file:
        assert file.data is None
        path.parent.mkdir()
        path.write_text("theirs")
        with pytest.raises(FileExistsError):
            file.replace(b"ours", 0o600)
        path.unlink()
        file.replace(b"ours", 0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"ours", 0o600)
    assert os.listdir(path.parent) == ["b.ini"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_changes_nothing(tmp_path, monkeypatch, number):
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def fails(*_):
        raise OSError(number, os.strerror(number))

    with Rewriting(str(path), MOST) as file:
        monkeypatch.setattr(rewrite.os, "fsync", fails)
        with pytest.raises(OSError, match=os.strerror(number)):
            file.replace(b"new")
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"old", ["f"])


def test_a_second_name_and_what_is_no_file_are_refused(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    os.link(path, tmp_path / "g")
    with Rewriting(str(path), MOST) as file, pytest.raises(OSError, match="second hard link"):
        file.replace(b"new")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="regular"), Rewriting(str(tmp_path / "fifo"), MOST):
        pass


def test_of_many_at_once_none_is_lost(tmp_path):
    path = tmp_path / "f"
    faults = []

    def add(number):
        try:
            while True:
                with Rewriting(str(path), MOST) as file:
                    try:
                        file.replace((file.data or b"") + b"%d\n" % number, 0o644)
                    except FileExistsError:
                        continue
                return
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert sorted(map(int, path.read_text().split())) == list(range(12))


def test_who_waits_too_long_is_told(tmp_path, monkeypatch):
    path = tmp_path / "f"
    path.write_bytes(b"")
    monkeypatch.setattr(rewrite, "PATIENCE", 0.0)
    with Rewriting(str(path), MOST), pytest.raises(rewrite.Busy), Rewriting(str(path), MOST):
        pass


def test_a_killed_holder_holds_nothing(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"")
    code = f"""
import os, sys
from impetusd.files.rewrite import Rewriting
with Rewriting({str(path)!r}, 9):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        holder.wait()
        with Rewriting(str(path), MOST) as file:
            assert file.data == b""
