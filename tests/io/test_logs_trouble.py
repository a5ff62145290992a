"""The disk is full, the directory gone or not to be written: nobody waits, what is lost is counted, whole lines remain."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tempfile
import time

import pytest
from smalldisk import small_disk
from waiting import wait_for
from writer_harness import Bench, read

from impetusd.supervisor.logs import logfile, lost, rotation
from impetusd.supervisor.logs.lost import Losses
from impetusd.supervisor.logs.writer import Options


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


@pytest.fixture
def soon(monkeypatch):
    """Trouble is looked at again at once, so that a test waits for an event and not for a second."""
    monkeypatch.setattr(logfile, "RETRY", 0.0)
    monkeypatch.setattr(logfile, "LOOK", 0.0)


@pytest.fixture
def small(tmp_path):
    """A disk of 256 KiB."""
    with small_disk(tmp_path / "disk", "256k", held=True) as path:
        yield path


def account(text, lost, form):
    """Every line is whole, and the lines that are there, with those that are told as dropped, are all that were written."""
    dropped_bytes = dropped_lines = 0
    kept = []
    for line in text.splitlines():
        told = re.search(rb"impetusd: (\d+) bytes, (\d+) lines of output were dropped here from .* to .*: (.+)$", line)
        if told:
            dropped_bytes, dropped_lines = dropped_bytes + int(told[1]), dropped_lines + int(told[2])
            continue
        match = re.fullmatch(form, line)
        assert match, line
        kept.append(int(match[1]))
    assert (dropped_bytes, dropped_lines) == lost
    assert kept == sorted(set(kept))
    return kept


@pytest.mark.parametrize("options", [{}, {"time": True}, {"json": True}], ids=["plain", "time", "json"])
@pytest.mark.parametrize("retry", [0.0, 1000.0], ids=["retrying", "waiting"])
def test_a_full_disk(bench, small, monkeypatch, options, retry):
    monkeypatch.setattr(logfile, "RETRY", retry)
    path = small / "o"
    end = bench.pipe("1:out", path, Options(name="p", **options))
    line = b"line %08d of those that the disk has no room for\n"
    count = 20_000
    total = count * len(line % 0)
    with open(end, "wb", closefd=False, buffering=1000) as file:  # never blocks for long: the pipe is always read
        file.writelines(line % number for number in range(count))
    bench.settle()
    lost = bench.writer.dropped(str(path))
    assert lost[0] > 0
    assert read(path).endswith(b"\n") or options.get("json")
    before = read(path)
    if "time" not in options and "json" not in options:
        # Whole lines, and to the byte all that is not there.
        assert all(
            re.fullmatch(rb"line \d{8} of .* room for", each) for each in before.splitlines() if b"dropped" not in each
        )
    # Room again: it is used, at the beginning of a line, and the gap is told.
    subprocess.run(["mount", "-o", "remount,size=8m", small], check=True)
    monkeypatch.setattr(logfile, "RETRY", 0.0)
    bench.file("1:out")._retry_at = 0.0
    for number in range(count, count + 10):
        os.write(end, line % number)
        bench.settle()
    lost = bench.writer.dropped(str(path))
    form = rb'.*line (\d{8}) of those that the disk has no room for(?:"})?'
    kept = account(read(path), lost, form)
    assert kept[-10:] == list(range(count, count + 10))
    assert len(kept) + lost[1] == count + 10
    assert lost[0] == lost[1] * len(line % 0) == total - (len(kept) - 10) * len(line % 0)
    assert b"No space left on device" in read(path)
    own = bench.log()
    assert own.count("No space left on device; dropping output") == own.count("works again")


def test_it_is_tried_once_a_second_and_told_once(bench, tmp_path, monkeypatch):
    tried = []

    def opened(file, now):
        tried.append(now)
        raise OSError(errno.EROFS, "Read-only file system")

    end = bench.pipe("1:out", tmp_path / "o")
    monkeypatch.setattr(
        logfile.LogFile, "_open", lambda file, now: opened(file, now) if file.path.endswith("/o") else real(file, now)
    )
    for number in range(200):
        os.write(end, b"%d\n" % number)
        bench.settle()
    assert all(after - before >= logfile.RETRY for before, after in itertools.pairwise(tried))
    assert bench.writer.dropped(str(tmp_path / "o"))[1] == 200
    assert bench.log().count("Read-only file system") == 1


real = logfile.LogFile._open


@pytest.mark.usefixtures("soon")
def test_a_directory_that_is_removed_is_made_again(bench, tmp_path):
    end = bench.pipe("1:out", tmp_path / "d" / "o")
    os.write(end, b"1\n")
    bench.settle()
    shutil.rmtree(tmp_path / "d")
    os.write(end, b"2\n")
    bench.settle()
    assert read(tmp_path / "d" / "o") == b"2\n"


@pytest.mark.usefixtures("soon")
def test_a_directory_that_cannot_be_made_is_waited_for(bench, tmp_path):
    end = bench.pipe("1:out", tmp_path / "d" / "o")
    os.write(end, b"1\n")
    bench.settle()
    shutil.rmtree(tmp_path / "d")
    (tmp_path / "d").write_text("a file is in the way")
    os.write(end, b"2\nhalf")
    bench.settle()
    os.write(end, b"of it\n")
    bench.settle()
    assert bench.writer.dropped(str(tmp_path / "d" / "o")) == (12, 2)
    (tmp_path / "d").unlink()
    os.write(end, b"3\n")
    bench.settle()
    marker, third = read(tmp_path / "d" / "o").splitlines()
    assert marker.startswith(b"impetusd: 12 bytes, 2 lines of output were dropped here")
    assert third == b"3"
    assert bench.writer.dropped(str(tmp_path / "d" / "o")) == (12, 2)


@pytest.mark.usefixtures("soon")
def test_a_line_whose_beginning_was_dropped_is_dropped_to_its_end(bench, tmp_path):
    (tmp_path / "d").write_text("a file is in the way")
    end = bench.pipe("1:out", tmp_path / "d" / "o")
    os.write(end, b"1\nhal")
    bench.settle()
    (tmp_path / "d").unlink()
    os.write(end, b"f\nwhole\n")
    bench.settle()
    marker, kept = read(tmp_path / "d" / "o").splitlines()
    assert kept == b"whole"
    assert marker.startswith(b"impetusd: 7 bytes, 2 lines of output were dropped here")
    assert bench.writer.dropped(str(tmp_path / "d" / "o")) == (7, 2)


@pytest.mark.usefixtures("soon")
def test_what_cannot_be_written_now_is_told_in_a_sentence_for_each_directory(bench, tmp_path):
    ends = {name: bench.pipe(name, tmp_path / name) for name in ("d/o", "d/p", "e/o", "well")}
    assert not bench.writer.losses

    def told(paths):
        return [str(each) for each in bench.writer.losses.attention(paths)]

    for name in "de":
        (tmp_path / name).write_text("a file is in the way")
    for name, end in ends.items():
        os.write(end, b"1\n" * len(name))
    bench.settle()
    paths = [str(tmp_path / name) for name in ends]
    assert bench.writer.losses
    assert told(paths) == [
        f"2 log files cannot be written (Not a directory), 6 lines dropped so far: {tmp_path}/d",
        f"a log file cannot be written (Not a directory), 3 lines dropped so far: {tmp_path}/e/o",
    ]
    assert told(paths[:1] + paths[3:]) == [
        f"a log file cannot be written (Not a directory), 3 lines dropped so far: {tmp_path}/d/o"
    ]
    for name in "de":
        (tmp_path / name).unlink()
    for end in ends.values():
        os.write(end, b"2\n")
    bench.settle()
    assert bench.writer.losses.attention(paths) == []
    assert bench.writer.dropped(paths[0]) == (6, 3)


def test_more_files_than_the_memory_has_room_for_are_counted_by_this_supervisor_alone(monkeypatch, request):
    monkeypatch.setattr(lost, "SIZE", 1000)
    losses = Losses()
    request.addfinalizer(losses.close)
    names = [f"/{number}/{'x' * 50}" for number in range(10)]
    for number, name in enumerate(names):
        counts = losses.of(name)
        counts.at(1.0)
        counts.begin(2.0, OSError(errno.ENOSPC, "full"))
        counts.add(10 * number, number, 5, skipping=False)
    successor = Losses(os.dup(losses.fd))
    request.addfinalizer(successor.close)
    kept = [successor.of(name).lines for name in names]
    assert [losses.of(name).lines for name in names] == list(range(10))
    assert kept[:3] == [0, 1, 2]
    assert set(kept[5:]) == {0}
    assert successor.of(names[1]).reason == "No space left on device"
    assert (successor.of(names[1]).accounted(1.0), successor.of(names[1]).accounted(2.0)) == (5, 0)


@pytest.mark.usefixtures("soon")
def test_a_rotation_that_fails_is_told_and_nothing_is_lost(bench, tmp_path, monkeypatch):
    def refuse(path, keep, *, compress):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(rotation, "rotate", refuse)
    end = bench.pipe("1:out", tmp_path / "o", Options(max_size=100))
    for number in range(100):
        os.write(end, b"%d\n" % number)
    bench.settle()
    assert read(tmp_path / "o") == b"".join(b"%d\n" % n for n in range(100))
    assert bench.log().count("Permission denied") == 1


@pytest.fixture
def powerless():
    """A directory of an ordinary user, whom its mode binds, and who this process is meanwhile."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        folder = pathlib.Path(path)
        if os.geteuid() != 0:
            yield folder
            return
        nobody = pwd.getpwnam("nobody").pw_uid
        os.chown(path, nobody, -1)
        os.seteuid(nobody)
        try:
            yield folder
        finally:
            os.seteuid(0)


