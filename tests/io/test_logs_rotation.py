"""Rotation of our own: no line lost, doubled or split, by size, by age, compressed or not, whatever is killed meanwhile."""

from __future__ import annotations

import gzip
import os
import shutil
import threading

import pytest
from waiting import PATIENCE, wait_for
from writer_harness import Bench, read

from impetusd.supervisor.logs import rotation
from impetusd.supervisor.logs.writer import Options


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


def history(path):
    """All that is in a log and its rotated files, the oldest first."""
    files = rotation.numbered(str(path))
    assert all(len(each) == 1 for each in files.values()), files
    parts = []
    for number in sorted(files, reverse=True):
        data = read(files[number][0])
        parts.append(gzip.decompress(data) if files[number][0].endswith(".gz") else data)
    return [*parts, read(path)]


def names(path):
    return sorted(name for name in os.listdir(path.parent) if name.startswith(path.name))


class TestBySize:
    @pytest.mark.parametrize("compress", [False, True], ids=["plain", "gzip"])
    def test_a_flood_is_kept_whole(self, bench, tmp_path, compress):
        path = tmp_path / "o"
        size = 1 << 20
        end = bench.pipe("1:out", path, Options(max_size=size, keep=1000, compress=compress))
        count = 500_000
        with open(end, "wb", closefd=False, buffering=1 << 16) as file:
            file.writelines(b"line %d of many that are to be kept\n" % number for number in range(count))
        bench.settle()
        if compress:
            wait_for(
                lambda: all(each[0].endswith(".gz") for n, each in rotation.numbered(str(path)).items() if n > 1),
                "all to be compressed",
            )
            assert f"{path.name}.gz.tmp" not in names(path)
        parts = history(path)
        assert b"".join(parts) == b"".join(b"line %d of many that are to be kept\n" % n for n in range(count))
        assert all(part.endswith(b"\n") for part in parts)
        assert all(size - 100 < len(part) <= size for part in parts[:-1])

    def test_lines_with_a_time_count_with_it(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(max_size=1000, keep=100, compress=False, time=True))
        os.write(end, b"".join(b"%d\n" % n for n in range(500)))
        bench.settle()
        parts = history(tmp_path / "o")
        assert [line.split()[-1] for part in parts for line in part.splitlines()] == [b"%d" % n for n in range(500)]
        assert all(len(part) <= 1000 for part in parts)

    def test_a_line_that_is_larger_than_a_file_is_not_split(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(max_size=1000, keep=100, compress=False))
        for _ in range(3):
            os.write(end, b"x" * 5000)
            bench.settle()
        os.write(end, b"\nnext\n")
        bench.settle()
        assert history(tmp_path / "o") == [b"x" * 15000 + b"\n", b"next\n"]

    def test_the_oldest_go(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(max_size=10, keep=3, compress=False))
        for number in range(9):
            os.write(end, b"line %04d\n" % number)
            bench.settle()
        assert history(tmp_path / "o") == [b"line %04d\n" % n for n in range(5, 9)]
        assert names(tmp_path / "o") == ["o", "o.1", "o.2", "o.3"]


class TestByAge:
    def test_it_is_the_files_age_and_not_the_supervisors(self, tmp_path, monkeypatch):
        """Two supervisors one after the other: the second knows when the file was made."""
        path = tmp_path / "o"
        options = Options(max_age=3600.0, keep=3, compress=False)
        for text, ahead in ((b"1\n", 0.0), (b"2\n", 3000.0), (b"3\n", 3601.0), (b"4\n", 3601.0)):
            with monkeypatch.context() as patched:
                import time

                now = time.time
                patched.setattr(
                    "impetusd.supervisor.logs.logfile.time.time", lambda now=now, ahead=ahead: now() + ahead
                )
                if text == b"4\n":  # the new file was made just now, by the clock of the file system
                    patched.undo()
                bench = Bench(tmp_path)
                os.write(bench.pipe("1:out", path, options), text)
                bench.settle()
                bench.close()
        assert history(path) == [b"1\n2\n", b"3\n4\n"]

    def test_birth_is_when_it_was_made(self, tmp_path):
        path = tmp_path / "f"
        path.write_text("x")
        os.utime(path, (1000.0, 1000.0))
        with open(path, "rb") as file:
            born = rotation.birth(file.fileno())
        there = os.stat(path)
        assert born == 1000.0 or abs(born - there.st_ctime) < 60.0  # the first where the file system keeps none


