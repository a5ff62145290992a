"""`impetusd silence`."""

from __future__ import annotations

import json
import sys
import time
import typing

import click

from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


@click.command(short_help="Suppress alerts for a while; list silences or end one.")
@click.argument("words", metavar="[[NAME] TIME]", nargs=-1)
@click.option("--why", default="", metavar="TEXT", help="Reason, shown in the list.")
@click.option("--end", metavar="ID", help="End the silence with this id.")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
@conf_option
def command(words: tuple[str, ...], why: str, end: str | None, as_json: bool) -> int:
    """Suppress alerts about NAME (a unit, timer, group or alert; without NAME, all alerts) for TIME.

    Problems that still exist after TIME are reported then. Without TIME, list the active silences.

    Example: impetusd silence web 1h --why 'moving the database'
    """
    from impetusd.cli import outcome
    from impetusd.client import control

    if len(words) > 2 or (end is not None and words):
        raise click.UsageError("usage: impetusd silence [NAME] TIME, or impetusd silence --end ID")
    at = here()
    try:
        if end is not None:
            ended = control.call(at.paths, "unsilence", {"id": end})["ended"]
            print(f"silence {end} ended" if ended else f"no silence {end}; see: {at.command} silence")
            return 0 if ended else 1
        if words:
            *names, length = words
            asked = {"name": "".join(names), "seconds": _seconds(length), "why": why}
            made = control.call(at.paths, "silence", asked)["silence"]
            print("\n".join(report([made], at.command, time.time())))
            return 0
        found = (control.call(at.paths, "status", {}).get("alerts") or {}).get("silences", [])
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    if as_json:
        print(json.dumps(found, indent=2 if sys.stdout.isatty() else None))
    else:
        print("\n".join(report(found, at.command, time.time()) if found else ["no alerts are silenced"]))
    return 0


def _seconds(text: str) -> float:
    from impetusd.core.config.schema import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="TIME") from None


def report(silences: Sequence[Mapping[str, typing.Any]], command: str, now: float) -> Iterator[str]:
    """A line for each, and below what ends the first. `now` is Unix time."""
    from impetusd.core.inert import plain
    from impetusd.core.units import span

    for each in silences:
        about = f"alerts about {each['name']}" if each["name"] else "all alerts"
        why = f": {each['why']}" if each["why"] else ""
        left = span(max(0.0, float(round(each["until"] - now))))
        yield plain(f"silence {each['id']}: {about} for {left}, by {each['by']}{why}")
    yield f"→ {command} silence --end {silences[0]['id']}"
