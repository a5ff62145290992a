"""One mistake in a thread of the supervisor costs one try: the thread goes on, and what it had to do is done after all."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from waiting import until, wait_for
from writer_harness import Bench, read

from impetusd.supervisor.disk import ledger, state
from impetusd.supervisor.logs import logthread, rotation
from impetusd.supervisor.threads import NoAnswer, Threads


class Mistake(Exception):
    pass


def failing(real: Callable[..., Any], times: int) -> Callable[..., Any]:
    """`real`, which raises so many times first."""
    left = [times]

    def act(*args: Any, **kwargs: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise Mistake
        return real(*args, **kwargs)

    return act


@pytest.mark.parametrize("times", [1, 3])
def test_of_the_ledger(tmp_path, monkeypatch, times):
    monkeypatch.setattr(ledger, "AGAIN", 0.01)
    monkeypatch.setattr(ledger, "_append", failing(ledger._append, times))
    told: list[str] = []
    path = str(tmp_path / "ledger.jsonl")
    made = ledger.Ledger(path, {}, lambda call: call(), told.append)
    made.add("daemon", what="began")
    made.puts()
    made.sent()
    wait_for(lambda: made.last == 1 and not made.waiting(), "the record")
    assert read(path).count(b"\n") == 1
    assert told[0].startswith(f"{path} cannot be written: internal error: Mistake(); retrying")
    assert told[1:] == [f"{path} can be written again"]
    made.close()


def test_of_the_state(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "AGAIN", 0.01)
    monkeypatch.setattr(state, "write", failing(state.write, 2))
    told: list[str] = []
    path = str(tmp_path / "state.json")

    async def scenario() -> None:
        file = state.StateFile(path, told.append)
        file.save({"slots": {}})
        await until(lambda: os.path.exists(path) and told[-1].endswith("can be written again"), "the file")
        await file.close()

    asyncio.run(scenario())
    assert "Mistake()" in told[0]


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.close()


def test_of_the_log_writer(bench, tmp_path, monkeypatch):
    """Its third in a row has it rest; what was printed meanwhile waits in the pipe."""
    monkeypatch.setattr(logthread, "AGAIN", 0.02)
    noted: list[str] = []
    bench.writer.shared.note = lambda source, stage, error: noted.append(f"{source}: {stage}: {error!r}")
    end = bench.pipe("1:out", tmp_path / "o")
    os.write(end, b"before\n")
    wait_for(lambda: read(tmp_path / "o") == b"before\n", "the first line")
    monkeypatch.setattr(logthread.LogThread, "_patience", failing(logthread.LogThread._patience, 2 * logthread.FAULTS))
    os.write(end, b"after\n")
    wait_for(lambda: read(tmp_path / "o") == b"before\nafter\n", "the second line")
    wait_for(lambda: len(noted) == 2 * logthread.FAULTS, "the faults")
    assert set(noted) == {"log writer: processing log pipes: Mistake()"}


def test_of_the_log_writer_in_what_was_asked_of_it(bench, tmp_path):
    noted: list[str] = []
    bench.writer.shared.note = lambda source, stage, error: noted.append(repr(error))
    end = bench.pipe("1:out", tmp_path / "o")
    for lane in bench.writer._threads:
        lane.call(failing(print, 1))
        lane.call(lane.thread.do_later, 0.0, failing(print, 1))
    os.write(end, b"line\n")
    wait_for(lambda: read(tmp_path / "o") == b"line\n", "the line")
    wait_for(lambda: len(noted) == 2 * len(bench.writer._threads), "the faults")


class TestAThreadThatCannotBeStarted:
    """RuntimeError is pids.max'; without memory it is another. It is tried again, and nothing waits for it for ever."""

    @pytest.fixture(params=[RuntimeError("can't start new thread"), MemoryError()], ids=["pids", "memory"])
    def refused(self, request, monkeypatch):
        """How often a thread was refused. The first one is."""
        real, count = threading.Thread.start, []

        def start(thread: threading.Thread) -> None:
            count.append(thread.name)
            if len(count) == 1:
                raise request.param
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)
        return count

    def test_for_a_call(self, refused):
        async def scenario() -> None:
            threads = Threads("of one", 1)
            with pytest.raises(NoAnswer):
                await threads.run(int, 60.0)
            assert await threads.run(int, 60.0) == 0

        asyncio.run(scenario())

    def test_for_the_state(self, tmp_path, monkeypatch, refused):
        monkeypatch.setattr(state, "AGAIN", 0.01)
        path = str(tmp_path / "state.json")

        async def scenario() -> None:
            file = state.StateFile(path, lambda _: None)
            file.save({"slots": {}})
            await until(lambda: os.path.exists(path), "the file")
            await file.close()

        asyncio.run(scenario())

    def test_for_the_ledger(self, tmp_path, monkeypatch, refused):
        monkeypatch.setattr(ledger, "AGAIN", 0.0)
        made = ledger.Ledger(str(tmp_path / "ledger.jsonl"), {}, lambda call: call(), lambda _: None)
        made.add("daemon", what="began")
        made.puts()
        made.sent()
        wait_for(lambda: made.last == 1 and not made.waiting(), "the record")
        made.close()

    def test_for_a_log(self, tmp_path, monkeypatch, refused):
        monkeypatch.setattr(logthread, "BEGIN_AGAIN", 0.0)
        bench = Bench(tmp_path)
        for each in ("first", "second"):
            bench.writer.line(each)
        wait_for(lambda: read(tmp_path / "impetusd.log").count(b"\n") >= 2, "the lines")
        bench.close()

    def test_for_a_compressor(self, tmp_path, refused):
        for number in (1, 2):
            (tmp_path / f"a.log.{number}").write_text("line\n")
            rotation.compress_soon(str(tmp_path / "a.log"))
        wait_for((tmp_path / "a.log.2.gz").exists, "the file")
        wait_for(lambda: str(tmp_path) not in rotation._waiting, "the thread's end")


def test_of_the_compressor(tmp_path, monkeypatch):
    """The next file has its turn."""
    monkeypatch.setattr(rotation, "compress_all", failing(rotation.compress_all, 1))
    for name in ("a", "b"):
        for number in (1, 2):
            (tmp_path / f"{name}.log.{number}").write_text("line\n")
        rotation.compress_soon(str(tmp_path / f"{name}.log"))
    wait_for((tmp_path / "b.log.2.gz").exists, "the second one's file")
    wait_for(lambda: str(tmp_path) not in rotation._waiting, "the thread's end")
    assert not (tmp_path / "a.log.2.gz").exists()
