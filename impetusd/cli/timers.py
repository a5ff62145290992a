"""`impetusd timers`."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time
import typing

import click

from impetusd.cli.options import conf_option, here
from impetusd.core.units import ago, ahead, span

if typing.TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from impetusd.cli.screen.terminal import Screen

    Row: typing.TypeAlias = Mapping[str, typing.Any]

HEAD = ("NAME", "SCHEDULE", "LAST", "NEXT")
NARROW = 80  # columns in which a whole line should be read
LAST_AT_LEAST = 24  # columns of it that SCHEDULE does not push out


@click.command(short_help="Show timers with their last result and next run.")
@click.option("--json", "as_json", is_flag=True, help="Print the last ten results of each as JSON.")
@conf_option
def command(as_json: bool) -> int:
    """Show each timer: its schedule, how its last run ended, and when it runs next.

    Example: impetusd timers
    """
    from impetusd.cli import outcome
    from impetusd.cli.screen.terminal import screen_of
    from impetusd.client import control

    at = here()
    try:
        answer = control.call(at.paths, "timers", {})
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    screen = screen_of(sys.stdout, os.environ)
    if as_json:
        print(json.dumps(answer, indent=2 if screen.width is not None else None))
    else:
        print("\n".join(report(answer["timers"], screen, at.command, time.time())))
    return 0


def report(rows: Sequence[Row], screen: Screen, command: str, now: float) -> list[str]:
    """A line for each timer, and below what to type about those that failed. `now` is Unix time."""
    if not rows:
        return ["no timers are configured"]
    failed = [row for row in rows if not _is_well(row)]
    cells = [[row["name"], row["words"], last(row, now), following(row)] for row in rows]
    name, words, result, next_ = (max(len(row[i]) for row in [list(HEAD), *cells]) for i in range(4))
    room = (screen.width or NARROW) - name - next_ - 6
    if words + result > room:  # the raw expression where its words are too long, then what is left of it
        words = max(len(HEAD[1]), min(words, room - min(result, LAST_AT_LEAST)))
        for row, fields in zip(rows, cells, strict=True):
            fields[1] = fields[1] if len(fields[1]) <= words else screen.cut(row["schedule"], words)
        words = max(len(fields[1]) for fields in [list(HEAD), *cells])
        result = max(len(HEAD[2]), min(result, room - words))
    widths = (name, words, result, next_)

    def line(fields: Sequence[str], colour: str = "") -> str:
        shown = [f"{screen.cut(each, width):<{width}}" for each, width in zip(fields, widths, strict=True)]
        shown[2] = screen.paint(shown[2], colour)
        return "  ".join(shown).rstrip()

    lines = [screen.paint(line(HEAD), "bold")]
    lines += [line(fields, "" if _is_well(row) else "red") for row, fields in zip(rows, cells, strict=True)]
    if failed:
        lines += ["", f"{screen.arrow} {command} why {' '.join(row['name'] for row in failed[:3])}"]
    return lines


def last(row: Row, now: float) -> str:
    """`exit 0 in 12 s, 2 h ago`; what goes on now comes before it."""
    if row["running_s"] is not None:
        queued = ", 1 queued" if row["state"] == "queued" else ""
        return f"running for {span(row['running_s'])}{queued}"
    if not row["runs"]:
        return "-"
    run = row["runs"][0]
    ended = dt.datetime.fromisoformat(run["at"]).timestamp() + run["duration_s"]
    took = (
        f" in {span(run['duration_s'])}" if run["duration_s"] and run.get("cause", {}).get("key") != "timed_out" else ""
    )
    return f"{run['result']}{took}, {ago(now - ended)}"


def following(row: Row) -> str:
    """`in 3 h 12 min`, `retry in 30 s`, `off`, `never`."""
    if not row["enabled"]:
        return "off"
    if row["next_in_s"] is None:
        return "never"
    return ("retry " if row["state"] == "retrying" else "") + ahead(row["next_in_s"])


def _is_well(row: Row) -> bool:
    """Whether the last run that was not skipped succeeded, or there was none."""
    run = next((each for each in row["runs"] if not each.get("skipped")), None)
    return run is None or bool(run["ok"])
