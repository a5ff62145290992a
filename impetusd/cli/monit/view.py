"""The view of `impetusd monit` and the effect of each key on it. No terminal, no daemon: those are in `loop`.

The selected unit stays selected when others appear before it. Nothing is started or stopped without confirmation.
"""

from __future__ import annotations

import time

from impetusd.cli.screen.terminal import plain
from impetusd.core import stream
from impetusd.core.protocol import as_wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, TypeAlias

    Row: TypeAlias = Mapping[str, Any]

UNITS, LOGS, WHY, HELP = "units", "logs", "why", "help"
KEPT = 5000  # lines of a log
LONGEST = 4000  # characters of one
TYPED = 60  # characters of a filter
ENTER, ESCAPE, BACKSPACE, UP, DOWN, PAGE_UP, PAGE_DOWN, HOME, END, TAB = (
    *("enter", "escape", "backspace", "up", "down", "page up", "page down", "home", "end", "tab"),
)
_WORST = ("FATAL", "BACKOFF", "STARTING", "STOPPING")

# key -> (control method, what is asked before it is done, whether it is for the whole unit)
COMMANDS = {
    "s": ("start", "Start", False),
    "S": ("stop", "Stop", False),
    "r": ("restart", "Restart", False),
    "R": ("reload", "Reload", True),
}


class Action:
    """An action outside of the view: `what` is quit, logs, why, leave (a log), or a control method."""

    __slots__ = ("name", "stream", "what")

    def __init__(self, what: str, name: str = "", stream: str = "out") -> None:
        self.what = what
        self.name = name
        self.stream = stream

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Action) and (self.what, self.name, self.stream) == (
            other.what,
            other.name,
            other.stream,
        )

    def __hash__(self) -> int:
        return hash((self.what, self.name, self.stream))

    def __repr__(self) -> str:
        return f"Action({self.what!r}, {self.name!r}, {self.stream!r})"


