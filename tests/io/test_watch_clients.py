"""The clients of `watch`: they go on over lost connections, and say when they may have missed something."""

from __future__ import annotations

import asyncio
import threading

import pytest
from fake_supervisor import FakeSupervisor, paths_in
from supervisor_world import in_a_folder
from waiting import until

from impetusd.client import async_control, control, watching
from impetusd.client.async_control import AsyncControl
from impetusd.client.control import ControlError, Unanswered
from impetusd.core import protocol, stream
from impetusd.core.protocol import METHOD_NOT_FOUND, ProtocolError
from impetusd.core.stream import Mirror

INI = "[impetusd]\n\n[program:a]\ncommand = sleep 1000\n"


@pytest.fixture
def shim():
    with in_a_folder(INI) as made:
        yield made


def cut(life):
    """End each connection that watches, as a supervisor's death does."""
    for task in life.daemon.control._tasks:
        task.cancel()


class Reading:
    """Follows `watch` of a client; `seen` has the changes."""

    def __init__(self, client, mirror):
        self.seen = []
        self.task = asyncio.create_task(self._read(client, mirror))

    async def _read(self, client, mirror):
        async for change in client.watch(mirror):
            self.seen.append(change)

    async def until(self, kind):
        await until(lambda: self.task.done() or any(each.kind == kind for each in self.seen), kind)
        return next(each for each in self.seen if each.kind == kind)

    async def end(self):
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class TestAsync:
    def test_asks_and_is_told_the_version(self, shim):
        async def scenario(_):
            client = AsyncControl(async_control.at(shim.paths.control_socket))
            assert (await client.call("status"))["units"][0]["name"] == "a"
            assert client.server == protocol.STATED
            told = []
            await client.call("start", {"names": ["a"]}, lambda params: told.append(params["state"]))
            assert told == ["STARTING", "RUNNING"]
            with pytest.raises(ControlError, match="no unit 'b'") as caught:
                await client.call("status", {"names": ["b"]})
            assert caught.value.exit == 4

        shim.live(scenario)

    def test_without_a_daemon_there_is_no_answer(self, shim):
        async def ask():
            await AsyncControl(async_control.at(shim.paths.control_socket)).call("ping")

        with pytest.raises(Unanswered, match="did not answer ping: No such file"):
            asyncio.run(ask())

    def test_resumes_what_it_watches_and_reports_a_gap(self, shim):
        async def scenario(life):
            client, mirror = AsyncControl(async_control.at(shim.paths.control_socket)), Mirror()
            reading = Reading(client, mirror)
            assert (await reading.until("snapshot")).value is False
            reading.seen.clear()
            cut(life)
            assert "closed" in (await reading.until("lost")).value
            await reading.until("resumed")
            await life.ask("start")
            await until(lambda: mirror.rows["unit"]["a:0"]["state"] == "RUNNING")
            reading.seen.clear()
            life.daemon.feed.ring.clear()  # what it would go on with is no longer there
            cut(life)
            assert (await reading.until("snapshot")).value is True
            assert [each.kind for each in reading.seen] == ["lost", "snapshot"]
            await reading.end()
            await until(lambda: not life.daemon.feed._watchers)

        shim.live(scenario)

    def test_is_told_that_the_daemon_is_too_old(self, tmp_path):
        paths = paths_in(tmp_path)

        async def watch():
            async for _ in AsyncControl(async_control.at(paths.control_socket)).watch():
                pass

        old = ProtocolError(METHOD_NOT_FOUND, "unknown method 'watch'")
        with (
            FakeSupervisor(paths, watch=old),
            pytest.raises(ControlError, match="is older and does not support this command"),
        ):
            asyncio.run(watch())


class TestBlocking:
    def test_resumes_what_it_watches(self, shim):
        async def scenario(life):
            seen, mirror, enough = [], Mirror(), threading.Event()

            def read():
                for change in watching.changes(shim.paths, mirror, beat=0.05):
                    seen.append(change.kind if change is not None else None)
                    if enough.is_set():
                        return

            reading = asyncio.create_task(asyncio.to_thread(read))
            await until(lambda: "snapshot" in seen)
            cut(life)
            await until(lambda: "resumed" in seen)
            assert [kind for kind in seen if kind] == ["snapshot", "lost", "resumed"]
            await life.ask("start")
            await until(lambda: mirror.rows["unit"]["a:0"]["state"] == "RUNNING")
            enough.set()
            await reading
            await until(lambda: not life.daemon.feed._watchers)

        shim.live(scenario)

    def test_is_told_that_the_daemon_is_too_old(self, tmp_path):
        paths = paths_in(tmp_path)
        old = ProtocolError(METHOD_NOT_FOUND, "unknown method 'watch'")
        with FakeSupervisor(paths, watch=old), pytest.raises(ControlError, match="run: impetusd upgrade"):
            next(watching.changes(paths, Mirror()))

    def test_ends_when_no_daemon_runs_any_more(self, tmp_path):
        paths = paths_in(tmp_path)

        def watch(_, send):
            send(protocol.result_line(2, {"life": "a", "n": 0, "resumed": False}))
            send(stream.mark_line(stream.COMPLETE, 0))
            threading.Thread(target=fake.__exit__).start()
            fake.closing.wait()
            raise ConnectionError

        with FakeSupervisor(paths, watch=watch) as fake:
            seen = watching.changes(paths, Mirror())
            assert next(seen).kind == "snapshot"
            with pytest.raises(control.NotRunning):
                while True:
                    next(seen)

    def test_gives_up_on_one_that_drops_each_connection(self, tmp_path):
        paths = paths_in(tmp_path)

        def watch(_params, _send):
            raise ConnectionError

        with FakeSupervisor(paths, watch=watch) as fake:
            with pytest.raises(Unanswered, match="repeatedly closed the connection during watch"):
                next(watching.changes(paths, Mirror()))
            assert len(fake.asked) == watching.ATTEMPTS
