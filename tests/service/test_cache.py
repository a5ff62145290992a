"""The cache never holds more than it may, forgets in time, and makes a value once for all who ask for it together."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import run
from waiting import turns

from impetus_service.kit.cache import Cache


def test_the_entry_used_longest_ago_makes_room():
    cache = Cache(2)
    cache.set("a", 1)
    cache.set("b", 2)
    assert cache.get("a") == 1
    cache.set("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert (cache.hits, cache.misses) == (3, 1)


def test_setting_again_replaces():
    cache = Cache(2)
    cache.set("a", 1)
    cache.set("a", 2)
    assert (len(cache), cache.get("a")) == (1, 2)


@given(st.integers(1, 5), st.lists(st.text("abcdefgh", min_size=1, max_size=1)))
def test_it_holds_the_latest_names_up_to_its_bound(bound, names):
    cache = Cache(bound)
    for name in names:
        cache.set(name, name)
    latest = list(dict.fromkeys(reversed(names)))[:bound]
    assert len(cache) == len(latest)
    assert all(cache.get(name) == name for name in latest)


def test_each_entry_has_its_own_time_to_live():
    now = [100.0]
    cache = Cache(9, clock=lambda: now[0])
    cache.set("short", 1, ttl=1)
    cache.set("long", 2, ttl=10)
    now[0] += 2
    assert (cache.get("short"), cache.get("long"), len(cache)) == (None, 2, 1)


def test_names_are_deleted_alone_and_by_prefix():
    cache = Cache(9)
    for name in ("company:1:a", "company:1:b", "company:10:a", "company:2:a"):
        cache.set(name, name)
    assert cache.delete("company:2:a")
    assert not cache.delete("company:2:a")
    assert cache.delete_prefix("company:1:") == 2
    assert (len(cache), cache.get("company:10:a")) == (1, "company:10:a")


class Maker:
    """Makes a value when told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.ended = 0
        self.go = asyncio.Event()

    async def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        try:
            await self.go.wait()
        finally:
            self.ended += 1
        return number


async def asked(cache: Cache, make: Maker, times: int) -> list[asyncio.Task[int]]:
    """So many who wait for "a"."""
    tasks = [asyncio.create_task(cache.fetch("a", make)) for _ in range(times)]
    for _ in range(3):
        await turns()
    return tasks


def test_concurrent_misses_make_a_value_once():
    async def main() -> None:
        cache, make = Cache(9), Maker()
        waiting = await asked(cache, make, 5)
        make.go.set()
        assert await asyncio.gather(*waiting) == [1] * 5
        assert await cache.fetch("a", make) == 1
        assert (make.calls, cache.hits, cache.misses) == (1, 1, 5)

    run(main())


def test_what_making_raises_is_for_all_who_wait_and_not_kept():
    async def main() -> None:
        cache, go = Cache(9), asyncio.Event()

        async def fails() -> int:
            await go.wait()
            raise ValueError("no")

        waiting = [asyncio.create_task(cache.fetch("a", fails)) for _ in range(3)]
        await turns()
        go.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [ValueError] * 3
        with pytest.raises(ValueError, match="no"):
            await cache.fetch("a", fails)
        assert len(cache) == 0

    run(main())


def test_one_that_is_cancelled_leaves_the_others_their_value():
    async def main() -> None:
        cache, make = Cache(9), Maker()
        first, *others = await asked(cache, make, 3)
        first.cancel()
        await asyncio.wait({first})
        make.go.set()
        assert await asyncio.gather(*others) == [1, 1]
        assert first.cancelled()

    run(main())


def test_when_all_are_cancelled_so_is_the_making():
    async def main() -> None:
        cache, make = Cache(9), Maker()
        waiting = await asked(cache, make, 3)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await turns()
        assert make.ended == 1
        make.go.set()
        assert await cache.fetch("a", make) == 2

    run(main())


@pytest.mark.parametrize("forget", [lambda cache: cache.delete("a"), lambda cache: cache.delete_prefix("a")])
def test_a_value_deleted_while_it_was_made_is_not_kept(forget):
    async def main() -> None:
        cache, make = Cache(9), Maker()
        before = await asked(cache, make, 2)
        forget(cache)
        after = await asked(cache, make, 2)
        make.go.set()
        assert await asyncio.gather(*before) == [1, 1]
        assert await asyncio.gather(*after) == [2, 2]
        assert cache.get("a") == 2

    run(main())
