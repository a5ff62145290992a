"""`watch`, asked of a whole supervisor in this process over its control socket: snapshot, changes, resuming, slow readers."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
from supervisor_world import in_a_folder
from waiting import until

from impetusd.core import protocol
from impetusd.core.stream import Mirror
from impetusd.supervisor.api import board, feed
from impetusd.supervisor.observers import Change

INI = """
[impetusd]

[program:a]
command = sleep 1000

[program:b]
command = sleep 1000
instances = 2
autostart = no

[timer:t]
command = sleep 0
every = 1d
"""


@pytest.fixture
def shim():
    with in_a_folder(INI) as made:
        yield made


class Watcher:
    """A connection that watches; `seen` has the changes."""

    def __init__(self, shim, mirror=None, **params):
        self.path = shim.paths.control_socket
        self.mirror = mirror or Mirror()
        self.params = params
        self.seen = []

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_unix_connection(self.path, limit=protocol.MAX_ANSWER)
        self.writer.write(protocol.request_line(1, "watch", self.params))
        self.answer = protocol.parse_answer(await self.reader.readline())
        self.mirror.begin(self.answer.result)
        self.reading = asyncio.create_task(self._read())
        return self

    async def _read(self):
        while line := await self.reader.readline():
            change = self.mirror.take(*protocol.parse_answer(line).notice)
            if change is not None:
                self.seen.append(change)

    async def __aexit__(self, *_):
        self.reading.cancel()
        self.writer.close()

    async def until(self, holds):
        await until(lambda: self.reading.done() or holds(self))
        assert holds(self), [(each.n, each.kind, each.key, each.value) for each in self.seen]

    async def complete(self):
        await self.until(lambda watcher: watcher.mirror.rows)
        return self.mirror.rows

    def states(self):
        return {key: row["state"] for key, row in self.mirror.rows.get("unit", {}).items()}


async def gone(life):
    await until(lambda: not life.daemon.feed._watchers)


def test_everything_as_it_is_then_what_changes(shim):
    async def scenario(life):
        async with Watcher(shim) as watcher:
            assert watcher.answer.server == protocol.STATED
            rows = await watcher.complete()
            status = await life.ask("status")
            assert [*rows["unit"]] == ["a:0", "b:0", "b:1"]
            assert rows["unit"]["b:0"].keys() - {"at"} == status["units"][1].keys()
            assert rows["unit"]["a:0"]["name"] == "a"
            assert rows["timer"]["t"].keys() == (await life.ask("timers"))["timers"][0].keys()
            assert rows["daemon"][""]["attention"] == status["attention"]
            await life.ask("start")
            await watcher.until(lambda it: it.states()["a:0"] == "RUNNING")
            (child,) = shim.pids()
            shim.kill(child)
            await watcher.until(
                lambda it: any(each.kind == "ledger" and each.value["kind"] == "exit" for each in it.seen)
            )
            await life.until_state("RUNNING", "a")
            await watcher.until(lambda it: it.mirror.rows["unit"]["a:0"]["pid"] == shim.pids().get(child))
            numbers = [each.n for each in watcher.seen[1:]]
            assert numbers == [*range(watcher.answer.result["n"] + 1, watcher.mirror.n + 1)]
        await gone(life)

    shim.live(scenario)


def test_a_slot_that_goes_is_told_and_one_that_is_renamed(shim):
    async def scenario(life):
        async with Watcher(shim) as watcher:
            await watcher.complete()
            await life.ask("start", names=["b"])
            await life.ask("scale", name="b", n=1)
            await watcher.until(lambda it: [*it.states()] == ["a:0", "b:0"])
            await watcher.until(lambda it: it.mirror.rows["unit"]["b:0"]["name"] == "b")
            await life.ask("scale", name="b", n=2)
            await watcher.until(lambda it: it.mirror.rows["unit"]["b:0"]["name"] == "b:0" and len(it.states()) == 3)
        await gone(life)

    shim.live(scenario)


def test_who_comes_back_gets_what_follows_and_in_another_life_everything(shim):
    mirror = Mirror()

    async def first(life):
        async with Watcher(shim, mirror) as watcher:
            await watcher.complete()
        await gone(life)
        before = mirror.n
        await life.ask("start")
        async with Watcher(shim, mirror, life=mirror.life, since=mirror.n) as watcher:
            assert watcher.answer.result == {"life": mirror.life, "n": before, "resumed": True}
            await watcher.until(lambda it: it.states()["a:0"] == "RUNNING")
            assert {each.kind for each in watcher.seen} >= {"unit", "ledger"}
        await gone(life)
        async with Watcher(shim, life=mirror.life, since=mirror.n + 1000) as watcher:
            assert not watcher.answer.result["resumed"]
        await gone(life)
        life.daemon.feed.close()  # as after KEEP
        async with Watcher(shim, life=mirror.life, since=mirror.n) as watcher:
            assert not watcher.answer.result["resumed"]
        await gone(life)

    async def second(_):
        async with Watcher(shim, mirror, life=mirror.life, since=mirror.n) as watcher:
            await watcher.until(lambda it: it.seen)
            assert (watcher.seen[0].kind, watcher.seen[0].value) == ("snapshot", True)
            assert watcher.states()["a:0"] == "RUNNING"

    shim.live(first)
    shim.live(second)


def test_who_reads_too_slowly_is_disconnected_and_the_others_miss_nothing(shim, monkeypatch):
    monkeypatch.setattr(board, "KEPT", 1 << 18)

    async def scenario(life):
        asleep = socket.socket(socket.AF_UNIX)
        asleep.connect(shim.paths.control_socket)
        asleep.sendall(protocol.request_line(1, "watch", {}))
        async with Watcher(shim) as watcher:
            await watcher.complete()
            control = life.daemon.control
            await until(lambda: len(control._tasks) == 2)
            while len(control._tasks) == 2:
                for _ in range(20):
                    life.daemon.ledger.add("daemon", what="x" * 2000)
                life.daemon.feed._flush()
                await watcher.until(lambda it: it.mirror.n == life.daemon.feed.ring.last)
            assert life.daemon.feed.ring.last - life.daemon.feed.ring.first < 200
        await gone(life)
        asleep.close()

    monkeypatch.setattr(feed, "STALLED", 0.05)
    shim.live(scenario)


def test_without_watchers_nothing_is_measured_and_after_a_while_nothing_is_kept(shim, monkeypatch):
    monkeypatch.setattr(feed, "KEEP", 0.0)

    async def scenario(life):
        its = life.daemon.feed
        its._sampler.pause = 0.0
        async with Watcher(shim) as watcher:
            await watcher.complete()
            assert its._ticking is not None
        await until(lambda: its._ticking is None and its._filled is None)
        assert not [*its._board.bodies()]
        assert its.ring.first == its.ring.last
        await life.ask("start")
        assert not its._dirty
        assert its._flushing is None

    shim.live(scenario)


def test_a_clock_that_goes_on_is_no_change(shim):
    async def scenario(life):
        async with Watcher(shim) as watcher:
            await watcher.complete()
            asked = asyncio.create_task(life.ask("trigger", name="t"))
            await until(lambda: "t" in shim.pids())
            shim.end(shim.child("t"), code=1)
            shim.tell()
            assert not (await asked)["ok"]
            await watcher.until(lambda it: it.mirror.rows["daemon"][""]["attention"])
            its = life.daemon.feed
            its._measured = 0  # what the pids of nobody take is another matter
            its._ticking.cancel()
            await its._look()

            async def is_quiet():
                last, before = its.ring.last, life.daemon.status.attention()["notices"]
                await until(lambda: life.daemon.status.attention()["notices"] != before)
                await its._look()
                return its.ring.last == last

            await until(is_quiet, "nothing to change any more")
            its._measured = 1
        await gone(life)

    shim.live(scenario)


def test_what_looks_secret_is_hidden_once_for_all(shim):
    async def scenario(life):
        async with Watcher(shim) as watcher, Watcher(shim) as other:
            await watcher.complete()
            await other.complete()
            entry = life.daemon.engine.slots.entries["a:0"]
            entry.rec.tail = ["connecting with password=hunter22hunter", "x" * 5000]
            life.daemon.feed.changed(Change(entry, entry.slot, entry.slot))
            await watcher.until(lambda it: it.mirror.rows["unit"]["a:0"]["tail"])
            tail = watcher.mirror.rows["unit"]["a:0"]["tail"]
            assert tail == ["connecting with password=***", "x" * board.WORDS[1]]
            await other.until(lambda it: it.mirror.n == watcher.mirror.n)
            assert other.mirror.rows == watcher.mirror.rows
        await gone(life)

    shim.live(scenario)


def test_what_cannot_be_told_of_one_slot_is_that_slots_failure(shim, monkeypatch):
    async def scenario(life):
        rows = life.daemon.feed._board._rows
        right = rows.row

        def row(entry, usage=None):
            if entry.name == "a:0":
                raise ValueError("no row")
            return right(entry, usage)

        monkeypatch.setattr(rows, "row", row)
        async with Watcher(shim) as watcher:
            assert [*(await watcher.complete())["unit"]] == ["b:0", "b:1"]
        await gone(life)
        await until(lambda: "changes in a:0 cannot be sent: ValueError('no row')" in life.log())

    shim.live(scenario)


class TestVersions:
    """What a client of the commit bba87b9 says: nothing about its version, and it reads nothing about ours."""

    async def _say(self, shim, *messages):
        reader, writer = await asyncio.open_unix_connection(shim.paths.control_socket)
        answers = []
        for message in messages:
            writer.write(json.dumps({"jsonrpc": "2.0", "id": 1, **message}).encode() + b"\n")
            answers.append(json.loads(await reader.readline()))
        writer.close()
        return answers

    def test_are_exchanged_with_the_first_request_and_not_with_those_that_state_none(self, shim):
        async def scenario(_):
            ping = {"method": "ping", "params": {}}
            old, new, future = await self._say(
                shim, ping, {**ping, "client": protocol.STATED}, {**ping, "client": {"protocol": 9, "later": True}}
            )
            assert "server" not in old
            assert old["result"]["ready"] is True
            assert new["server"] == future["server"] == protocol.STATED
            wrong, past = await self._say(
                shim, {**ping, "client": {"protocol": "1"}}, {**ping, "client": {"protocol": 0}}
            )
            assert "a whole number" in wrong["error"]["message"]
            assert (
                "supports control protocol version 1 and later, but the client uses version 0"
                in past["error"]["message"]
            )

        shim.live(scenario)

    def test_a_parameter_that_is_unknown_is_refused_unless_it_is_marked(self, shim):
        async def scenario(_):
            refused, marked, known, twice = await self._say(
                shim,
                {"method": "status", "params": {"colour": "red"}},
                {"method": "status", "params": {"colour?": "red"}},
                {"method": "status", "params": {"names?": ["a"]}},
                {"method": "status", "params": {"names?": ["a"], "names": ["b"]}},
            )
            assert "unknown parameter 'colour'" in refused["error"]["message"]
            assert len(marked["result"]["units"]) == 3
            assert [row["name"] for row in known["result"]["units"]] == ["a"]
            assert "names is given twice" in twice["error"]["message"]

        shim.live(scenario)
