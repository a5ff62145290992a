"""The writer: every byte where it belongs, whole lines where lines are cut, tails and watches of the present run only."""

from __future__ import annotations

import json
import os
import queue
import re
import resource
import stat
import threading

import pytest
from waiting import PATIENCE, wait_for
from writer_harness import Bench, read

from impetusd.supervisor.logs import logfile, loglane, logpipe, outlets, writer
from impetusd.supervisor.logs.loglane import Lane
from impetusd.supervisor.logs.writer import Options

STAMP = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}"


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


class TestPlain:
    def test_bytes_are_moved_as_they_are(self, bench, tmp_path):
        data = b"\xff\x00\x1b[31m half a line, \xc3" + os.urandom(5000)
        end = bench.pipe("1:out", tmp_path / "o")
        os.write(end, data)
        bench.settle()
        assert read(tmp_path / "o") == data
        assert stat.S_IMODE(os.stat(tmp_path / "o").st_mode) == 0o640

    def test_a_line_of_ten_megabytes_takes_no_memory(self, bench, tmp_path):
        piece = bytes(range(10)) * 6400  # with NUL, without newline
        end = bench.pipe("1:out", tmp_path / "o")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(164):
            os.write(end, piece)
        os.write(end, b"\n")
        bench.settle()
        assert os.path.getsize(tmp_path / "o") == 164 * 64000 + 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10  # KiB
        assert read(tmp_path / "o") == piece * 164 + b"\n"

    def test_close_writes_what_is_left_and_forget_tells_when_it_has(self, bench, tmp_path):
        one, other = bench.pipe("1:out", tmp_path / "o"), bench.pipe("2:out", tmp_path / "p")
        os.write(one, b"last words")
        bench.ask(bench.writer.forget, "1:out")
        assert read(tmp_path / "o") == b"last words"
        os.write(other, b"mine too")
        bench.close()
        assert read(tmp_path / "p") == b"mine too"

    def test_a_pipe_that_moves_leaves_what_is_in_it_behind(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "a" / "o")
        os.write(end, b"before\n")
        bench.settle()
        bench.writer.redirect({"1:out": str(tmp_path / "b" / "o")})  # another directory: another thread
        os.write(end, b"after\n")
        bench.settle()
        assert read(tmp_path / "a" / "o") + read(tmp_path / "b" / "o") == b"before\nafter\n"
        assert b"before" in read(tmp_path / "a" / "o")
        os.write(end, b"later\n")
        bench.settle()
        assert read(tmp_path / "b" / "o").endswith(b"later\n")


