"""What is to be delivered, kept until it is, and what the rules remember: one SQLite file, written in one transaction.

A notice is in the file, on the disk, before it is sent, and leaves it after the receiver has taken it. Killed in between,
the observer sends it again, with the same id. What a full disk does not take is kept in memory and delivered from there.

Memory is changed at once; `write`, which waits for the disk, may run in a thread.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from impetusd.observer.rules import Notice, State

MOST = 200  # notices that wait for one channel; beyond, the oldest are dropped, and counted
RECENT = 50  # delivered ones that are remembered
REPORTED = 20  # of these, and alerts with undelivered ones, in a report: the supervisor takes 64 KiB
_TABLES = (
    "CREATE TABLE IF NOT EXISTS memory (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, notice TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS recent (number INTEGER PRIMARY KEY, row TEXT NOT NULL)",
)


class Damaged(Exception):
    """The file is no database of ours. The text says how."""


@dataclass(slots=True)
class Waiting:
    """A notice that waits: how often it was tried, why the last try failed, when the next is due (monotonic)."""

    notice: Notice
    tries: int = 0
    error: str = ""
    due: float = 0.0


def opened(path: str, tables: Iterable[str], *pragmas: str) -> sqlite3.Connection:
    """A database that survives a kill at any point. Damaged; OSError, sqlite3.Error for what passes."""
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", *pragmas):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        for table in tables:
            connection.execute(table)
        found = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != ("ok",):
            raise Damaged(str(found[0]))
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        raise Damaged(str(error)) from None
    except BaseException:
        connection.close()
        raise
    return connection


def aside(path: str) -> str:
    """Rename a damaged file, and what belongs to it; its new name."""
    new = f"{path}.damaged"
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.replace(path + end, new + end)
    return new


@dataclass(frozen=True, slots=True)
class Image:
    """What the file is to have: the rules' state as JSON, what waits by id, what was delivered lately."""

    state: str
    waiting: dict[str, Notice]
    recent: list[str]