class TestRotate:
    def test_a_gap_that_a_kill_left_is_filled_first(self, tmp_path):
        path = tmp_path / "o"
        for number in ("", ".1", ".2", ".4"):
            (tmp_path / f"o{number}").write_text(number)
        rotation.rotate(str(path), 4, compress=False)
        assert {name: (tmp_path / name).read_text() for name in names(path)} == {
            "o.1": "",
            "o.2": ".1",
            "o.3": ".2",
            "o.4": ".4",
        }

    def test_what_is_beyond_keep_goes(self, tmp_path):
        path = tmp_path / "o"
        for number in ("", ".1", ".2.gz", ".3", ".7.gz"):
            (tmp_path / f"o{number}").write_text(number)
        rotation.rotate(str(path), 2, compress=False)
        assert names(path) == ["o.1", "o.2"]
        assert (tmp_path / "o.2").read_text() == ".1"

    def test_it_keeps_to_its_own_files(self, tmp_path):
        for name in ("o", "o.1x", "o.01", "xo.1", "o.1.gz.old", "o.d"):
            (tmp_path / name).write_text(name)
        rotation.rotate(str(tmp_path / "o"), 1, compress=False)
        assert sorted(os.listdir(tmp_path)) == ["o.01", "o.1", "o.1.gz.old", "o.1x", "o.d", "xo.1"]

    @pytest.mark.parametrize("step", range(12))
    def test_killed_at_each_step_nothing_is_lost(self, tmp_path, monkeypatch, step):
        """Each rename and each unlink may be the last thing that is done."""
        path = tmp_path / "o"
        texts = {"o": b"4", "o.1": b"3", "o.2": b"2", "o.3": b"1"}
        for name, text in texts.items():
            (tmp_path / name).write_bytes(text)

        class Killed(BaseException):
            pass

        left = step

        def counted(real):
            def patched(*arguments, **folders):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return real(*arguments, **folders)

            return patched

        with monkeypatch.context() as patched:
            patched.setattr(rotation.os, "rename", counted(os.rename))
            patched.setattr(rotation.os, "unlink", counted(os.unlink))
            try:
                rotation.rotate(str(path), 10, compress=False)
                rotation.compress_all(str(path))
            except Killed:
                pass
        if path.exists():
            rotation.rotate(str(path), 10, compress=False)
        rotation.compress_all(str(path))
        assert b"".join(history(path)) == b"1234"
        assert not [name for name in names(path) if name.endswith(".tmp")]
        assert names(path)[0] == "o.1"
        assert all(name.endswith(".gz") for name in names(path)[1:])


class TestCompression:
    def test_a_number_that_changes_meanwhile(self, tmp_path, monkeypatch):
        path = tmp_path / "o"
        for name, text in (("o", b"3"), ("o.1", b"2"), ("o.2", b"1")):
            (tmp_path / name).write_bytes(text)
        os.chmod(tmp_path / "o.2", 0o640)
        os.utime(tmp_path / "o.2", (1000.0, 1000.0))
        copying, go_on = threading.Event(), threading.Event()
        copy = shutil.copyfileobj

        def slow(*arguments):
            copying.set()
            assert go_on.wait(PATIENCE)
            copy(*arguments)

        monkeypatch.setattr(shutil, "copyfileobj", slow)
        thread = threading.Thread(target=rotation.compress_all, args=(str(path),))
        thread.start()
        assert copying.wait(PATIENCE)
        rotation.rotate(str(path), 5, compress=False)  # is not held up by it
        go_on.set()
        thread.join(PATIENCE)
        assert names(path) == ["o.1", "o.2.gz", "o.3.gz"]
        assert b"".join(history(path)) == b"123"
        made = os.stat(tmp_path / "o.3.gz")
        assert (made.st_mode & 0o777, made.st_mtime) == (0o640, 1000.0)

    def test_a_file_that_is_gone_meanwhile(self, tmp_path, monkeypatch):
        path = tmp_path / "o"
        (tmp_path / "o.2").write_bytes(b"1")
        copy = shutil.copyfileobj
        monkeypatch.setattr(shutil, "copyfileobj", lambda *a: (os.unlink(tmp_path / "o.2"), copy(*a)))
        rotation.compress_all(str(path))
        assert names(path) == []

    def test_leftovers_are_cleared_when_the_log_is_opened(self, bench, tmp_path):
        path = tmp_path / "o"
        (tmp_path / "o.gz.tmp").write_bytes(b"half")
        (tmp_path / "o.2").write_bytes(b"twice")
        (tmp_path / "o.2.gz").write_bytes(gzip.compress(b"twice"))
        os.write(bench.pipe("1:out", path, Options(max_size=1000)), b"now\n")
        bench.settle()
        wait_for(lambda: names(path) == ["o", "o.2.gz"], "the rest to be gone")