class TestByLines:
    def test_each_line_has_a_time(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
        os.write(end, b"one\n\ntw")
        os.write(end, b"o\n")
        bench.settle()
        assert re.fullmatch(rb"(%s) one\n\1 \n%s two\n" % (STAMP, STAMP), read(tmp_path / "o"))

    def test_an_unfinished_line_waits_until_its_run_ends(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
        os.write(end, b"one\nhal")
        wait_for(lambda: read(tmp_path / "o").endswith(b" one\n"), "the first line")
        bench.writer.end_run("1:out")
        bench.ask(bench.writer.flush_files, [])
        wait_for(lambda: read(tmp_path / "o").endswith(b" hal\n"), "the second")

    def test_what_a_run_left_unfinished_is_no_part_of_the_next_runs_first_line(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
        os.write(end, b"one\nhal")
        wait_for(lambda: read(tmp_path / "o"), "the first line")
        bench.begin_run("1:out")
        os.write(end, b"two\n")
        wait_for(lambda: b"two" in read(tmp_path / "o"), "the next run")
        assert [line.split(b" ", 1)[1] for line in read(tmp_path / "o").splitlines()] == [b"one", b"hal", b"two"]

    def test_what_the_next_run_has_begun_is_not_cut_by_the_end_of_the_last(self, bench, tmp_path, monkeypatch):
        """The thread learns of the end when the next run has printed half a line already."""
        end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
        other = bench.pipe("2:out", tmp_path / "p")
        writing, go_on = threading.Event(), threading.Event()
        write = logfile.LogFile.write

        def slow(file, out, *more, **others):
            writing.set()
            assert go_on.wait(PATIENCE)
            return write(file, out, *more, **others)

        os.write(end, b"hal")
        with monkeypatch.context() as patched:
            patched.setattr(logfile.LogFile, "write", slow)
            os.write(other, b"x")
            assert writing.wait(PATIENCE)
            bench.writer.end_run("1:out")
            bench.begin_run("1:out")
            os.write(end, b"next")
            go_on.set()
            bench.settle("2:out")
        os.write(end, b" run\n")
        bench.settle()
        assert [line.split(b" ", 1)[1] for line in read(tmp_path / "o").splitlines()] == [b"hal", b"next run"]

    def test_json_lines(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(name="web:0", stream="error", json=True))
        os.write(end, b'say "\xc3\xa9"\n\xff\x00\n')
        bench.settle()
        lines = [json.loads(line) for line in read(tmp_path / "o").splitlines()]
        assert [line["line"] for line in lines] == ['say "é"', "\\xff\x00"]
        assert all((line["name"], line["stream"]) == ("web:0", "error") for line in lines)
        assert re.fullmatch(STAMP.decode(), lines[0]["time"])

    def test_lines_of_two_programs_in_one_file_are_whole(self, bench, tmp_path):
        ends = [bench.pipe(f"{i}:out", tmp_path / "o") for i in range(2)]

        def print_lines(end, word):
            for number in range(3000):
                line = b"%s %d\n" % (word * 5, number)
                os.write(end, line[:7])
                os.write(end, line[7:])

        threads = [threading.Thread(target=print_lines, args=pair) for pair in zip(ends, (b"a", b"b"), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bench.settle()
        lines = read(tmp_path / "o").splitlines()
        for word in (b"aaaaa", b"bbbbb"):
            assert [line for line in lines if line.startswith(word)] == [b"%s %d" % (word, n) for n in range(3000)]
        assert len(lines) == 6000

    def test_a_hundred_thousand_lines_and_an_end_are_kept(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
        with open(end, "wb", closefd=False) as file:
            file.writelines(b"line %d\n" % n for n in range(100_000))
        bench.settle()
        assert [line.split()[-1] for line in read(tmp_path / "o").splitlines()] == [b"%d" % n for n in range(100_000)]


class TestTails:
    def test_it_is_of_the_present_run(self, bench, tmp_path):
        end = bench.pipe("1:err", tmp_path / "e")
        for run in range(50):
            bench.begin_run("1:err")
            assert bench.tail("1:err") == b""
            os.write(end, b"run %d\n" % run)
            os.write(end, b"why\n")
            assert bench.tail("1:err") == b"run %d\nwhy\n" % run

    def test_a_read_that_is_under_way_when_a_run_begins_is_the_old_runs(self, bench, tmp_path, monkeypatch):
        """The chunk has left the pipe and is being written, slowly, when the next run begins."""
        writing, go_on = threading.Event(), threading.Event()
        write = logfile.LogFile.write

        def slow(file, out, *more, **others):
            if file.path.endswith("/e"):
                writing.set()
                assert go_on.wait(PATIENCE)
            return write(file, out, *more, **others)

        monkeypatch.setattr(logfile.LogFile, "write", slow)
        end = bench.pipe("1:err", tmp_path / "e")
        os.write(end, b"old words\n")
        assert writing.wait(PATIENCE)
        os.write(end, b"old, and still in the pipe\n")
        bench.begin_run("1:err")
        os.write(end, b"new\n")
        go_on.set()
        assert bench.tail("1:err") == b"new\n"

    @pytest.mark.parametrize("read", [False, True])
    def test_it_is_known_although_the_next_run_began_and_wrote(self, bench, tmp_path, monkeypatch, read):
        """As of a unit that is restarted at once: the thread looks at the pipe when the next process prints already."""
        asked, go_on = threading.Event(), threading.Event()
        tail = Lane.tail

        def late(lane, pipe, *more):
            asked.set()
            assert go_on.wait(30)
            tail(lane, pipe, *more)

        end = bench.pipe("1:err", tmp_path / "e")
        bench.begin_run("1:err")
        os.write(end, b"why\n")
        if read:
            bench.settle()
        monkeypatch.setattr(Lane, "tail", late)
        came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        bench.writer.tail("1:err", came.put)
        assert asked.wait(30)
        bench.begin_run("1:err")
        os.write(end, b"next run\n")
        go_on.set()
        assert came.get(timeout=30) == b"why\n"
        assert bench.tail("1:err") == b"next run\n"

    @pytest.mark.parametrize("new", [b"", b"new\n"])
    @pytest.mark.parametrize("read_before", [True, False])
    def test_what_a_run_printed_last_is_known_when_the_next_has_begun(self, bench, tmp_path, new, read_before):
        end = bench.pipe("1:err", tmp_path / "e")
        bench.begin_run("1:err")
        if read_before:
            os.write(end, b"last words\n")
            wait_for(lambda: read(tmp_path / "e"), "the last words")
            bench.begin_run("1:err")
        else:
            bench.settle()  # the thread waits for what comes
            os.write(end, b"last words\n")
            bench.begin_run("1:err")
        os.write(end, new)
        assert bench.ask(bench.writer.tail, "1:err") == b"last words\n"
        assert bench.tail("1:err") == new

    def test_it_has_an_end(self, bench, tmp_path):
        end = bench.pipe("1:err", tmp_path / "e")
        bench.begin_run("1:err")
        for number in range(3000):
            os.write(end, b"%08d\n" % number)
        assert bench.tail("1:err") == b"".join(b"%08d\n" % n for n in range(3000))[-logpipe.TAIL :]

    def test_an_unknown_pipe_has_none(self, bench):
        assert bench.tail("9:err") == b""


class TestWatches:
    def test_a_line_of_this_run_is_found_once(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o")
        found = []
        os.write(end, b"listening\n")
        bench.settle()
        bench.begin_run("1:out")
        bench.writer.watch_line("1:out", rb"^listen\w+$", lambda: found.append(1))
        bench.settle()
        assert not found
        os.write(end, b"not listening\nlisten")
        bench.settle()
        assert not found
        os.write(end, b"ing\nlistening\n")
        bench.settle()
        assert found == [1]
        assert read(tmp_path / "o").count(b"listening\n") == 4

    def test_a_line_that_came_before_it_was_asked_for_is_found(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o")
        found = []
        os.write(end, b"ready\n")
        bench.settle()
        bench.begin_run("1:out", rb"^ready$")
        bench.settle()
        bench.writer.watch_line("1:out", rb"^ready$", lambda: found.append("before it was printed"))
        assert not found
        bench.begin_run("1:out", rb"^ready$")
        os.write(end, b"begins\nready\nserves\n")
        bench.settle()
        os.write(end, b"ready\n")
        bench.settle()
        bench.writer.watch_line("1:out", rb"^ready$", lambda: found.append("at once"))
        assert found == ["at once"]
        bench.writer.watch_line("1:out", rb"^ready$", lambda: found.append("anew"))
        assert found == ["at once"]
        os.write(end, b"ready\n")
        bench.settle()
        assert found == ["at once", "anew"]

    def test_a_line_that_only_half_had_come_is_found(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o")
        found = []
        bench.begin_run("1:out", rb"^ready$")
        os.write(end, b"rea")
        bench.settle()
        bench.writer.watch_line("1:out", rb"^ready$", lambda: found.append(1))
        assert not found
        os.write(end, b"dy\n")
        bench.settle()
        assert found == [1]

    def test_what_the_run_before_left_in_the_pipe_is_not_looked_at(self, bench, tmp_path, monkeypatch):
        writing, go_on = threading.Event(), threading.Event()
        write = logfile.LogFile.write

        def slow(file, out, *more, **others):
            writing.set()
            assert go_on.wait(PATIENCE)
            return write(file, out, *more, **others)

        end = bench.pipe("1:out", tmp_path / "o")
        bench.settle()
        monkeypatch.setattr(logfile.LogFile, "write", slow)
        os.write(end, b"ready\n")
        assert writing.wait(PATIENCE)
        os.write(end, b"ready\n")
        bench.begin_run("1:out")
        found = []
        bench.writer.watch_line("1:out", rb"ready", lambda: found.append(1))
        go_on.set()
        bench.settle()
        assert not found
        os.write(end, b"ready\n")
        bench.settle()
        assert found == [1]

    @pytest.mark.parametrize("end_of_watch", ["unwatch", "begin_run"])
    def test_it_ends(self, bench, tmp_path, end_of_watch):
        end = bench.pipe("1:out", tmp_path / "o")
        found = []
        bench.writer.watch_line("1:out", rb"x", lambda: found.append(1))
        getattr(bench if end_of_watch == "begin_run" else bench.writer, end_of_watch)("1:out")
        os.write(end, b"x\n")
        bench.settle()
        assert not found


class TestThreads:
    def test_a_slow_disk_holds_nobody_elses_logs(self, bench, tmp_path, monkeypatch):
        stuck, go_on = threading.Event(), threading.Event()
        real = os.write

        def write(fd, data):
            if threading.current_thread().name == "log writer" and b"slow" in bytes(data):
                stuck.set()
                assert go_on.wait(PATIENCE)
            return real(fd, data)

        one = bench.pipe("1:out", tmp_path / "nfs" / "o")
        other = bench.pipe("2:out", tmp_path / "disk" / "o")
        monkeypatch.setattr(logfile.os, "write", write)
        real(one, b"slow\n")
        assert stuck.wait(PATIENCE)
        try:
            real(other, b"quick\n")
            bench.settle("2:out")
            assert read(tmp_path / "disk" / "o") == b"quick\n"
            bench.writer.line("the daemon speaks")
            wait_for(lambda: b"the daemon speaks" in read(tmp_path / "impetusd.log"), "the daemon's own line")
            assert read(tmp_path / "nfs" / "o") == b""
        finally:
            go_on.set()
        bench.settle()
        assert read(tmp_path / "nfs" / "o") == b"slow\n"

    def test_who_floods_is_served_in_turns(self, bench, tmp_path, monkeypatch):
        """While one pipe is never empty, another's line waits for one turn of the first, 16 reads, not for its end."""
        flood, quiet = bench.pipe("1:out", tmp_path / "o"), bench.pipe("2:out", tmp_path / "p")
        bench.settle()
        order = []
        write = logfile.LogFile.write
        reached, go_on = threading.Event(), threading.Event()

        def noted(file, out, *more, **others):
            order.append(os.path.basename(file.path))
            if len(order) == 1:
                reached.set()
                assert go_on.wait(PATIENCE)
            told = write(file, out, *more, **others)
            if file.path.endswith("/o") and len(order) < 200:
                os.write(flood, b"x" * 65536)  # as soon as it was emptied it is full again
            return told

        monkeypatch.setattr(logfile.LogFile, "write", noted)
        os.write(flood, b"x" * 65536)
        assert reached.wait(PATIENCE)
        os.write(quiet, b"here\n")
        go_on.set()
        wait_for(lambda: read(tmp_path / "p") == b"here\n", "the quiet one's line")
        assert order.index("p") <= 2 * loglane.TURN

    def test_more_directories_than_threads(self, bench, tmp_path):
        for number in range(writer.LANES + 4):
            os.write(bench.pipe(f"{number}:out", tmp_path / str(number) / "o"), b"%d" % number)
        bench.settle()
        assert [read(tmp_path / str(n) / "o") for n in range(12)] == [b"%d" % n for n in range(12)]


class TestFiles:
    def test_nothing_is_made_for_a_pipe_before_something_comes_from_it(self, bench, tmp_path, monkeypatch):
        made, real = [], outlets.log_file
        monkeypatch.setattr(outlets, "log_file", lambda path, *more: made.append(path) or real(path, *more))
        first, then = str(tmp_path / "o"), str(tmp_path / "p")
        end = bench.pipe("1:out", first)
        bench.settle()
        bench.writer.line("own")
        assert bench.ask(bench.writer.reopen) == 1
        assert bench.writer.dropped(first) == (0, 0)
        bench.writer.redirect({"1:out": then}, {"1:out": Options(max_size=10, compress=False)})
        bench.settle()
        assert [path for path in made if path in {first, then}] == []
        os.write(end, b"line 1\n")
        bench.settle()
        os.write(end, b"line 2\n")
        bench.ask(bench.writer.forget, "1:out")
        assert (read(f"{then}.1"), read(then)) == (b"line 1\n", b"line 2\n")
        assert made.count(then) == 1
        assert not os.path.exists(first)

    def test_of_pipes_that_go_to_one_file_some_may_be_silent(self, bench, tmp_path):
        one = bench.pipe("1:out", tmp_path / "o")
        bench.pipe("2:out", tmp_path / "o")
        os.write(one, b"a ha")
        bench.settle("2:out")
        bench.writer.redirect({"2:out": str(tmp_path / "p")})
        os.write(one, b"lf\n")
        bench.settle()
        bench.ask(bench.writer.forget, "2:out")
        os.write(one, b"b\n")
        bench.settle("1:out")
        assert read(tmp_path / "o") == b"a half\nb\n"
        assert not (tmp_path / "p").exists()

    def test_flush_empties(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o")
        os.write(end, b"old\n")
        bench.settle()
        (tmp_path / "else").write_bytes(b"not open here")
        problems = bench.ask(
            bench.writer.flush_files, [str(tmp_path / "o"), str(tmp_path / "else"), str(tmp_path / "none")]
        )
        assert problems == []
        os.write(end, b"new\n")
        bench.settle()
        assert (read(tmp_path / "o"), read(tmp_path / "else")) == (b"new\n", b"")
        assert not (tmp_path / "none").exists()

    def test_what_cannot_be_emptied_is_told(self, bench, tmp_path):
        (tmp_path / "d").mkdir()
        assert bench.ask(bench.writer.flush_files, [str(tmp_path / "d")]) == [
            f"cannot empty {tmp_path / 'd'}: Is a directory"
        ]

    def test_reopen_follows_a_rename(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o")
        bench.writer.line("own")
        os.write(end, b"1\n")
        bench.settle()
        os.rename(tmp_path / "o", tmp_path / "o.1")
        os.write(end, b"2\n")
        bench.settle()
        assert bench.ask(bench.writer.reopen) == 2
        os.write(end, b"3\n")
        bench.settle()
        assert (read(tmp_path / "o.1"), read(tmp_path / "o")) == (b"1\n2\n", b"3\n")

    def test_reopen_waits_for_the_end_of_a_line_but_not_for_ever(self, bench, tmp_path, monkeypatch):
        monkeypatch.setattr(logfile, "PATIENCE", 1000.0)
        monkeypatch.setattr(loglane, "PATIENCE", 0.01)
        end = bench.pipe("1:out", tmp_path / "o")
        os.write(end, b"hal")
        bench.settle()
        os.rename(tmp_path / "o", tmp_path / "o.1")
        done = threading.Event()
        bench.writer.reopen(lambda _: done.set())
        bench.settle()
        os.write(end, b"f\nnext\n")
        assert done.wait(PATIENCE)
        bench.settle()
        assert (read(tmp_path / "o.1"), read(tmp_path / "o")) == (b"half\n", b"next\n")
        os.write(end, b"never ended")
        bench.settle()
        monkeypatch.setattr(logfile, "PATIENCE", 0.0)
        assert bench.ask(bench.writer.reopen) >= 1

    @pytest.mark.parametrize("how", ["rename", "remove"])
    def test_a_file_that_was_moved_away_is_noticed(self, bench, tmp_path, monkeypatch, how):
        monkeypatch.setattr(logfile, "LOOK", 0.0)
        end = bench.pipe("1:out", tmp_path / "o")
        os.write(end, b"1\n")
        bench.settle()
        os.rename(tmp_path / "o", tmp_path / "o.1") if how == "rename" else os.unlink(tmp_path / "o")
        os.write(end, b"2\n")
        bench.settle()
        assert read(tmp_path / "o") == b"2\n"

    def test_a_truncated_file_has_no_hole(self, bench, tmp_path):
        end = bench.pipe("1:out", tmp_path / "o")
        for _ in range(20):
            os.write(end, b"some line\n")
            bench.settle()
            os.truncate(tmp_path / "o", 0)
        os.write(end, b"some line\n")
        bench.settle()
        assert read(tmp_path / "o") == b"some line\n"

    def test_a_fifo_that_nobody_reads_holds_nobody(self, bench, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        end = bench.pipe("1:out", tmp_path / "fifo")
        for _ in range(10):
            os.write(end, b"x" * 65536)
        bench.settle()
        lost, _ = bench.writer.dropped(str(tmp_path / "fifo"))
        assert 0 < lost <= 10 * 65536
