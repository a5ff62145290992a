"""What goes wrong with one log, by a mistake or by intent, is the trouble of that one: the others go on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading

import pytest
from waiting import PATIENCE, wait_for
from writer_harness import DEADLINE, Bench, read

from impetusd.supervisor.logs import loglane, logpipe, logthread, mover, rotation, writer
from impetusd.supervisor.logs.lines import Options
from impetusd.supervisor.logs.logpipe import own_end
from impetusd.supervisor.start import pipes


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


class Mistake(Exception):
    pass


@pytest.mark.parametrize("part", ["dress", "split"])
def test_what_raises_for_one_pipe_is_told_once_and_rests_and_the_others_go_on(bench, tmp_path, monkeypatch, part):
    real = getattr(mover, part)

    def raising(data, *more, **others):
        if b"bad" in data:
            raise Mistake
        return real(data, *more, **others)

    monkeypatch.setattr(loglane, "AGAIN", DEADLINE)
    monkeypatch.setattr(mover, part, raising)
    bad, good = (bench.pipe(f"{name}:out", tmp_path / "o", Options(time=True)) for name in ("bad", "good"))
    for number in range(loglane.FAULTS):
        os.write(bad, b"bad\n")
        wait_for(lambda number=number: bench.writer._pipes["bad:out"].faults > number, "the fault")
    wait_for(lambda: bench.writer._pipes["bad:out"].parked, "its rest")
    os.write(bad, b"bad\n")
    os.write(good, b"good\n")
    wait_for(lambda: b"good" in read(tmp_path / "o"), "the other's line")
    assert bench.writer._pipes["bad:out"].faults == loglane.FAULTS
    assert bench.log().count("Traceback") == 1
    monkeypatch.setattr(mover, part, real)
    bench.settle()  # who asks does not wait for the rest
    assert [line.split(b" ", 1)[1] for line in read(tmp_path / "o").splitlines()] == [b"good", b"bad"]


def test_after_its_rest_it_is_read_again(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(loglane, "AGAIN", 0.01)
    monkeypatch.setattr(loglane, "FAULTS", 1)
    monkeypatch.setattr(mover, "dress", lambda *_, **__: 1 / 0)
    end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
    os.write(end, b"lost\n")
    wait_for(lambda: bench.writer._pipes["1:out"].faults, "the fault")
    monkeypatch.undo()
    os.write(end, b"kept\n")
    wait_for(lambda: read(tmp_path / "o").endswith(b" kept\n"), "the line")


def test_who_asks_is_answered_whatever_raises(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(mover, "dress", lambda *_, **__: 1 / 0)
    end = bench.pipe("1:out", tmp_path / "o", Options(time=True))
    os.write(end, b"why it ended\n")
    assert bench.tail("1:out") == b"why it ended\n"
    os.write(end, b"more\n")
    forgotten = threading.Event()
    bench.writer.forget("1:out", forgotten.set)
    assert forgotten.wait(DEADLINE)


def test_a_pipe_that_cannot_be_watched_now_is_watched_later(bench, tmp_path, monkeypatch):
    class Full:
        def __init__(self, epoll):
            self.epoll = epoll

        def __getattr__(self, name):
            return getattr(self.epoll, name)

        def register(self, *_):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loglane, "AGAIN", 0.01)
    os.write(bench.pipe("0:out", tmp_path / "p"), b"x\n")  # a lane is there
    bench.settle()
    thread = bench.writer._lane(bench.writer._pipes["0:out"].place).thread
    real = thread._epoll
    thread._epoll = Full(real)
    os.write(bench.pipe("1:out", tmp_path / "o"), b"kept\n")
    wait_for(lambda: bench.writer._pipes["1:out"].faults > 1, "two tries")
    thread._epoll = real
    bench.settle()
    assert read(tmp_path / "o") == b"kept\n"
    assert bench.log().count(": No space left on device; retrying") == 1


@pytest.mark.parametrize("options", [{}, {"time": True}], ids=["plain", "time"])
def test_no_flag_and_no_rival_reader_of_a_unit_makes_anybody_wait(bench, tmp_path, options):
    """A unit holds a read end of its own log pipe: so that it does not die when all of impetusd has."""
    theirs, end = os.pipe2(os.O_CLOEXEC)
    ours = own_end(theirs)
    bench.ends["hostile:out"] = (ours, end)
    bench.writer.add("hostile:out", ours, str(tmp_path / "o"), Options(**options))
    good = bench.pipe("good:out", tmp_path / "p", Options(**options))
    over = threading.Event()

    def compete():
        while not over.is_set():
            os.set_blocking(theirs, True)
            os.write(end, b"x")
            os.read(theirs, 1 << 16)  # blocks when we were quicker

    rival = threading.Thread(target=compete, daemon=True)
    rival.start()
    try:
        for number in range(200):
            bench.begin_run("hostile:out")
            bench.writer.end_run("hostile:out")
            os.write(good, b"%d\n" % number)
        bench.settle("good:out")
        wait_for(lambda: read(tmp_path / "p").count(b"\n") == 200, "the other's lines")
        assert not os.get_blocking(ours)
    finally:
        over.set()
        while rival.is_alive():
            with contextlib.suppress(BlockingIOError):
                os.write(end, b"x")
            rival.join(0.01)
        os.close(theirs)


def test_the_read_end_that_is_ours_shares_no_flag_with_the_one_that_programs_have():
    theirs, ours = pipes._pipes("log:1")
    try:
        for name, own in ours.items():
            os.set_blocking(theirs[name], False)
            os.set_blocking(theirs[name], True)
            assert not os.get_blocking(own)
            os.write(theirs[name.replace(":r", ":w")], b"x")
            assert os.read(own, 1) == b"x"
            with pytest.raises(BlockingIOError):
                os.read(own, 1)
    finally:
        for fd in (*theirs.values(), *ours.values()):
            os.close(fd)


@pytest.mark.parametrize("call", ["begin_run", "end_run", "unwatch"])
def test_the_supervisor_waits_for_no_lock_of_a_pipe(bench, tmp_path, monkeypatch, call):
    monkeypatch.setattr(logpipe, "LOCKED", 0.01)
    bench.pipe("1:out", tmp_path / "o")
    bench.settle()
    with bench.writer._pipes["1:out"].lock:
        getattr(bench if call == "begin_run" else bench.writer, call)("1:out")


def test_a_thread_that_cannot_be_started_is_tried_again(bench, tmp_path, monkeypatch):
    """With pids.max reached, say."""
    monkeypatch.setattr(logthread, "BEGIN_AGAIN", 0.01)
    bench.writer.line("the first thread is there")
    start, refused = threading.Thread.start, []

    def refuse(thread):
        if thread.name == "log writer" and len(refused) < 5:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    end = bench.pipe("1:out", tmp_path / "d" / "o")
    os.write(end, b"in the end\n")
    wait_for(lambda: read(tmp_path / "d" / "o") == b"in the end\n", "the line")
    assert len(refused) == 5
    assert bench.log().count("can't start new thread") == 1


def test_a_compressor_that_cannot_be_started_is_tried_again_with_the_next_rotation(tmp_path, monkeypatch):
    start = threading.Thread.start

    def refuse(_):
        raise RuntimeError("can't start new thread")

    for number in (1, 2, 3):
        (tmp_path / f"o.{number}").write_text("old\n")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    rotation.compress_soon(str(tmp_path / "o"))
    monkeypatch.setattr(threading.Thread, "start", start)
    rotation.compress_soon(str(tmp_path / "o"))
    wait_for(lambda: (tmp_path / "o.3.gz").exists() and not (tmp_path / "o.3").exists(), "the compressed file")


def test_a_disk_that_does_not_answer_holds_up_no_other_rotation(tmp_path, monkeypatch):
    """Neither the renames nor the compressor of another folder wait for it."""
    packing, renaming, answered = threading.Event(), threading.Event(), threading.Event()
    rename, copy = os.rename, shutil.copyfileobj

    def hang(frozen):
        frozen.set()
        assert answered.wait(PATIENCE)

    for name in ("renamed", "packed", "fine"):
        (tmp_path / name).mkdir()
        for number in ("", ".1", ".2"):
            (tmp_path / name / f"o{number}").write_text(f"{name}{number}\n")
    monkeypatch.setattr(shutil, "copyfileobj", lambda *a: (hang(packing), copy(*a)))
    rotation.compress_soon(str(tmp_path / "packed" / "o"))
    assert packing.wait(PATIENCE)
    monkeypatch.setattr(shutil, "copyfileobj", copy)
    monkeypatch.setattr(os, "rename", lambda *a, **k: (hang(renaming), rename(*a, **k)))
    lane = threading.Thread(
        target=rotation.rotate, args=(str(tmp_path / "renamed" / "o"), 5), kwargs={"compress": False}
    )
    lane.start()
    assert renaming.wait(PATIENCE)
    monkeypatch.setattr(os, "rename", rename)
    try:
        rotation.rotate(str(tmp_path / "fine" / "o"), 5, compress=True)
        wait_for(lambda: names(tmp_path / "fine") == ["o.1", "o.2.gz", "o.3.gz"], "the other folder's files")
        assert names(tmp_path / "renamed") == ["o", "o.1", "o.2"]
    finally:
        answered.set()
        lane.join(PATIENCE)
    assert names(tmp_path / "renamed") == ["o.1", "o.2", "o.3"]
    wait_for(lambda: names(tmp_path / "packed") == ["o", "o.1", "o.2.gz"], "the frozen folder's files")


def names(folder):
    return sorted(os.listdir(folder))


def test_standard_output_that_nobody_reads_holds_up_no_other_log(bench):
    """It has a thread of its own, as each folder has; the daemon's own log has one that it shares with nobody."""
    paths = ["standard output", "standard error", *(f"/nowhere/{number}/o" for number in range(40))]
    lanes = [bench.writer._lane(writer._place(path)) for path in paths]
    assert lanes[0] is not lanes[1]
    assert bench.writer._main not in lanes


