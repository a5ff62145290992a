"""`impetusd env`."""

from __future__ import annotations

import json
import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from impetusd.cli.screen.terminal import Screen

    Row: typing.TypeAlias = Mapping[str, typing.Any]


@click.command(short_help="Show the environment that NAME was started with.")
@click.argument("name")
@click.option(
    "--diff", is_flag=True, help="Show only what a start with the current INI file and env_file would change."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@conf_option
def command(name: str, diff: bool, as_json: bool) -> int:
    """Show the environment that the processes of NAME were started with. Values that look secret are shown as ***.

    Requires the admin role. With --diff, exits with 0 if a start would change nothing, 1 if it would, 2 if the INI file
    has problems.

    Example: impetusd env web --diff
    """
    from impetusd.cli import outcome
    from impetusd.cli.screen.terminal import screen_of
    from impetusd.client import control

    at = here()
    try:
        slots = control.call(at.paths, "env", {"name": name, "diff": diff})["slots"]
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    screen = screen_of(sys.stdout, os.environ)
    if as_json:
        print(json.dumps({"slots": slots}, indent=2))
    else:
        print("\n".join(lines(slots, screen, at.command)))
    return 1 if any(slot.get("differs") for slot in slots) else 0


def lines(slots: Sequence[Row], screen: Screen, program: str) -> Iterator[str]:
    """A paragraph for each process, and at last what would bring what differs into force."""
    from impetusd.cli.screen.terminal import plain

    for number, slot in enumerate(slots):
        if number:
            yield ""
        yield screen.paint(f"{slot['name']} (pid {slot['pid']})", "bold")
        rows = slot.get("variables", ())
        width = max((len(row["name"]) for row in rows), default=0)
        for row in rows:
            yield screen.cut(f"  {row['name']:<{width}}  {plain(row['value'])}".rstrip())
        for row in slot.get("differs", ()):
            was, is_now = ("(none)" if row[side] is None else plain(row[side]) for side in ("from", "to"))
            said = "changed" if was == is_now else f"{was} {screen.arrow} {is_now}"
            yield screen.cut(f"  {row['name']}: {said}")
        if "unknown" in slot:
            yield f"  {slot['unknown']}"
        elif not rows and not slot.get("differs"):
            yield "  a start would change nothing"
    takes = {slot.get("takes") for slot in slots}
    if "apply" in takes:
        yield f"\n{screen.arrow} {program} apply"
    elif "restart" in takes:
        names = " ".join(dict.fromkeys(slot["unit"] for slot in slots if slot.get("takes")))
        yield f"\n{screen.arrow} {program} restart {names}"
