"""What was: samples of each slot, and marks of what happened, in one SQLite file of at most 64 MB.

A minute's samples are kept for two days, those of a quarter of an hour for sixty; when the file is full, the oldest of
both go earlier. A row has up to BLOCK samples of one series of one slot, as 32-bit floats; NaN where there is none.
`Writer` is the observer's; `read` is for everybody else and needs no more than to read the file.
"""

from __future__ import annotations

import array
import json
import math
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from impetusd.core.explain import ledger
from impetusd.core.inert import plain
from impetusd.observer.outbox import opened

NAME = "history.sqlite"  # in the observer's folder; the gateway reads it
MOST = 60 << 20  # bytes of the file; what waits in its log is LOG at most
LOG = 4 << 20
PAGE = 4096  # bytes, SQLite's own
FULL = 0.8  # of MOST: from here on the oldest go
BLOCK = 60  # samples
FINE, COARSE = 60, 900  # seconds between two samples
KEPT = {FINE: 2 * 86400, COARSE: 60 * 86400}  # seconds
MARKS = 20_000
TEXT = 200  # characters


def _most(values: Collection[float]) -> float:
    return max(values)


def _mean(values: Collection[float]) -> float:
    return sum(values) / len(values)


def _last(values: Collection[float]) -> float:
    return list(values)[-1]


# What a quarter of an hour has of its minutes: of what fills something up, or delays somebody, the worst.
SERIES: Mapping[str, Callable[[Collection[float]], float]] = {
    "memory": _most,  # bytes
    "cpu": _mean,  # percent of a core
    "restarts": _last,  # ever
    "requests": _mean,  # a second
    "latency": _most,  # seconds
    "lag": _most,  # seconds, of the event loop
    "connections": _most,  # a worker
}
_TABLES = (
    "CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, unit TEXT NOT NULL, slot TEXT NOT NULL UNIQUE)",
    (
        "CREATE TABLE IF NOT EXISTS samples (step INTEGER, start INTEGER, name INTEGER, series TEXT, data BLOB NOT NULL,"
        " PRIMARY KEY (step, start, name, series)) WITHOUT ROWID"
    ),
    "CREATE TABLE IF NOT EXISTS marks (at REAL, n INTEGER, kind TEXT, unit TEXT, text TEXT, PRIMARY KEY (at, n)) WITHOUT ROWID",
)


def values(row: Mapping[str, Any]) -> dict[str, float]:
    """The samples that a unit's row has."""
    of = {"memory": row.get("memory_bytes"), "cpu": row.get("cpu_percent"), "restarts": row.get("restarts")}
    return {name: float(each) for name, each in of.items() if isinstance(each, int | float) and math.isfinite(each)}


def of_pools(pools: Mapping[str, Any], before: Mapping[str, Any], seconds: float) -> dict[str, dict[str, float]]:
    """The samples of each pool, of two answers to `metrics` so far apart; its unit's name stands for all its workers.

    `connections` are of a worker, `latency` and `lag` the mean since `before`.
    """
    found: dict[str, dict[str, float]] = {}
    for name, pool in pools.items():
        samples = found[name] = {"connections": pool["connections"] / max(1, pool["workers"])}
        old = before.get(name)
        if old is None or seconds <= 0:
            continue
        requests = sum(pool["requests"].values()) - sum(old["requests"].values())
        if requests >= 0:  # else it was begun anew
            samples["requests"] = requests / seconds
        for series, histogram in (("latency", "durations"), ("lag", "lags")):
            count = sum(pool[histogram]["counts"]) - sum(old[histogram]["counts"])
            if count > 0:
                samples[series] = max(0.0, (pool[histogram]["sum"] - old[histogram]["sum"]) / count)
    return found


ENDS = frozenset({"done", "rolled back"})  # of a reload, which is one mark


