"""`impetusd enable`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Re-enable disabled units.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@conf_option
def command(names: tuple[str, ...]) -> int:
    """Undo `impetusd disable` for each unit or timer NAME; units with autostart are started.

    Example: impetusd enable web
    """
    from impetusd.cli import outcome

    return outcome.change(here(), "enabling", "enable", {"names": list(names)}, f"{', '.join(names)}: already enabled")
