"""Whose log files are and who may read them, where the INI says so: those that are there, new ones, and rotated ones."""

from __future__ import annotations

import os
import stat
from collections import Counter

import pytest
from waiting import wait_for
from writer_harness import Bench, read

from impetusd.core.config.model import LogAccess
from impetusd.supervisor.logs.lines import Options
from impetusd.supervisor.logs.logaccess import Rights, rights_of

GROUP = 61077
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "log").mkdir(mode=0o750)
    made = Bench(tmp_path / "log")
    yield made
    made.close()


def seen(path):
    there = os.stat(path)
    return stat.S_IMODE(there.st_mode), there.st_uid, there.st_gid


def test_without_them_files_stay_as_they_are(bench, tmp_path):
    (tmp_path / "o").touch(0o604)
    (tmp_path / "o").chmod(0o604)
    end = bench.pipe("1:out", tmp_path / "o")
    os.write(end, b"one\n")
    bench.settle()
    assert seen(tmp_path / "o")[0] == 0o604


@as_root
def test_files_have_them_whether_open_there_or_new_and_rotated_ones_too(bench, tmp_path):
    log = tmp_path / "log"
    for name in ("there", "there.1", "there.2.gz", "there.other"):
        (log / name).touch(0o600)
    first, there = (bench.pipe(f"{name}:out", log / name) for name in ("first", "there"))
    os.write(first, b"one\n")
    bench.settle()
    bench.log()
    bench.writer.give(Rights(0o644, 1, GROUP), str(log))
    new = bench.pipe("new:out", log / "new", Options(max_size=5, compress=False))
    os.write(there, b"one\n")
    bench.writer.line("the daemon speaks")
    for _ in range(3):
        os.write(new, b"line\n")
        bench.settle()
    expected = [name for name in os.listdir(log) if name != "there.other"]
    assert sorted(expected) == ["first", "impetusd.log", "new", "new.1", "new.2", "there", "there.1", "there.2.gz"]
    assert Counter(seen(log / name) for name in expected) == {(0o644, 1, GROUP): 8}
    assert seen(log / "there.other") == (0o600, 0, 0)
    assert seen(log) == (0o755, 0, GROUP)


@as_root
def test_a_group_alone_keeps_the_owner_and_the_mode_and_gets_into_the_folder(bench, tmp_path):
    log = tmp_path / "log"
    (log / "o").touch()
    os.chown(log / "o", 1, 1)
    os.chmod(log / "o", 0o660)
    end = bench.pipe("1:out", log / "o")
    bench.writer.give(Rights(gid=GROUP), str(log))
    os.write(end, b"one\n")
    bench.settle()
    assert seen(log / "o") == (0o660, 1, GROUP)
    assert seen(log) == (0o750, 0, GROUP)


@as_root
@pytest.mark.parametrize(("mode", "group", "after"), [(0o755, 0, (0o755, 0, 0)), (0o770, 7, (0o770, 0, 7))])
def test_a_folder_that_others_use_is_not_changed(bench, tmp_path, mode, group, after):
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chown(folder, -1, group)
    folder.chmod(mode)
    rights = Rights(gid=GROUP)
    told = rights.folder_given(str(folder))
    assert seen(folder) == after
    assert told == (
        [] if group == 0 else [f"{folder} does not belong to impetusd, so log readers were not given access to it"]
    )
    assert rights.folder_given(str(folder)) == []


@as_root
def test_where_others_may_put_files_only_what_is_empty_is_changed(bench, tmp_path):
    folder = tmp_path / "users"
    folder.mkdir()
    os.chown(folder, 1, 1)
    for name, text in (("secret.log", "of root\n"), ("new.log.1", "of root\n"), ("new.log", "")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    bench.writer.give(Rights(0o644, 1, GROUP), "")
    for name in ("secret.log", "new.log"):
        end = bench.pipe(f"{name}:out", folder / name)
        for _ in range(2):
            os.write(end, b"one\n")
            bench.settle()
            bench.ask(bench.writer.reopen)
    assert seen(folder / "secret.log") == seen(folder / "new.log.1") == (0o600, 0, 0)
    assert seen(folder / "new.log") == (0o644, 1, GROUP)
    assert bench.log().count(" are not set: its folder is writable by others; they apply to the next new file") == 1


@as_root
def test_what_is_no_file_is_left_alone(bench, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    bench.writer.give(Rights(0o644, 1, GROUP), "")
    end = bench.pipe("1:out", fifo)
    os.write(end, b"one\n")
    bench.settle()
    assert os.read(reader, 10) == b"one\n"
    os.close(reader)
    assert seen(fifo) == (0o600, 0, 0)


def test_what_cannot_be_done_is_said_once_and_written_all_the_same(bench, tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    path = tmp_path / "o"
    bench.writer.give(Rights(0o644, 1, GROUP), "")
    end = bench.pipe("1:out", path, Options(max_size=5, compress=False))
    for _ in range(3):
        os.write(end, b"line\n")
        bench.settle()
    wait_for(lambda: read(f"{path}.2") == b"line\n", "the oldest")
    assert bench.log().count(f"log_owner and log_mode of {path} cannot be set: Operation not permitted") == 1
    assert seen(path)[0] == 0o644


def test_who_is_named_by_number_and_who_is_not_there():
    assert rights_of(LogAccess(log_mode=0o600, log_owner="61078:61079")) == Rights(0o600, 61078, 61079)
    assert rights_of(LogAccess(log_owner="61078")) == Rights(None, 61078, 61078)
    assert rights_of(LogAccess(log_owner=":61079")) == Rights(None, -1, 61079)
    with pytest.raises(KeyError):
        rights_of(LogAccess(log_owner=":nosuchgroup"))
