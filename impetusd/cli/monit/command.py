"""`impetusd monit` for click: its help, and every way of writing it that the short way in `main` leaves alone."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Watch what runs on the terminal; logs, why, start and stop by keys.")
@conf_option
def command() -> int:
    """Show what runs as it changes, what is not as wanted first and why; follow logs; start, stop, restart and reload by keys.

    It needs a terminal of 40 x 8 or more; ? shows the keys. Starting, stopping and logs take the role operator.
    Through a pipe, use impetusd status --watch.

    Example: impetusd monit
    """
    from impetusd.cli.monit import loop

    return loop.show(here())
