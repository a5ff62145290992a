"""The status table: every slot in a line, and below it what needs attention and what to type. Text in, text out.

It fits 80 columns, and narrower terminals by leaving columns out. A slot's trouble is shown below the table, not in a
column: there it has the whole width, and as many lines as it takes. Commands to type are never cut.
"""

from __future__ import annotations

from impetusd.cli.screen.terminal import plain
from impetusd.core.protocol import UNKNOWN, as_wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, TypeAlias

    from impetusd.cli.screen.terminal import Screen

    Row: TypeAlias = Mapping[str, Any]

AT_MOST = 12  # lines below the table on a terminal; 500 of them would push the table out of sight
_NAME_AT_LEAST = 16
COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("PID", lambda row: _number(row.get("pid"))),
    ("UPTIME", lambda row: uptime(row.get("uptime_s"))),
    ("RESTARTS", lambda row: _number(row.get("restarts"))),
    ("MEMORY", lambda row: memory(row.get("memory_bytes"))),
    ("CPU", lambda row: _cpu(row.get("cpu_percent"))),
)
ALL = 1_000_000  # as `tails`: every line there is, and none cut
DROPPED_FIRST = ("CPU", "MEMORY", "PID", "UPTIME", "RESTARTS")
_COLOUR = {"RUNNING": "green", "STARTING": "yellow", "STOPPING": "yellow", "BACKOFF": "yellow", "FATAL": "red"}


def report(rows: Sequence[Row], screen: Screen, command: str, *, tails: int = 0) -> list[str]:
    """The whole answer to `status`; of what each failed slot wrote last, up to `tails` lines are added."""
    if not rows:
        return ["nothing is configured to run"]
    return [*table(rows, screen), *below(rows, screen, command, tails=tails)]


def table(rows: Sequence[Row], screen: Screen) -> list[str]:
    """A header and a line for each row."""
    names = [plain(row["name"]) for row in rows]
    states = [plain(row["state"]) for row in rows]
    name_width = max(map(len, [*names, "NAME"]))
    state_width = max(map(len, [*states, "STATE"]))
    columns = {title: [cell(row) for row in rows] for title, cell in COLUMNS}
    widths = {title: max(len(title), *map(len, cells)) for title, cells in columns.items()}
    if screen.width is not None:
        for title in DROPPED_FIRST:
            rest = state_width + 2 + sum(width + 2 for width in widths.values())
            if rest + min(name_width, _NAME_AT_LEAST) <= screen.width:
                break
            del widths[title]
        rest = state_width + 2 + sum(width + 2 for width in widths.values())
        name_width = max(1, min(name_width, screen.width - rest))
    header = f"{'NAME'[:name_width]:<{name_width}}  {'STATE':<{state_width}}"
    header += "".join(f"  {title:>{width}}" for title, width in widths.items())
    lines = [screen.paint(screen.cut(header).rstrip(), "bold")]
    for i, row in enumerate(rows):
        name = f"{screen.cut_name(names[i], name_width):<{name_width}}"
        cells = "".join(f"  {columns[title][i]:>{width}}" for title, width in widths.items())
        state = f"{states[i]:<{state_width}}" if cells else states[i]
        lines.append(f"{name}  {screen.paint(state, state_colour(row))}{cells}")
    return lines


def below(rows: Sequence[Row], screen: Screen, command: str, *, tails: int = 0) -> list[str]:
    """What needs attention, what to type about it, and how many are up."""
    wrong = [row for row in rows if not as_wanted(row)]
    notes = [row for row in rows if as_wanted(row) and row["state"] == "RUNNING" and row.get("reason")]
    lines = [""]
    shown = fitting(map(sentence, wrong), screen)
    told: set[tuple[str, str]] = set()
    for row, said in zip(wrong, shown, strict=False):
        lines += [screen.paint(line, state_colour(row)) for line in ([sentence(row)] if tails == ALL else said)]
        if tails:
            lines += _tail(row, told, tails)
    if len(wrong) > len(shown):
        lines.append(f"{screen.ellipsis} and {len(wrong) - len(shown)} more: {command} status --json")
    if wrong:
        units = list(dict.fromkeys(plain(row["unit"]) for row in wrong))
        more = f" {screen.ellipsis}" if len(units) > 3 else ""
        lines.append(f"{screen.arrow} {command} why {' '.join(units[:3])}{more}")
    else:
        lines += [screen.paint(line, "dim") for said in fitting(map(sentence, notes), screen) for line in said]
        lines.append(screen.paint(all_well(rows), "dim"))
    return lines


