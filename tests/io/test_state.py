"""The file that survives a reboot: whole after any kill, written one at a time, read whatever is in its place."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from waiting import turns, until

from impetusd.linux.procfs import boot_id
from impetusd.supervisor.disk import state as module
from impetusd.supervisor.disk.state import StateFile, write

WRITER = Path(__file__).parent.parent / "programs" / "job_write_state.py"
KILLS = 100


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "state.json")


@pytest.fixture
def told():
    return []


def numbers(path, told):
    """What a fresh start reads: the state's number, or None."""
    return StateFile(path, told.append).load().get("number")


def test_a_thread_that_cannot_be_started_once_is_tried_again(path, told, monkeypatch):
    monkeypatch.setattr(module, "AGAIN", 0.01)
    real, refused = threading.Thread.start, []

    def start(thread):
        if not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)

    async def main():
        file = StateFile(path, told.append)
        file.save({"number": 1})
        await until(lambda: os.path.exists(path))
        await file.close()

    asyncio.run(main())
    assert numbers(path, told) == 1
    assert told == [
        f"{path} cannot be written: can't start new thread; retrying every 0.01 s",
        f"{path} can be written again",
    ]


class TestFile:
    def test_what_was_written_is_read(self, path, told):
        write(path, {"slots": {"web:0": 1}, "boot_id": "b"})
        assert StateFile(path, told.append).load() == {"slots": {"web:0": 1}, "boot_id": "b"}
        assert told == []

    def test_nobody_else_reads_it(self, path):
        for _ in range(2):
            write(path, {})
        assert [os.stat(each).st_mode & 0o777 for each in (path, f"{path}.old")] == [0o600, 0o600]

    def test_the_one_before_is_kept(self, path):
        for number in range(4):
            write(path, {"number": number})
        assert json.loads(Path(f"{path}.old").read_text(encoding="utf-8"))["number"] == 2
        assert sorted(os.listdir(os.path.dirname(path))) == ["state.json", "state.json.old"]

    def test_a_first_start_has_nothing_and_says_nothing(self, path, told):
        assert StateFile(path, told.append).load() == {}
        assert told == []

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "Expecting value: line 1 column 1 (char 0)"),
            (b'{"version":1,"numb', "Unterminated string starting at: line 1 column 14 (char 13)"),
            (b"\0" * 4096, "Expecting value: line 1 column 1 (char 0)"),
            (b"\xff\xfe\xff", None),
            (b"[" * 200_000, None),
            (b"[1]", "it was not written by impetusd"),
            (b'{"number": 5}', "it was not written by impetusd"),
            (b'{"version": 99}', "it was written by another version of impetusd"),
        ],
        ids=["empty", "torn", "zeros", "binary", "nested", "list", "foreign", "future"],
    )
    def test_what_cannot_be_read_gives_way_to_the_one_before(self, path, told, text, reason):
        write(path, {"number": 1})
        write(path, {"number": 2})
        Path(path).write_bytes(text)
        assert numbers(path, told) == 1
        assert len(told) == 1
        assert told[0].startswith(f"{path} cannot be read ({reason or ''}")
        assert told[0].endswith(f"; using the previous version in {path}.old")
        write(path, {"number": 3})  # and what could not be read does not take the good one's place
        Path(path).write_bytes(text)
        assert numbers(path, told) in {1, 3}

    def test_when_neither_can_be_read_it_begins_empty_and_says_so(self, path, told):
        write(path, {"number": 1})
        write(path, {"number": 2})
        Path(path).write_bytes(b"{")
        Path(f"{path}.old").write_bytes(b"")
        assert StateFile(path, told.append).load() == {}
        assert len(told) == 1
        assert told[0].endswith("the state saved across reboots is lost")

    def test_a_directory_in_its_place(self, path, told):
        os.mkdir(path)
        assert StateFile(path, told.append).load() == {}
        assert told == [f"{path} cannot be read (Is a directory); the state saved across reboots is lost"]

    def test_killed_while_it_writes_it_is_never_unreadable(self, path, told):
        """Row 54. Each child is killed at a random moment of its writing; what it said was saved is there, or a later one."""
        moments = random.Random(54)
        number = 0
        for _ in range(KILLS):
            child = subprocess.Popen(
                [sys.executable, "-ES", str(WRITER), path, module.__file__, str(number)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert child.stdout is not None
            for _ in range(moments.randrange(1, 6)):
                number = int(child.stdout.readline())
            threading.Event().wait(moments.random() * 0.002)  # some way into the next one
            child.kill()
            child.wait()
            number = max([number, *map(int, child.stdout.read().split())])
            child.stdout.close()
            found = numbers(path, told)
            assert found is not None
            assert number <= found <= number + 1
            number = found + 1
        assert told == []


class Disk:
    """Takes the place of `write`: lets each through when told to, or fails."""

    def __init__(self, monkeypatch):
        self.written = []
        self.error = None
        self.begun = threading.Semaphore(0)
        self.free = threading.Semaphore(0)
        monkeypatch.setattr(module, "write", self.write)

    def write(self, path, content):
        self.begun.release()
        assert self.free.acquire(timeout=20)
        if self.error is not None:
            raise self.error
        self.written.append(content["number"])

    async def began(self):
        assert await asyncio.to_thread(self.begun.acquire, timeout=20)


class TestSaving:
    @pytest.fixture
    def disk(self, monkeypatch):
        monkeypatch.setattr(module, "APART", 0.0)
        monkeypatch.setattr(module, "AGAIN", 0.0)
        return Disk(monkeypatch)

    def test_one_at_a_time_and_the_latest_wins(self, disk, path, told):
        async def run():
            state = StateFile(path, told.append)
            state.save({"number": 1})
            await disk.began()
            for number in range(2, 100):
                state.save({"number": number})
            assert not disk.begun.acquire(blocking=False)
            disk.free.release(2)
            await disk.began()
            await state.close()

        asyncio.run(run())
        assert disk.written == [1, 99]

    def test_the_event_loop_does_not_wait_for_the_disk(self, disk, path, told):
        async def run():
            state = StateFile(path, told.append)
            state.save({"number": 1})
            await disk.began()
            closing = asyncio.ensure_future(state.close())
            await turns(100)  # the loop goes round while the disk hangs
            assert not closing.done()
            disk.free.release()
            await closing

        asyncio.run(run())
        assert disk.written == [1]

    def test_close_gives_up_on_a_disk_that_hangs(self, disk, path, told):
        async def run():
            state = StateFile(path, told.append)
            state.save({"number": 1})
            await state.close(patience=0.01)

        asyncio.run(run())
        assert disk.written == []
        disk.free.release()

    def test_writes_are_apart_unless_one_is_urgent(self, disk, path, told, monkeypatch):
        monkeypatch.setattr(module, "APART", 3600.0)

        async def run():
            state = StateFile(path, told.append)
            disk.free.release(10)
            state.save({"number": 1})
            await until(lambda: disk.written == [1] and not state._writing)
            state.save({"number": 2})
            state.save({"number": 3})
            assert not state._writing
            state.save({"number": 4}, urgent=True)
            await until(lambda: disk.written == [1, 4] and not state._writing)
            state.save({"number": 5})
            assert not state._writing
            await state.close()

        asyncio.run(run())
        assert disk.written == [1, 4, 5]

    def test_a_failure_is_told_once_and_tried_again_until_it_goes(self, disk, path, told):
        disk.error = OSError(28, "No space left on device")

        async def run():
            state = StateFile(path, told.append)
            state.save({"number": 1})
            for _ in range(3):
                await disk.began()
                disk.free.release()
            await disk.began()
            disk.error = None
            disk.free.release()
            await until(lambda: disk.written)
            await state.close()

        asyncio.run(run())
        assert disk.written == [1]
        assert told == [
            f"{path} cannot be written: No space left on device; retrying every 0 s",
            f"{path} can be written again",
        ]

    def test_close_does_not_try_for_ever(self, disk, path, told):
        disk.error = OSError(30, "Read-only file system")
        disk.free.release(100)

        async def run():
            state = StateFile(path, told.append)
            state.save({"number": 1})
            async with asyncio.timeout(20):
                await state.close(patience=3600.0)

        asyncio.run(run())
        assert disk.written == []

    def test_closed_without_a_save_nothing_is_written(self, path, told):
        asyncio.run(StateFile(path, told.append).close())
        assert not os.path.exists(path)

    def test_for_real(self, path, told):
        async def run():
            state = StateFile(path, told.append)
            for number in range(50):
                state.save({"number": number})
                await turns()
            await state.close()

        asyncio.run(run())
        assert numbers(path, told) == 49

    def test_a_directory_that_is_gone_is_told(self, tmp_path, told):
        async def run():
            state = StateFile(str(tmp_path / "gone" / "state.json"), told.append)
            state.save({"number": 1})
            await state.close()

        asyncio.run(run())
        assert told == [f"{tmp_path}/gone/state.json cannot be written: No such file or directory; retrying every 5 s"]


def test_the_kernel_names_this_boot():
    assert boot_id() == boot_id() != ""