def test_a_pattern_that_backtracks_for_ages_holds_nobody(bench, tmp_path):
    bad, good = (bench.pipe(f"{name}:out", tmp_path / "o") for name in ("bad", "good"))
    found = threading.Event()
    bench.writer.watch_line("bad:out", rb"(a+)+$", found.set)
    os.write(bad, b"a" * 40 + b"!\n")
    os.write(good, b"good\n")
    wait_for(lambda: read(tmp_path / "o").count(b"\n") == 2, "both lines")
    assert not found.is_set()
    os.write(bad, b"a" * 40 + b"\n")
    assert found.wait(PATIENCE)


@pytest.mark.parametrize("pattern", [rb"(?=.*r)re(a)d\Zy|(o)\1n", b"(?:on){1,9999}"])
def test_a_pattern_that_is_refused_today_is_looked_for_if_it_is_in_force(bench, tmp_path, pattern):
    end, found = bench.pipe("1:out", tmp_path / "o"), threading.Event()
    bench.writer.watch_line("1:out", pattern, found.set)
    os.write(end, b"it is on\n")
    assert found.wait(DEADLINE)


def test_one_whose_every_byte_is_costly_rests_in_between_and_all_of_it_is_written(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(loglane, "COSTLY", 0.0)
    rests, park = [], loglane.Lane._park
    monkeypatch.setattr(
        loglane.Lane, "_park", lambda lane, pipe, *more: rests.append(pipe.name) or park(lane, pipe, *more)
    )
    dear, cheap = (bench.pipe(f"{name}:out", tmp_path / name) for name in ("dear", "cheap"))
    found = threading.Event()
    bench.writer.watch_line("dear:out", rb"ready$", found.set)
    text = b"not yet\n" * 4000
    os.write(dear, text)
    wait_for(lambda: read(tmp_path / "dear") == text, "all of it")
    assert rests.count("dear:out") >= len(text) // logpipe.WATCHED
    os.write(cheap, text)
    os.write(dear, b"ready\n")
    assert found.wait(DEADLINE)
    wait_for(lambda: read(tmp_path / "cheap") == text, "the other's")
    assert "cheap:out" not in rests


def test_of_a_run_that_is_over_little_is_looked_at_and_of_the_next_all(bench, tmp_path):
    end, found = bench.pipe("1:out", tmp_path / "o"), threading.Event()
    bench.begin_run("1:out")
    bench.writer.watch_line("1:out", b"ready", found.set)
    pipe = bench.writer._pipes["1:out"]
    with pipe.lock:  # nothing is read meanwhile
        os.write(end, b"x" * 2 * logpipe.WATCHED + b"ready\n")
        pipe.ended, pipe.goes_on = pipe.total + pipe.unread(), False
    bench.settle()
    assert not found.is_set()
    bench.begin_run("1:out")
    bench.writer.watch_line("1:out", b"ready", found.set)
    os.write(end, b"x" * 2 * logpipe.WATCHED + b"ready\n")
    assert found.wait(DEADLINE)


@pytest.mark.parametrize("lost", ["refused", "dropped"])
def test_a_wake_up_that_is_lost_is_made_up_for(tmp_path, monkeypatch, lost):
    """Else nothing that is asked of the thread would ever be done again."""
    kept: list[object] = []

    def soon(call):
        if not kept:
            kept.append(call)
            if lost == "refused":
                raise Mistake
            return
        call()

    monkeypatch.setattr(logthread, "ROUSED", -1.0 if lost == "dropped" else DEADLINE)
    bench = Bench(tmp_path, soon=soon)
    for each in ("first", "second"):
        bench.writer.line(each)
    wait_for(lambda: read(tmp_path / "impetusd.log").count(b"\n") == 2, "both lines")
    bench.close()
