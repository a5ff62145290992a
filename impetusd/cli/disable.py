"""`impetusd disable`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Stop and disable units, without editing the INI file.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@conf_option
def command(names: tuple[str, ...]) -> int:
    """Stop each unit or timer NAME and keep it disabled, even after reboots, like `enabled = no`.

    A stopped unit comes back with the next `start`; a disabled one stays down until `impetusd enable`.

    Example: impetusd disable web
    """
    from impetusd.cli import outcome

    return outcome.change(
        here(), "disabling", "disable", {"names": list(names)}, f"{', '.join(names)}: already disabled"
    )
