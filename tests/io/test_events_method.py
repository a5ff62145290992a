"""The control method `events`: what waits for the disk is answered, too, and who follows is answered when there is news."""

from __future__ import annotations

import asyncio
import errno

from waiting import turns

from impetusd.core.protocol import check_params
from impetusd.supervisor.api import events
from impetusd.supervisor.api.events import Events
from impetusd.supervisor.disk import ledger
from impetusd.supervisor.disk.ledger import Ledger


def bench(test, tmp_path):
    """Run `test(add, ask)` on a ledger: `add` writes one record, `ask` makes a request."""

    async def run():
        path = str(tmp_path / "ledger.jsonl")
        made = Ledger(path, {}, asyncio.get_running_loop().call_soon_threadsafe, lambda _: None)
        method = Events(made, path)

        def add(**fields):
            made.add("start", unit="web", slot="web:0", **fields)
            made.puts()

        async def ask(**params):
            answer = await method.page(check_params("events", params))
            return [each["n"] for each in answer["records"]], answer["last"]

        try:
            await test(add, ask, method)
        finally:
            made.close()

    asyncio.run(run())


def test_whoever_follows_is_answered_when_there_is_more(tmp_path):
    async def test(add, ask, _):
        add()
        assert await ask(last=5) == ([1], 1)
        following = [asyncio.create_task(ask(after=1, wait=True)) for _ in range(3)]
        await turns()
        assert not any(each.done() for each in following)
        add()
        assert await asyncio.gather(*following) == [([2], 2)] * 3
        assert await ask(after=1, wait=True) == ([2], 2)

    bench(test, tmp_path)


def test_nobody_is_kept_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "PATIENCE", 0.01)

    async def test(_, ask, __):
        assert await ask(after=9, wait=True) == ([], 9)

    bench(test, tmp_path)


def test_the_end_of_the_daemon_keeps_nobody_waiting(tmp_path):
    async def test(_, ask, method):
        following = asyncio.create_task(ask(wait=True))
        await turns()
        method.close()
        assert await following == ([], 0)

    bench(test, tmp_path)


def test_what_a_full_disk_does_not_take_is_answered_all_the_same(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    async def test(add, ask, _):
        add()
        add()
        assert await ask(last=5) == ([1, 2], 2)
        assert await ask(after=1) == ([2], 2)

    monkeypatch.setattr(ledger, "_append", full)
    bench(test, tmp_path)
