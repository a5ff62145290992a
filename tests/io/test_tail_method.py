"""`tail`: a log page by page, followed over rotation, bounded, with what looks secret hidden."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading

import pytest
from supervisor_world import Shim
from waiting import until

from impetusd.core import protocol
from impetusd.core.protocol import ProtocolError
from impetusd.files import logpage
from impetusd.files.logpage import Log


def write(path, text, mode="a"):
    with open(path, mode, encoding="utf-8") as file:
        file.write(text)


class TestPages:
    def test_the_last_one_then_what_comes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(logpage, "MOST", 20)
        path = str(tmp_path / "log")
        log = Log(path)
        assert log.read() is None  # it is not there yet
        write(path, "".join(f"line {n}\n" for n in range(10)))
        page = log.read()
        assert (page.lines, page.offset, page.next, page.more) == ([b"line 8", b"line 9"], 56, 70, False)
        assert log.read() is None
        write(path, "half")
        assert log.read() is None
        write(path, " and whole\n" + "next\n" * 5)
        assert log.read().lines == [b"half and whole", b"next"]
        assert [log.read().lines, log.read()] == [[b"next"] * 4, None]
        log.close()

    def test_from_an_offset_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr(logpage, "MOST", 20)
        path = str(tmp_path / "log")
        write(path, "".join(f"line {n}\n" for n in range(10)))
        log = Log(path, "", 7)
        page = log.read()
        assert (page.lines, page.next, page.more) == ([b"line 1", b"line 2"], 21, True)
        log.close()
        again = Log(path, page.file, page.next)
        assert again.read().lines == [b"line 3", b"line 4"]
        again.close()

    def test_a_line_without_an_end_comes_in_pieces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(logpage, "MOST", 20)
        path = str(tmp_path / "log")
        write(path, "x" * 50 + "\n")
        log = Log(path, "", 0)
        assert [log.read().lines, log.read().lines, log.read().lines] == [[b"x" * 20], [b"x" * 20], [b"x" * 10]]
        log.close()

    def test_over_rotation_nothing_is_missed(self, tmp_path):
        path = str(tmp_path / "log")
        write(path, "one\n")
        log = Log(path)
        first = log.read()
        write(path, "two\n")
        os.rename(path, path + ".1")
        write(path, "three\n")
        assert log.read().lines == [b"two"]
        page = log.read()
        assert (page.lines, page.offset, page.anew) == ([b"three"], 0, True)
        assert log.read() is None
        log.close()
        again = Log(path, first.file, 4)  # of a file that is gone
        assert (again.read().anew, first.file != page.file) == (True, True)
        again.close()

    def test_one_that_was_cut_begins_anew(self, tmp_path):
        path = str(tmp_path / "log")
        write(path, "one\n" * 10)
        log = Log(path)
        log.read()
        write(path, "two\n", "w")
        page = log.read()
        assert (page.lines, page.anew) == ([b"two"], True)
        log.close()

    def test_what_is_no_file_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError, match="not a regular file"):
            Log(str(tmp_path / "fifo")).read()

    def test_is_closed_by_who_reads_it_when_it_hangs(self, tmp_path, monkeypatch):
        path = str(tmp_path / "log")
        write(path, "one\n")
        log, hangs, goes_on = Log(path), threading.Event(), threading.Event()
        right = os.pread

        def pread(fd, count, at):
            hangs.set()
            goes_on.wait()
            return right(fd, count, at)

        monkeypatch.setattr(os, "pread", pread)
        thread = threading.Thread(target=log.read)
        thread.start()
        hangs.wait()
        log.close()
        (fd,) = [fd for fd in os.listdir("/proc/self/fd") if is_at(fd, path)]
        goes_on.set()
        thread.join()
        assert not is_at(fd, path)


def is_at(fd, path):
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == path
    except FileNotFoundError:
        return False


@pytest.fixture
def shim():
    with tempfile.TemporaryDirectory(prefix="impw", dir="/tmp") as folder:
        ini = "[impetusd]\n[env:a]\nTOKEN = hunter22hunter\n[program:a]\ncommand = x\n[program:b]\ncommand = x\ninstances = 2\n"
        made = Shim(os.path.realpath(folder), ini)
        yield made
        made.close()


def test_the_method_hides_secrets_and_goes_on_for_one_who_follows(shim):
    path = f"{shim.paths.log_dir}/a-out.log"

    async def scenario(life):
        write(path, "password=abc\nit is hunter22hunter\n\xff\n")
        answer = await life.ask("tail", name="a")
        assert (answer["path"], answer["lines"]) == (path, ["password=***", "it is ***", "\xff"])
        assert (await life.ask("tail", name="a", stream="error"))["lines"] == []
        with pytest.raises(ProtocolError, match="b has several slots, each with its own log: b:0, b:1"):
            await life.ask("tail", name="b")

        async def ours():
            return "supervisor: began" in "".join((await life.ask("tail", name="impetusd"))["lines"])

        await until(ours, "the log's thread to write down our first line")
        reader, writer = await asyncio.open_unix_connection(shim.paths.control_socket)
        where = {"offset": answer["next"], "file": answer["file"], "follow": True}
        writer.write(protocol.request_line(1, "tail", {"name": "a", **where}))
        assert json.loads(await reader.readline())["result"]["lines"] == []
        write(path, "token: hunter22hunter\n")
        notice = json.loads(await reader.readline())
        assert (notice["method"], notice["params"]["lines"]) == ("lines", ["token: ***"])
        writer.close()
        await until(lambda: not life.daemon.control._tasks)
        assert not any(is_at(fd, path) for fd in os.listdir("/proc/self/fd"))

    shim.live(scenario)