def test_a_directory_that_is_read_only_at_rotation(powerless):
    """The file grows meanwhile, and it is told once."""
    (powerless / "d").mkdir()
    path, bench = powerless / "d" / "o", Bench(powerless)
    try:
        end = bench.pipe("1:out", path, Options(max_size=100, keep=100, compress=False))
        os.write(end, b"first\n")
        bench.settle()
        (powerless / "d").chmod(0o555)
        for number in range(100):
            os.write(end, b"line %d\n" % number)
            bench.settle()
        assert read(path) == b"first\n" + b"".join(b"line %d\n" % number for number in range(100))
        assert bench.log().count(f"rotating {path} failed: Permission denied") == 1
        (powerless / "d").chmod(0o755)
        bench.file("1:out")._rotate_at = 0.0  # the minute has passed
        os.write(end, b"last\n")
        bench.settle()
        assert read(path) == b"last\n"
        assert read(f"{path}.1").endswith(b"line 99\n")
        assert bench.writer.dropped(str(path)) == (0, 0)
    finally:
        bench.close()


@pytest.mark.usefixtures("soon")
def test_a_file_that_was_removed_from_a_directory_that_is_read_only(powerless):
    (powerless / "d").mkdir()
    path, bench = powerless / "d" / "o", Bench(powerless)
    try:
        end = bench.pipe("1:out", path)
        os.write(end, b"1\n")
        bench.settle()
        path.unlink()
        (powerless / "d").chmod(0o555)
        for _ in range(2):
            os.write(end, b"2\n")
            bench.settle()
        assert bench.writer.dropped(str(path)) == (4, 2)
        (powerless / "d").chmod(0o755)
        os.write(end, b"3\n")
        bench.settle()
        assert read(path).splitlines()[1:] == [b"3"]
        assert b"4 bytes, 2 lines of output were dropped here" in read(path)
    finally:
        bench.close()


def test_a_child_is_not_held_while_its_disk_is_full(bench, tmp_path):
    """The pipe is read on: a writer that never blocks fills it faster than anybody can if it is not."""
    (tmp_path / "d").write_text("a file is in the way")
    end = bench.pipe("1:out", tmp_path / "d" / "o")
    os.set_blocking(end, False)
    written = 0
    stop = time.monotonic() + 60
    while written < 64 << 20 and time.monotonic() < stop:
        with contextlib.suppress(BlockingIOError):
            written += os.write(end, b"x" * 4095 + b"\n")
    os.set_blocking(end, True)
    bench.settle()
    assert written >= 64 << 20
    assert bench.writer.dropped(str(tmp_path / "d" / "o")) == (written, written // 4096)
    wait_for(lambda: "; dropping output" in bench.log(), "it to be told")
