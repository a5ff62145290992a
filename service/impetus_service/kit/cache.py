"""A bounded in-memory cache of one worker: entries have a time to live, and the one used longest ago makes room."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from aiohttp import web
from cachetools import TLRUCache

TTL = 60.0  # seconds, unless told

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    ttl: float


@dataclass(slots=True)
class _Flight:
    """One making of a value that several wait for."""

    task: asyncio.Task[Any]
    waiting: int = 0


class Cache:
    """At most `max_entries` values by name. `clock` gives seconds, monotonic."""

    def __init__(self, max_entries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_entries = max_entries
        self.hits = 0
        self.misses = 0
        self._entries: TLRUCache[str, _Entry] = TLRUCache(
            max_entries, ttu=lambda _name, entry, now: now + entry.ttl, timer=clock
        )
        self._flights: dict[str, _Flight] = {}

    def __len__(self) -> int:
        return int(self._entries.currsize)  # without what has expired

    def get(self, name: str) -> Any:
        """The value of `name`, now the one used last; None when there is none, or none any more."""
        entry = self._entries.get(name)
        if entry is None:
            self.misses += 1
            return None
        self.hits += 1
        return entry.value

    def set(self, name: str, value: Any, ttl: float = TTL) -> None:
        """Keep `value` under `name` for `ttl` seconds."""
        self._entries[name] = _Entry(value, ttl)

    def delete(self, name: str) -> bool:
        """Forget `name`, also a value that is just being made. Whether there was an entry."""
        self._flights.pop(name, None)
        return self._entries.pop(name, None) is not None

    def delete_prefix(self, prefix: str) -> int:
        """Forget every name that begins with `prefix`; how many entries there were."""
        for name in [name for name in self._flights if name.startswith(prefix)]:
            del self._flights[name]
        return sum(self.delete(name) for name in list(self._entries) if name.startswith(prefix))

    async def fetch(self, name: str, make: Callable[[], Awaitable[Value]], ttl: float = TTL) -> Value:
        """The value of `name`, made by `make` when there is none; whoever asks meanwhile gets the same one.

        What `make` raises is raised for all who wait, and not kept. One of them that is cancelled leaves the others
        alone; when the last has left, the making is cancelled too. A value whose name was deleted while it was made goes
        to those who had asked before, and is not kept.
        """
        entry = self._entries.get(name)
        if entry is not None:
            self.hits += 1
            return cast("Value", entry.value)
        self.misses += 1
        flight = self._flights.get(name)
        if flight is None:
            flight = self._flights[name] = _Flight(asyncio.ensure_future(self._make(name, make, ttl)))
        flight.waiting += 1
        try:
            return cast("Value", await asyncio.shield(flight.task))
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()  # of no effect when it is done
                if self._flights.get(name) is flight:
                    del self._flights[name]

    async def _make(self, name: str, make: Callable[[], Awaitable[Value]], ttl: float) -> Value:
        value = await make()
        flight = self._flights.get(name)
        if flight is not None and flight.task is asyncio.current_task():
            self.set(name, value, ttl)
        return value


CACHE = web.AppKey("impetus.cache", Cache)