def sentence(row: Row) -> str:
    """`web:0 is BACKOFF: exit 1; retrying in 3.2 s (3 of 16)`."""
    state = row["state"]
    if state == "RUNNING" and not row.get("ready", True):
        state = "RUNNING, but not ready"
    reason = plain(row.get("reason") or last_exit(row.get("last_exit")))
    return f"{plain(row['name'])} is {state}" + (f": {reason}" if reason else "")


def last_exit(end: Mapping[str, Any] | None) -> str:
    """`exit 1`, `killed by SIGKILL`, or "" if it never ended."""
    if not end:
        return ""
    if end.get("unknown"):
        return UNKNOWN
    oom = f" ({end['oom']})" if end.get("oom") else ""
    return f"killed by {end['signal']}{oom}" if end.get("signal") else f"exit {end.get('code')}"


def uptime(seconds: float | None) -> str:
    """`3d 4h`, `5h 12m`, `12m`, `45s`; `-` for none."""
    if seconds is None:
        return "-"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def memory(size: int | None) -> str:
    """`48 MB`, `1.2 GB` (1 MB is 1024 x 1024 bytes, as in `max_memory_restart`); `-` for none."""
    if size is None:
        return "-"
    megabytes = size / (1 << 20)
    if megabytes < 1:
        return f"{max(size, 0) >> 10} kB"
    if megabytes < 1000:
        return f"{megabytes:.0f} MB"
    gigabytes = megabytes / 1024
    return f"{gigabytes:.1f} GB" if gigabytes < 100 else f"{gigabytes:.0f} GB"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _cpu(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.1f}%"


def state_colour(row: Row) -> str:
    """The colour of a row's state; "" for none."""
    if row["want"] != "up" and row["state"] in {"STOPPED", "EXITED"}:
        return "dim"
    if row["state"] == "RUNNING" and not row.get("ready", True):
        return "yellow"
    return _COLOUR.get(row["state"], "dim" if as_wanted(row) else "red")


def fitting(sentences: Iterable[str], screen: Screen) -> list[list[str]]:
    """Each in its lines: on a screen the first ones, as many as AT_MOST lines have room for, and one at least."""
    shown: list[list[str]] = []
    used = 0
    for said in map(screen.wrap, sentences):
        used += len(said)
        if shown and used > AT_MOST and screen.width is not None:
            break
        shown.append(said)
    return shown


def all_well(rows: Sequence[Row]) -> str:
    """The last line where nothing needs attention: `all 5 up`, `all 4 up, 1 stopped, 2 done`."""
    up = sum(row["state"] == "RUNNING" and row["want"] == "up" for row in rows)
    done = sum(row["state"] == "EXITED" and row["want"] == "up" for row in rows)
    down = len(rows) - up - done
    parts = [f"all {up} up" if up > 1 else f"{up} up"]
    parts += [f"{down} stopped"] if down else []
    parts += [f"{done} done"] if done else []
    return ", ".join(parts)


def _tail(row: Row, told: set[tuple[str, str]], most: int) -> list[str]:
    """The tail, indented, unless another slot of the unit has shown the same: an import error fails template and workers."""
    tail = [plain(line) for line in row.get("tail") or ()]
    # Lines that differ in a time, a pid or an address only are the same to the reader.
    key = (
        row["unit"],
        "\n".join("".join("0" if char in "0123456789abcdef" else char for char in line) for line in tail),
    )
    if not tail or key in told:
        return []
    told.add(key)
    return [f"    {line}" for line in tail[-most:]]  # whole: the end of a line is where an error is named