class View:
    """Everything that is drawn."""

    def __init__(self, title: str) -> None:
        self.title = title  # which instance
        self.mode = UNITS
        self.rows: stream.Rows = {}
        self.state = "connecting"  # "" while it is live
        self.state_since = time.time()
        self.selected = ""  # a slot's own name
        self.top = 0  # the first row, or line of `why`, that is shown
        self.room = 1  # how many rows or lines are shown
        self.filter = ""
        self.typing = False
        self.confirming: Action | None = None
        self.message = ""
        self.failed = False  # the message is of a failure
        self.of = ""  # whose log or explanation is shown
        self.stream = "out"
        self.lines: list[str] = []  # of the log or the explanation
        self.back = 0  # lines that the log is scrolled back by; 0 follows
        self.total = 0  # lines or rows of what is scrolled, as of the last drawing

    # Data.

    def units(self) -> list[tuple[str, Row]]:
        """(slot, row) of those that the filter lets through, the worst first, then as in the INI file."""
        wanted = self.filter.lower() if self.mode == UNITS else ""
        found = [
            (key, row)
            for key, row in self.rows.get(stream.UNIT, {}).items()
            if not wanted or any(wanted in str(row.get(field) or "").lower() for field in ("name", "unit", "state"))
        ]
        order: dict[str, int] = {}  # of units; later slots are listed with their unit
        for _, row in found:
            order.setdefault(row["unit"], len(order))
        return sorted(found, key=lambda each: (severity(each[1]), order[each[1]["unit"]]))

    def row(self) -> Row | None:
        """The selected one."""
        units = self.units()
        return next((row for key, row in units if key == self.selected), units[0][1] if units else None)

    def log(self) -> list[str]:
        """The lines that the filter lets through."""
        wanted = self.filter.lower()
        return [line for line in self.lines if wanted in line.lower()] if wanted else self.lines

    # Events.

    def live(self, state: str = "") -> None:
        """The connection is there, or it is not, and why."""
        if state != self.state:
            self.state, self.state_since = state, time.time()

    def more(self, lines: Iterable[str], *, anew: bool = False) -> None:
        """Lines of the displayed log; a view that is scrolled back stays in place."""
        new = [plain(line.expandtabs(8))[:LONGEST] for line in lines]
        if anew:
            self.lines, self.back = [], 0
        if self.back:
            wanted = self.filter.lower()
            self.back += sum(wanted in line.lower() for line in new)
        self.lines = (self.lines + new)[-KEPT:]

    def explain(self, lines: Iterable[str]) -> None:
        """The requested explanation."""
        self.lines, self.top = [plain(line) for line in lines], 0

    def say(self, text: str, *, failed: bool = False) -> None:
        """Show a line at the bottom until the next key."""
        self.message, self.failed = plain(text.replace("\n", " ")), failed

    def placed(self, total: int, room: int, top: int) -> None:
        """How it was drawn: used by the next key that scrolls."""
        self.total, self.room, self.top = total, room, top

    # Keys.

    def press(self, key: str) -> Action | None:
        """One key: a character, or one of the names above. Returns the action to take, if it does more than change the
        view."""
        self.message = ""
        if self.confirming is not None:
            asked, self.confirming = self.confirming, None
            if key in {"y", "Y"}:
                return asked
            self.say("nothing was done")
            return None
        if self.typing:
            self._type(key)
            return None
        if key == "q":
            return Action("quit") if self.mode == UNITS else self._leave()
        if key == ESCAPE:
            if self.filter:
                self.filter = ""
                return None
            return self._leave()
        if key == "/" and self.mode in {UNITS, LOGS}:
            self.typing = True
        elif key == "?" and self.mode == UNITS:
            self.mode, self.top = HELP, 0
        elif self.mode == UNITS:
            action = self._press_on_unit(key)
            self._move(key)
            return action
        elif self.mode == LOGS and key == TAB:
            self.stream = "error" if self.stream == "out" else "out"
            self.lines, self.back = [], 0
            return Action("logs", self.of, self.stream)
        elif self.mode == LOGS and key == "f":
            self.back = 0
        else:
            self._move(key)
        return None

    def _type(self, key: str) -> None:
        if key == ENTER:
            self.typing = False
        elif key == ESCAPE:
            self.typing, self.filter = False, ""
        elif key == BACKSPACE:
            self.filter = self.filter[:-1]
        elif len(key) == 1 and key.isprintable() and len(self.filter) < TYPED:
            self.filter += key
        self.back = self.top = 0

    def _leave(self) -> Action | None:
        was, self.mode = self.mode, UNITS
        self.lines, self.back, self.filter, self.top = [], 0, "", 0
        return Action("leave") if was == LOGS else None

    def _press_on_unit(self, key: str) -> Action | None:
        row = self.row()
        if row is None:
            return None
        if key in COMMANDS:
            method, _, whole = COMMANDS[key]
            self.confirming = Action(method, row["unit"] if whole else row["name"])
            return None
        if key not in {"l", "w", ENTER}:
            return None
        self.mode, self.of, self.lines, self.filter, self.top, self.back = (
            LOGS if key == "l" else WHY,
            row["name"],
            [],
            "",
            0,
            0,
        )
        self.stream = "error" if key == "l" and not as_wanted(row) else "out"
        return Action(self.mode, self.of, self.stream)

    def _move(self, key: str) -> None:
        page = max(1, self.room - 1)
        step = {"j": 1, DOWN: 1, "k": -1, UP: -1, PAGE_DOWN: page, " ": page, PAGE_UP: -page}.get(key, 0)
        step = {"g": -self.total - KEPT, HOME: -self.total - KEPT, "G": self.total + KEPT, END: self.total + KEPT}.get(
            key, step
        )
        if not step:
            return
        if self.mode == UNITS:
            keys = [slot for slot, _ in self.units()]
            if keys:
                at = keys.index(self.selected) if self.selected in keys else 0
                self.selected = keys[min(max(at + step, 0), len(keys) - 1)]
        elif self.mode == LOGS:
            self.back = min(max(self.back - step, 0), max(0, len(self.log()) - 1))
        else:
            self.top = min(max(self.top + step, 0), max(0, self.total - self.room))


def severity(row: Row) -> int:
    """0 is the worst. What is tried again is as bad while it starts as while it waits for that."""
    if as_wanted(row):
        return len(_WORST) + (2 if row["state"] == "STOPPED" else 1)
    if row["state"] == "STARTING" and (row.get("restarts") or row.get("last_exit")):
        return _WORST.index("BACKOFF")
    return _WORST.index(row["state"]) if row["state"] in _WORST else len(_WORST)