def mark(record: ledger.Record) -> tuple[str, str, str] | None:
    """Kind (restart, deploy, command or exit), unit and text of a record that is worth a mark; None of others."""
    match record["kind"]:
        case "exit":
            kind = "exit" if record.get("asked") or "decision" not in record else "restart"
        case "reload" if record.get("what") in ENDS:
            kind = "deploy"
        case "config":
            kind = "deploy"
        case "command" if record.get("outcome") == "done":
            kind = "command"
        case _:
            return None
    names = list(record.get("names") or ())
    unit = str(record.get("unit") or (names[0] if len(names) == 1 else "")).partition(":")[0]
    text = plain(ledger.sentence(record))
    return kind, unit, text[:TEXT]


class Writer:
    """Keeps the file. Every method is called in one thread at a time, and may wait for the disk."""

    def __init__(self, path: str, now: float) -> None:
        """`now`: Unix time. Raises `outbox.Damaged`; sqlite3.Error and OSError for what passes."""
        pragmas = (f"max_page_count={MOST // PAGE}", f"journal_size_limit={LOG}")
        self._connection = opened(path, _TABLES, *pragmas, "synchronous=NORMAL")
        self._names = {slot: ident for ident, slot in self._connection.execute("SELECT id, slot FROM names").fetchall()}
        self._blocks: dict[tuple[int, int, int, str], array.array[float]] = {}  # of now, so far
        self._minutes: dict[tuple[str, str], list[float]] = {}  # of this quarter of an hour, by slot and series
        self._quarter = int(now // COARSE)

    def write(
        self, samples: Mapping[str, Mapping[str, float]], marks: Iterable[tuple[float, int, str, str, str]], now: float
    ) -> None:
        """Those of one minute, by slot, and marks: (Unix time, number, kind, unit, text), whole or not at all."""
        written: list[tuple[int, int, str, str, float]] = []
        quarter, minutes = int(now // COARSE), self._minutes
        if quarter != self._quarter:
            written = [
                (COARSE, self._quarter * COARSE, slot, series, SERIES[series](each))
                for (slot, series), each in minutes.items()
            ]
            minutes = {}
        else:
            minutes = {key: list(each) for key, each in minutes.items()}
        at = int(now // FINE) * FINE
        for slot, of in samples.items():
            for series, value in of.items():
                written.append((FINE, at, slot, series, value))
                minutes.setdefault((slot, series), []).append(value)
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            self._prune(now)
            self._put(written)
            connection.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?, ?, ?, ?)", marks)
            connection.execute("COMMIT")
        except BaseException:
            self._blocks.clear()  # to be read from the file again
            self._names.clear()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._names = {slot: ident for ident, slot in connection.execute("SELECT id, slot FROM names").fetchall()}
            raise
        self._minutes, self._quarter = minutes, quarter

    def _put(self, written: Iterable[tuple[int, int, str, str, float]]) -> None:
        changed: dict[tuple[int, int, int, str], array.array[float]] = {}
        for step, at, slot, series, value in written:
            width = step * BLOCK
            start = at // width * width
            key = (step, start, self._name(slot), series)
            block = changed.get(key) or self._blocks.get(key) or self._read(key)
            block[(at - start) // step] = value
            changed[key] = block
        rows = [(*key, block.tobytes()) for key, block in changed.items()]
        self._connection.executemany("INSERT OR REPLACE INTO samples VALUES (?, ?, ?, ?, ?)", rows)
        self._blocks = changed

    def _read(self, key: tuple[int, int, int, str]) -> array.array[float]:
        row = self._connection.execute(
            "SELECT data FROM samples WHERE step = ? AND start = ? AND name = ? AND series = ?", key
        ).fetchone()
        return _floats(row[0]) if row is not None else array.array("f", [math.nan] * BLOCK)

    def _name(self, slot: str) -> int:
        ident = self._names.get(slot)
        if ident is None:
            row = self._connection.execute(
                "INSERT INTO names (unit, slot) VALUES (?, ?) RETURNING id", (slot.partition(":")[0], slot)
            ).fetchone()
            ident = self._names[slot] = int(row[0])
        return ident

    def _prune(self, now: float) -> None:
        execute = self._connection.execute
        for step, kept in KEPT.items():
            execute("DELETE FROM samples WHERE step = ? AND start < ?", (step, now - kept - step * BLOCK))
        execute("DELETE FROM marks WHERE at < ?", (now - KEPT[COARSE],))
        execute("DELETE FROM marks WHERE at < (SELECT at FROM marks ORDER BY at DESC LIMIT 1 OFFSET ?)", (MARKS,))
        while self._used() > FULL * MOST:
            # The one step that has gone furthest into what it keeps gives its oldest blocks.
            ages = [
                ((now - start) / KEPT[step], step, start)
                for step in KEPT
                if (start := execute("SELECT min(start) FROM samples WHERE step = ?", (step,)).fetchone()[0])
                is not None
            ]
            if not ages:
                break
            _, step, start = max(ages)
            execute("DELETE FROM samples WHERE step = ? AND start = ?", (step, start))

    def _used(self) -> int:
        pages, free = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
        )
        return int(pages - free) * PAGE

    def close(self) -> None:
        """What was written is there."""
        self._connection.close()


def _floats(data: bytes) -> array.array[float]:
    found = array.array("f")
    found.frombytes(data[: len(data) // 4 * 4])
    return found


def read(path: str, unit: str, series: Collection[str], since: float, until: float) -> dict[str, Any]:
    """The samples of a unit's slots (of all, for "") in [since, until], Unix time, and its marks; nothing for what is not there.

    {"step": 60 or 900, "from": since, "series": {name: {slot: [[time, value], …]}}, "marks": [{"at", "kind", "unit", "text"}]}.
    The step is the finer one, unless the other reaches back farther, and `since` lies there. Raises OSError, sqlite3.Error.
    """
    uri = f"{Path(path).absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, timeout=2.0)
    try:
        made = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not made >= {"names", "samples", "marks"}:  # the observer is about to make them
            return {"step": FINE, "from": since, "series": {name: {} for name in series}, "marks": []}
        fine, coarse = (
            connection.execute("SELECT min(start) FROM samples WHERE step = ?", (step,)).fetchone()[0]
            for step in (FINE, COARSE)
        )
        earlier = coarse is not None and (fine is None or coarse + COARSE * BLOCK <= fine)
        step = COARSE if earlier and (fine is None or since < fine) else FINE
        rows = connection.execute(
            "SELECT slot, series, start, data FROM samples JOIN names ON names.id = name"
            " WHERE step = ? AND start BETWEEN ? AND ? AND (? IN ('', unit, slot))"
            " AND series IN (SELECT value FROM json_each(?)) ORDER BY start",
            (step, since - step * BLOCK, until, unit, json.dumps(list(series))),
        ).fetchall()
        marks = connection.execute(
            "SELECT at, kind, unit, text FROM marks WHERE at BETWEEN ? AND ? AND (unit IN (?, '') OR ? = '') ORDER BY at",
            (since, until, unit.partition(":")[0], unit),
        ).fetchall()
    finally:
        connection.close()
    found: dict[str, dict[str, list[list[float]]]] = {name: {} for name in series}
    for slot, name, start, data in rows:
        if name in found:
            points = [[at, value] for at, value in _points(data, start, step) if since <= at <= until]
            if points:
                found[name].setdefault(slot, []).extend(points)
    names = ("at", "kind", "unit", "text")
    return {
        "step": step,
        "from": since,
        "series": found,
        "marks": [dict(zip(names, each, strict=True)) for each in marks],
    }


def _points(data: bytes, start: int, step: int) -> Iterator[tuple[int, float]]:
    return ((start + step * at, value) for at, value in enumerate(_floats(data)) if not math.isnan(value))
