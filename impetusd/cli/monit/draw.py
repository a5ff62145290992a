"""The lines of `impetusd monit`: a pure function of the view and the terminal's size.

A line is a list of (text, style); it is never wider than the terminal. Styles are names of STYLES. Colour is never the
only sign. If the locale is not UTF-8, everything is ASCII.
"""

from __future__ import annotations

from impetusd.cli.monit.view import COMMANDS, HELP, LOGS, UNITS, WHY
from impetusd.cli.screen import table
from impetusd.cli.screen.terminal import Screen, plain
from impetusd.core import stream
from impetusd.core.protocol import as_wanted
from impetusd.core.reasons import waited_for
from impetusd.core.units import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TypeAlias

    from impetusd.cli.monit.view import Row, View

    Line: TypeAlias = list[tuple[str, str]]

STYLES = ("", "bold", "dim", "red", "yellow", "green", "selected", "bar")
LEAST = 40, 8  # columns and lines
WIDTHS = {"PID": 7, "UPTIME": 7, "RESTARTS": 8, "MEMORY": 7, "CPU": 6}  # fixed, so that a longer number moves nothing
NAME, STATE = 12, 8  # columns that a name has at least; of the longest state
KEYS = {
    UNITS: "/ filter  w why  l logs  s start  S stop  r restart  R reload  ? keys  q quit",
    LOGS: "/ filter  Tab stdout or stderr  j k scroll  f follow  q back",
    WHY: "j k scroll  q back",
    HELP: "q back",
}
ABOUT = (
    ("j, k, arrows", "select the next or previous unit; scroll"),
    ("g, G, Page up, Page down", "go to the first or last unit; page up or down"),
    ("/", "filter units by name and state, or log lines by text; Enter keeps the filter, Esc clears it"),
    ("Enter, w", "why: what happened, and what to type"),
    ("l", "follow the log; Tab switches between stdout and stderr"),
    ("s, S, r", "start, stop or restart the selected unit, after confirmation"),
    ("R", "reload its unit without downtime, after confirmation"),
    ("q, Esc", "back; q ends monit"),
    ("", ""),
    (
        "",
        "Units with problems come first. monit does not poll: when nothing changes, it uses almost no CPU or network.",
    ),
)


class Picture:
    """`lines` as displayed. Of the scrollable part: its length, how much is shown, and from where."""

    __slots__ = ("lines", "room", "top", "total")

    def __init__(self, lines: list[Line], total: int = 0, room: int = 1, top: int = 0) -> None:
        self.lines = lines
        self.total = total
        self.room = room
        self.top = top


def draw(view: View, width: int, height: int, now: float, *, utf8: bool = True) -> Picture:
    """As many lines as the terminal has."""
    screen = Screen(width=width, utf8=utf8)
    if width < LEAST[0] or height < LEAST[1]:
        return Picture(_fit([[(f"monit needs {LEAST[0]} x {LEAST[1]}", "")]], width, 1, utf8=utf8))
    room = height - 2
    body = _units(view, screen, room, now) if view.mode == UNITS else _pane(view, screen, room)
    padding: list[Line] = [[] for _ in range(room - len(body.lines))]
    lines = [_head(view, screen, now), *body.lines[:room], *padding, _foot(view)]
    return Picture(_fit(lines, width, height, utf8=utf8), body.total, body.room, body.top)


def _fit(lines: list[Line], width: int, height: int, *, utf8: bool) -> list[Line]:
    return [[*_cut(line, width, utf8=utf8)] for line in lines[:height]]


def _cut(line: Line, width: int, *, utf8: bool) -> Iterator[tuple[str, str]]:
    for text, style in line:
        if not text.isprintable():  # lone surrogates, and what turns the direction of writing
            text = "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text)
        if not text.isascii():
            text = fitting(text, width) if utf8 else text.encode("ascii", "replace").decode()
        text = text[:width]
        width -= columns(text)
        if text:
            yield text, style


