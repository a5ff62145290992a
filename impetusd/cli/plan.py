"""`impetusd plan`."""

from __future__ import annotations

import json
import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, env_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from impetusd.cli.screen.terminal import Screen

    Row: typing.TypeAlias = Mapping[str, typing.Any]

NOTHING = "nothing to change: the INI file is already applied"
WORDS = {
    "live": ("~", "no process is restarted", "dim"),
    "reload": ("~", "workers are replaced one at a time", "yellow"),
    "restart": ("!", "its processes are restarted", "yellow"),
    "added": ("+", "a new unit", "green"),
    "removed": ("-", "stopped, and no longer listed", "red"),
}


@click.command(short_help="Show what `impetusd apply` would change.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@env_option
@conf_option
def command(as_json: bool, env: str | None) -> int:
    """Show, unit by unit and key by key, what `impetusd apply` would change.

    Exits with 0 if nothing would change, 1 if something would, 2 if the file has problems.

    Example: impetusd plan && echo nothing to apply
    """
    from impetusd.cli import outcome
    from impetusd.cli.screen.terminal import screen_of
    from impetusd.client import control

    at = here()
    try:
        changes = control.call(at.paths, "plan", {} if env is None else {"env": env})["changes"]
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    if as_json:
        print(json.dumps({"changes": changes}, indent=2))
    elif not changes:
        print(NOTHING)
    else:
        screen = screen_of(sys.stdout, os.environ)
        print(
            "\n".join(
                [
                    *lines(changes, screen),
                    "",
                    f"{screen.arrow} {at.command} apply{'' if env is None else f' --env {env or repr(env)}'}",
                ]
            )
        )
    return 1 if changes else 0


def lines(changes: Sequence[Row], screen: Screen) -> Iterator[str]:
    """A line for each section that differs, below it one for each key."""
    from impetusd.cli.screen.terminal import plain

    width = max(len(_title(change)) for change in changes)
    for change in changes:
        sign, meaning, colour = WORDS[change["effect"]]
        yield screen.paint(screen.cut(f"{sign} {_title(change):<{width}}  {change['effect']}: {meaning}"), colour)
        for key in change["keys"]:
            was, is_now = (plain(key[side]) or "(none)" for side in ("from", "to"))
            said = "changed" if was == is_now else f"{was} {screen.arrow} {is_now}"
            yield from screen.wrap(f"    {key['key']}: {said}")


def _title(change: Row) -> str:
    return ":".join(filter(None, (change["kind"], change["name"])))