class Outbox:
    """`waiting`: by alert, in order. `error`: why the file does not have the last that was to be written; "" if it has."""

    def __init__(self, path: str) -> None:
        """Raises Damaged. Where the disk does not let it be opened, everything is kept in memory."""
        self.path = path
        self.error = ""
        self.waiting: dict[str, list[Waiting]] = {}
        self.recent: list[dict[str, Any]] = []
        self.dropped: dict[str, int] = {}
        self._state: State | None = None
        self._connection: sqlite3.Connection | None = None
        self._found: list[Notice] = []  # in the file, when it was opened
        self._open()
        self.image()

    def _open(self) -> None:
        try:
            connection = opened(self.path, _TABLES)
        except (OSError, sqlite3.Error) as error:
            self.error = str(error)
            return
        try:
            rows = dict(connection.execute("SELECT name, value FROM memory").fetchall())
            notices = [row[0] for row in connection.execute("SELECT notice FROM waiting ORDER BY number")]
            recent = [json.loads(row[0]) for row in connection.execute("SELECT row FROM recent ORDER BY number")]
            state = State.of(json.loads(rows["state"])) if "state" in rows else None
            self._found = [Notice.of(json.loads(each)) for each in notices]
        except (sqlite3.DatabaseError, ValueError, KeyError, TypeError, AttributeError) as error:
            connection.close()
            raise Damaged(repr(error)) from None
        self._connection = connection
        if self._state is None:  # else it was made while the file could not be opened, and is newer
            self._state, self.recent = state, recent

    def state(self, salt: str) -> State:
        """What the rules remember; a new one with `salt` if there was none."""
        if self._state is None:
            self._state = State(salt=salt)
        return self._state

    def add(self, notices: Iterable[Notice]) -> None:
        """These wait from now on, and are due after `release`: once they are on the disk. A repetition takes the place of one about the same incident that still waits."""
        for notice in notices:
            of = self.waiting.setdefault(notice.alert, [])
            if notice.kind == "repeat":
                of[:] = [each for each in of if (each.notice.kind, each.notice.incident) != ("repeat", notice.incident)]
            of.append(Waiting(notice, due=math.inf))
            if len(of) > MOST:
                self.dropped[notice.alert] = self.dropped.get(notice.alert, 0) + len(of) - MOST
                del of[: len(of) - MOST]

    def improve(self, notice: Notice) -> None:
        """This in the place of the one with its id, if that was not sent yet."""
        for waiting in self.waiting.get(notice.alert, ()):
            if waiting.notice.id == notice.id:
                waiting.notice = notice

    def release(self) -> None:
        """What was added is due."""
        for waiting in (each for of in self.waiting.values() for each in of if each.due == math.inf):
            waiting.due = 0.0

    def delivered(self, waiting: Waiting, at: float, title: str) -> None:
        """The receiver has it."""
        notice = waiting.notice
        of = self.waiting[notice.alert]
        of[:] = [each for each in of if each is not waiting]
        row = {"id": notice.id, "alert": notice.alert, "kind": notice.kind, "at": notice.at, "title": title}
        self.recent = [*self.recent, {**row, "delivered": at}][-RECENT:]

    def forget(self, alerts: Iterable[str]) -> None:
        """Keep what waits for these alone: others are in the INI file no more."""
        self.waiting = {name: self.waiting[name] for name in alerts if name in self.waiting}

    def image(self) -> Image:
        """Everything as it is now, for `write`."""
        found, self._found = self._found, []
        for notice in reversed(found):
            self.waiting.setdefault(notice.alert, []).insert(0, Waiting(notice))
        state = json.dumps(self._state.data()) if self._state is not None else ""
        wanted = {each.notice.id: each.notice for of in self.waiting.values() for each in of}
        return Image(state, wanted, [json.dumps(each) for each in self.recent])

    def write(self, image: Image) -> bool:
        """Have the file be `image`, whole or not at all; whether it is. May wait for the disk: the one call for a thread."""
        if self._connection is None:
            try:
                self._open()
            except Damaged as error:
                self.error = f"it is damaged: {error}"
        if self._connection is None:
            return False
        try:
            image.waiting.update({notice.id: notice for notice in self._found})
            self._put(self._connection, image)
        except sqlite3.Error as error:
            self.error = str(error)
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            return False
        self.error = ""
        return True

    @staticmethod
    def _put(connection: sqlite3.Connection, image: Image) -> None:
        connection.execute("BEGIN IMMEDIATE")
        if image.state:
            connection.execute("INSERT OR REPLACE INTO memory VALUES ('state', ?)", (image.state,))
        known = {row[0] for row in connection.execute("SELECT id FROM waiting")}
        gone = [(each,) for each in known - image.waiting.keys()]
        connection.executemany("DELETE FROM waiting WHERE id = ?", gone)
        new = [(each, json.dumps(notice.data())) for each, notice in image.waiting.items() if each not in known]
        connection.executemany("INSERT INTO waiting (id, notice) VALUES (?, ?)", new)
        connection.execute("DELETE FROM recent")
        connection.executemany("INSERT INTO recent (row) VALUES (?)", [(each,) for each in image.recent])
        connection.execute("COMMIT")

    def report(self) -> dict[str, Any]:
        """What is undelivered, and what was delivered lately, for `status` and the page."""
        waiting = sorted((each for each in self.waiting.values() if each), key=lambda of: of[0].notice.at)
        alerts = {each[0].notice.alert: self._report(each) for each in waiting[:REPORTED]}
        return {
            "undelivered": sum(map(len, self.waiting.values())),
            "alerts": alerts,
            "recent": self.recent[-REPORTED:],
        }

    def _report(self, of: list[Waiting]) -> Mapping[str, Any]:
        dropped = self.dropped.get(of[0].notice.alert, 0)
        return {"undelivered": len(of), "oldest": of[0].notice.at, "error": of[0].error[:200], "dropped": dropped}

    def close(self) -> None:
        """What is not on the disk by now stays where it is."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