def columns(text: str) -> int:
    """How many columns it takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_width, text))


def _width(char: str) -> int:
    import unicodedata

    if unicodedata.combining(char) or unicodedata.category(char) in {"Cf", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in {"W", "F"} else 1


def fitting(text: str, width: int) -> str:
    """As much of it as fits."""
    used = 0
    for at, char in enumerate(text):
        used += _width(char)
        if used > width:
            return text[:at]
    return text


def _head(view: View, screen: Screen, now: float) -> Line:
    """Which instance; how it is; and whether this is how it is."""
    rows = list(view.rows.get(stream.UNIT, {}).values())
    wrong = sum(not as_wanted(row) for row in rows)
    summary = f"{wrong} of {len(rows)} not OK" if wrong else table.all_well(rows) if rows else ""
    age = max(0, int(now - view.state_since))
    state = "live" if not view.state else f"{view.state} {age} s" if age else view.state
    what = {
        LOGS: f"{'stderr' if view.stream == 'error' else 'stdout'} of {view.of}",
        WHY: f"why {view.of}",
        HELP: "keys",
    }
    title = plain(what.get(view.mode, view.title))
    room = width_of(screen) - len(summary) - len(state) - 6
    title = screen.cut(title, max(8, room))
    gap = max(2, width_of(screen) - len(title) - len(summary) - len(state) - 4)
    return [
        (title, "bold"),
        ("  ", ""),
        (summary, "red" if wrong else ""),
        (" " * gap, ""),
        (state, "yellow" if view.state else "dim"),
    ]


def _foot(view: View) -> Line:
    if view.confirming is not None:
        said = next(said for method, said, _ in COMMANDS.values() if method == view.confirming.what)
        return [(f"{said} {plain(view.confirming.name)}?", "bar"), ("  y: yes, any other key: no", "")]
    if view.typing:
        return [(f"/{view.filter}", "bold"), ("_", "selected")]
    if view.message:
        return [(view.message, "red" if view.failed else "")]
    filtered = f"filter: {view.filter} (Esc clears it)  " if view.filter else ""
    return [(filtered, "bold"), (KEYS[view.mode], "dim")]


def _units(view: View, screen: Screen, room: int, now: float) -> Picture:
    lines = _incidents(view, screen, max(2, room // 3))
    units = view.units()
    if not units:
        said = "no unit matches the filter" if view.filter else "nothing is configured to run"
        return Picture([*lines, [(said if view.rows else "", "")]])
    room = max(1, room - len(lines) - 1)
    selected = next((at for at, (key, _) in enumerate(units) if key == view.selected), 0)
    top = min(max(view.top, selected - room + 1), selected, max(0, len(units) - room))
    header, widths = _columns(units, screen)
    lines.append([(header, "bold")])
    for at, (_, row) in enumerate(units[top : top + room], top):
        style = table.state_colour(row)
        text = _row(row, widths, screen, now)
        lines.append(
            [
                (f"{text:<{width_of(screen)}}", "selected")
                if at == selected
                else (text, "" if style == "green" else style)
            ]
        )
    return Picture(lines, len(units), room, top)


def _incidents(view: View, screen: Screen, room: int) -> list[Line]:
    """What is not as wanted and why, grouped by cause; then the units that wait for it, and other matters that need
    attention.
    """
    wrong: dict[tuple[str, str, str], list[Row]] = {}
    waiting: dict[str, list[str]] = {}
    for _, row in sorted(view.units(), key=lambda each: each[1]["unit"]):
        if as_wanted(row):
            continue
        if waits := waited_for(row):
            waiting.setdefault(waits, []).append(str(row["name"]))
        else:
            wrong.setdefault((row["unit"], row["state"], _shape(row)), []).append(row)
    said: list[tuple[str, str]] = []
    for rows in wrong.values():
        others = f" (and {len(rows) - 1} more of {rows[0]['unit']})" if len(rows) > 1 else ""
        said.append((plain(table.sentence(rows[0])) + plain(others), table.state_colour(rows[0])))
    for name, names in waiting.items():
        said.append((plain(f"waiting for {name}: {', '.join(names)}"), "yellow"))
    daemon = view.rows.get(stream.DAEMON, {}).get("", {})
    said += [(plain(sentence), "yellow") for sentence in daemon.get("attention", ())]
    lines: list[Line] = [[(line, style)] for sentence, style in said for line in screen.wrap(sentence)]
    if len(wrong) == 1 and len(lines) < room:  # its last output, if there is room
        ((row, *_),) = wrong.values()
        lines += [[(f"    {plain(line)}", "dim")] for line in (row.get("tail") or ())[-(room - len(lines)) :]]
    if len(lines) > room:
        lines = [*lines[: room - 1], [(f"{screen.ellipsis} w shows why", "dim")]]
    return [*lines, []] if lines else []


def _shape(row: Row) -> str:
    """Its reason without the numbers: those of one unit that fail alike are one incident."""
    return "".join("#" if char.isdigit() else char for char in str(row.get("reason") or ""))


def _columns(units: list[tuple[str, Row]], screen: Screen) -> tuple[str, dict[str, int]]:
    """The header, and the width of each column that there is room for."""
    longest = max(len(plain(row["name"])) for _, row in units)
    widths = dict(WIDTHS)
    for title in table.DROPPED_FIRST:
        if STATE + 2 + sum(width + 2 for width in widths.values()) + min(longest, NAME) <= width_of(screen):
            break
        del widths[title]
    rest = STATE + 2 + sum(width + 2 for width in widths.values())
    widths = {"NAME": max(1, min(max(longest, len("NAME")), width_of(screen) - rest)), "STATE": STATE, **widths}
    cells = [
        f"{title:<{width}}" if title in {"NAME", "STATE"} else f"{title:>{width}}" for title, width in widths.items()
    ]
    return "  ".join(cells), widths


def _row(row: Row, widths: dict[str, int], screen: Screen, now: float) -> str:
    if row.get("uptime_s") is not None:
        row = {**row, "uptime_s": row["uptime_s"] + max(0.0, now - row["at"])}
    cells = [
        f"{screen.cut_name(plain(row['name']), widths['NAME']):<{widths['NAME']}}",
        f"{plain(row['state']):<{STATE}}",
    ]
    cells += [f"{cell(row):>{widths[title]}}" for title, cell in table.COLUMNS if title in widths]
    return "  ".join(cells)


def _pane(view: View, screen: Screen, room: int) -> Picture:
    if view.mode == LOGS:
        return _log(view, screen, room)
    if view.mode == HELP:
        lines = _about(screen)
    else:
        lines = [part for line in view.lines for part in screen.wrap(line)] or ["asking ..."]
    top = min(view.top, max(0, len(lines) - room))
    return Picture([[(line, "")] for line in lines[top : top + room]], len(lines), room, top)


def _about(screen: Screen) -> list[str]:
    margin = max(len(keys) for keys, _ in ABOUT) + 2
    narrow = Screen(width=max(20, width_of(screen) - margin))
    lines = []
    for keys, purpose in ABOUT:
        for at, part in enumerate(narrow.wrap(purpose)):
            lines.append(f"{'' if at else keys:<{margin}}{part.strip()}")
    return lines


def _log(view: View, screen: Screen, room: int) -> Picture:
    """The last lines that fit, each whole; from further up if somebody has scrolled there."""
    lines, room = view.log(), room - 1
    shown: list[Line] = []
    for line in reversed(lines[: len(lines) - view.back]):
        shown[:0] = [[(part, "")] for part in wrapped(line, width_of(screen))]
        if len(shown) >= room:
            break
    mark = f"paused, {counted(view.back, 'more line')} below; f follows" if view.back else ""
    if not shown:
        mark = "no line matches the filter" if view.filter and view.lines else "no output yet"
    padding: list[Line] = [[] for _ in range(room - len(shown))]
    return Picture([*shown[-room:], *padding, [(mark, "yellow" if view.back else "dim")]], len(lines), room)


def wrapped(text: str, width: int) -> list[str]:
    """In pieces of at most so many columns."""
    parts = []
    while columns(text) > width:
        part = fitting(text, width) or text[:1]
        parts.append(part)
        text = text[len(part) :]
    return [*parts, text]


def width_of(screen: Screen) -> int:
    """A terminal's, which always has one."""
    return screen.width or 80
