"""`impetusd status --watch`: the status as it changes, pushed by the supervisor."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
from typing import TYPE_CHECKING

from impetusd.cli import outcome, pending
from impetusd.cli.names import matches
from impetusd.cli.screen import reader, table
from impetusd.cli.screen.terminal import plain, screen_of
from impetusd.cli.status import LAST_WORDS, notes
from impetusd.client import control, watching
from impetusd.core import stream
from impetusd.core.protocol import as_wanted
from impetusd.core.stream import Change, Mirror

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from impetusd.cli.place import Place
    from impetusd.cli.screen.terminal import Screen

LOOKED = 5.0  # seconds between two looks at the INI file
BEGIN, END = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"  # another page without a cursor, and back


def show(here: Place, names: Sequence[str], *, as_json: bool) -> int:
    """Until Ctrl-C, or until no daemon runs any more, which is raised."""
    try:
        groups = control.call(here.paths, "status", {"names": list(names)})[
            "groups"
        ]  # it knows whether each name is one
        wanted = [each for name in names for each in groups.get(name, (name,))]
        if sys.stdout.isatty() and not as_json:
            return _on_screen(here, wanted)
        return _as_lines(here, wanted, as_json=as_json)
    except control.NotRunning as error:
        raise outcome.not_running(here, error) from None


def _means(wanted: Sequence[str], row: dict[str, Any]) -> bool:
    return not wanted or any(matches(each, row["unit"], row["name"]) for each in wanted)


def _as_lines(here: Place, wanted: Sequence[str], *, as_json: bool) -> int:
    mirror, states = Mirror(), dict[str, str]()
    for change in watching.changes(here.paths, mirror, usage=as_json):
        if change is None:
            sys.stdout.flush()
            reader.expect()
            continue
        changes = [change]
        if change.kind == "snapshot":
            rows = mirror.rows.get(stream.UNIT, {})
            changes += [Change(change.n, row["at"], stream.UNIT, key, row) for key, row in rows.items()]
        for each in changes:
            if as_json:
                _object(each, wanted)
            elif each.kind == stream.UNIT:
                _line(each.key, each.value, each.at, wanted, states)
    raise AssertionError("changes never end")


def _object(change: Change, wanted: Sequence[str]) -> None:
    if change.kind != stream.UNIT or change.value is None or _means(wanted, change.value):
        told = {name: getattr(change, name) for name in ("n", "at", "kind", "key", "value")}
        print(json.dumps(told, separators=(",", ":")))


def _line(key: str, row: dict[str, Any] | None, at: float, wanted: Sequence[str], states: dict[str, str]) -> None:
    """One line, if it is another than the last of this slot."""
    if row is None:
        said = f"{key} was removed" if states.pop(key, "") else ""
    elif _means(wanted, row):
        said = table.sentence(row) + (f" (pid {row['pid']})" if row["pid"] else "")
        said = "" if states.get(key) == said else said
        states[key] = said or states[key]
    else:
        said = ""
    if said:
        print(f"{dt.datetime.fromtimestamp(at):%Y-%m-%d %H:%M:%S}  {plain(said)}")


def _on_screen(here: Place, wanted: Sequence[str]) -> int:
    page, mirror, state = Page(here, wanted), Mirror(), ""
    hooks = control.Hooks(waiting=lambda sentence: page.draw(mirror, sentence))
    sys.stdout.write(BEGIN)
    try:
        for change in watching.changes(here.paths, mirror, hooks):
            if change is None:
                page.draw(mirror, state)
            else:
                state = "lost the connection; waiting for impetusd" if change.kind == "lost" else ""
    finally:
        sys.stdout.write(END)
        sys.stdout.flush()
    raise AssertionError("changes never end")


class Page:
    """A terminal, of which only the lines that differ are written."""

    def __init__(self, here: Place, wanted: Sequence[str]) -> None:
        self._here = here
        self._wanted = wanted
        self._drawn: list[str] = []
        self._size = (0, 0)
        self._noticed: tuple[str, str] | None = None
        self._looked = float("-inf")

    def draw(self, mirror: Mirror, state: str) -> None:
        """Everything as `mirror` has it now, and `state` below it."""
        screen = screen_of(sys.stdout, os.environ)
        columns, height = os.get_terminal_size(sys.stdout.fileno())
        lines = self.lines(mirror, screen, height or 24)
        if state:
            lines[-1] = screen.paint(screen.cut(state), "yellow")
        if self._size != (columns, height):
            self._size, self._drawn = (columns, height), []
            sys.stdout.write("\x1b[2J")
        longest = max(len(lines), len(self._drawn))
        for number in range(longest):
            line = lines[number] if number < len(lines) else ""
            if number >= len(self._drawn) or self._drawn[number] != line:
                sys.stdout.write(f"\x1b[{number + 1};1H{line}\x1b[K")
        self._drawn = lines
        sys.stdout.flush()

    def lines(self, mirror: Mirror, screen: Screen, height: int) -> list[str]:
        """At most `height`. Where not all slots fit, those that are not as wanted come first."""
        now = time.time()
        if now - self._looked > LOOKED and "" in mirror.rows.get(stream.DAEMON, {}):
            self._looked, self._noticed = now, pending.notice(self._here, mirror.rows[stream.DAEMON][""])
        rows = [
            {**row, "uptime_s": row["uptime_s"] + max(0.0, now - row["at"]) if row["uptime_s"] is not None else None}
            for row in mirror.rows.get(stream.UNIT, {}).values()
            if _means(self._wanted, row)
        ]
        if not rows:
            return ["nothing is configured to run", ""][:height]
        below = table.below(rows, screen, self._here.command, tails=LAST_WORDS)
        daemon = mirror.rows.get(stream.DAEMON, {}).get("", {"attention": []})
        below += notes(daemon, self._noticed, screen, self._here.command, below)
        below = [*below[: max(0, height - 8)], "", screen.paint("press Ctrl-C to quit", "dim")]
        room = max(1, height - len(below) - 1)
        if len(rows) > room:
            rows.sort(key=as_wanted)
            below = [f"{screen.ellipsis} and {len(rows) - room + 1} more", *below]
            rows = rows[: room - 1]
        return [*table.table(rows, screen), *below][:height]
