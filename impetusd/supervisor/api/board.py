"""Rows as those know them who watch: one that has become another is one change more, numbered.

Each row is put into JSON once and redacted once, and the same bytes go to everybody. Pure, but for what makes the rows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from impetusd.core import redact, stream
from impetusd.supervisor.api.ring import Ring
from impetusd.supervisor.api.rows import Rows
from impetusd.supervisor.api.sampler import Sampler
from impetusd.supervisor.slots.engine import Engine
from impetusd.supervisor.slots.entry import Entry

KEPT = 2 << 20  # bytes of changes
WORDS = 10, 200  # lines of what a failed slot wrote last, and characters of each
FREE = ("reason", "cause", "held", "tail")  # fields of a unit's row in which there is what others wrote
# Not changes by themselves: clocks, usage, how each probe was answered; notices have seconds, attention has not.
VOLATILE = ("uptime_s", "memory_bytes", "cpu_percent", "next", "next_in_s", "running_s", "at", "latency_ms", "notices")


class Board:
    """All rows, and in `ring` the changes. Before it is `live` rows are no changes: they are made for the first time."""

    def __init__(
        self,
        engine: Engine,
        rows: Rows,
        *,
        sampler: Sampler,
        dropped: Callable[[Entry], object],
        lists: Mapping[str, Callable[[], dict[str, Any]]],
    ) -> None:
        """`dropped`: how much of a slot's log was.

        `lists`: for each kind other than unit, a function that makes its rows by key, called when they may have
        changed.
        """
        self._engine = engine
        self._rows = rows
        self.sampler = sampler
        self._dropped = dropped
        self._lists = lists
        self.ring = Ring(KEPT)
        self.live = False
        self._bodies: dict[tuple[str, str], tuple[int, bytes]] = {}  # kind, key → hash of what is compared, line
        self._marks: dict[str, tuple[object, ...]] = {}  # of slots: what their rows are made of, as of the last look

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of rows other than units."""
        return tuple(self._lists)

    def shown(self) -> dict[str, Entry]:
        """The slots that have a row."""
        return {entry.name: entry for entry in self._rows.shown()}

    def differing(self, shown: Mapping[str, Entry]) -> set[str]:
        """The slots whose rows are not as they were made last, seen by what they are made of."""
        now = self._engine.slots.entries
        gone = {name for name in self._marks if name not in now}
        return gone | {name for name, each in shown.items() if self._marks.get(name) != self._mark(each)}

    def unit(self, name: str) -> None:
        """The row of a slot, as it is now; none if it is not shown any more."""
        entry = self._engine.slots.entries.get(name)
        if entry is None or not self._rows.is_shown(entry):
            self._marks.pop(name, None)
            self._publish(stream.UNIT, name, None)
            return
        self._marks[name] = self._mark(entry)
        row = self._rows.row(entry, self.sampler.read)
        lines, length = WORDS
        row["tail"] = [line[:length] for line in row["tail"][-lines:]]
        for field in FREE:
            if row[field]:
                row[field] = redact.everything(row[field])
        self._publish(stream.UNIT, name, row)

    def kind(self, kind: str) -> None:
        """The rows of another kind."""
        rows = self._lists[kind]()
        gone = [key for known, key in self._bodies if known == kind and key not in rows]
        for key in gone:
            self._publish(kind, key, None)
        for key, row in rows.items():
            self._publish(kind, key, redact.everything(row))

    def record(self, line: str) -> None:
        """The ledger has one more record: JSON, redacted."""
        self._add(stream.body(time.time(), stream.LEDGER, "", line))

    def usage(self, usage: Mapping[str, Any]) -> None:
        """What was measured."""
        self._add(_usage(usage))

    def bodies(self) -> Iterator[bytes]:
        """All rows, and what was measured last."""
        yield from [body for _, body in self._bodies.values()]
        if self.sampler.usage:
            yield _usage(self.sampler.usage)

    def clear(self) -> None:
        """Nobody watches: keep nothing."""
        self.live = False
        self._bodies.clear()
        self._marks.clear()
        self.ring.clear()

    def _publish(self, kind: str, key: str, value: Mapping[str, Any] | None) -> None:
        """Another row in the place of the one that is known, if it is another."""
        known = self._bodies.get((kind, key))
        if value is None:
            if known is not None:
                del self._bodies[kind, key]
                self._add(stream.body(time.time(), kind, key, "null"))
            return
        lasting = json.dumps(
            {name: each for name, each in value.items() if name not in VOLATILE}, separators=(",", ":")
        )
        if known is not None and known[0] == hash(lasting):
            return
        rest = {name: value[name] for name in VOLATILE if name in value}
        text = f"{lasting[:-1]},{json.dumps(rest, separators=(',', ':'))[1:]}" if rest else lasting
        body = stream.body(time.time(), kind, key, text)
        self._bodies[kind, key] = (hash(lasting), body)
        if self.live:
            self._add(body)

    def _mark(self, entry: Entry) -> tuple[object, ...]:
        """What changes with the slot's row, apart from clocks."""
        rec, engine = entry.rec, self._engine
        state = (rec.slot, rec.tail, rec.due, rec.generation, entry.waits, engine.slots.shown(entry))
        return (*state, engine.slots.held_because(entry), self._dropped(entry))

    def _add(self, body: bytes) -> None:
        self.ring.add(stream.change_line(self.ring.last + 1, body))


def _usage(usage: Mapping[str, Any]) -> bytes:
    return stream.body(time.time(), stream.USAGE, "", json.dumps(usage, separators=(",", ":")))
