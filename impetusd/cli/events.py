"""`impetusd events`."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import textwrap
import typing

import click

from impetusd.cli.options import conf_option, here, names_argument, since_when

if typing.TYPE_CHECKING:
    from impetusd.cli.screen.terminal import Screen
    from impetusd.core.explain.ledger import Record

LINES = 20  # by default
NAME = 12  # columns for a name, at least
INDENT = 21  # columns: what a line goes on below of
_COLOUR = {"FATAL": "red", "BACKOFF": "yellow", "unhealthy": "red", "failing": "yellow", "healthy again": "green"}


@click.command(short_help="Show what happened: starts, exits, rules, commands.")
@names_argument()
@click.option("-f", "--follow", is_flag=True, help="Keep showing new records until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(1), help="Number of records. Default: 20, or all with --since.")
@click.option("--since", metavar="WHEN", help="Since 10m, 2h or 1d ago, 2026-11-23, or '2026-11-23 10:00'.")
@click.option("--json", "as_json", is_flag=True, help="Print each record as a line of JSON.")
@conf_option
def command(*, names: tuple[str, ...], follow: bool, lines: int | None, since: str | None, as_json: bool) -> int:
    """Show the ledger's last records, for everything or for each NAME: starts and exits, decisions and the keys behind
    them, rules that acted, health checks that changed, results of timers, configuration changes, and commands with the
    user who gave them.

    Works without a running daemon. `impetusd why` turns these records into an explanation.

    Example: impetusd events -f --since 2h web
    """
    from impetusd.cli import past
    from impetusd.cli.names import with_members
    from impetusd.cli.screen import reader
    from impetusd.cli.screen.terminal import screen_of
    from impetusd.files.ledgerfile import Query

    when = since_when(since) or 0.0
    last = lines or (0 if when else LINES)
    at = here()
    screen = screen_of(sys.stdout, os.environ)
    anything = False
    wanted = with_members(at, names)
    for records in past.records(at.paths, Query(wanted, since=when, last=last), follow=follow):
        for record in records:
            anything = True
            print(json.dumps(record, separators=(",", ":")) if as_json else line(record, screen))
        sys.stdout.flush()
        if follow:
            reader.expect()
    if not anything:
        from impetusd.cli.names import configured, require

        require(wanted, configured(at))
        of = f" of {', '.join(names)}" if names else ""
        print(f"no records{of}{' since then' if when else ''}", file=sys.stderr)
    return 0


def line(record: Record, screen: Screen) -> str:
    """`2026-11-25 22:04:11  web:0         exit 1 after 3 s; …`; on a terminal in as many lines as it takes."""
    from impetusd.cli.screen.terminal import plain
    from impetusd.core.explain.ledger import sentence

    stamp = dt.datetime.fromtimestamp(record["at"]).strftime("%Y-%m-%d %H:%M:%S")
    name = record.get("slot") or record.get("unit") or "impetusd"
    text = f"{stamp}  {name:<{NAME}}  {plain(sentence(record))}"
    if screen.width is not None:
        indent = " " * min(INDENT, screen.width // 2)
        text = "\n".join(textwrap.wrap(text, screen.width, subsequent_indent=indent, break_on_hyphens=False)) or text
    return screen.paint(text, _colour(record))


def _colour(record: Record) -> str:
    if record["kind"] == "timer" or record["kind"] == "command":
        return "" if record.get("ok", record.get("outcome") == "done") else "red"
    return _COLOUR.get(record.get("state", ""), "")
