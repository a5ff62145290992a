"""`impetusd monit` for click: its help, and every way of writing it that the short way in `main` leaves alone."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Watch units on the terminal; use keys for logs, why, start and stop.")
@conf_option
def command() -> int:
    """Show all units as they change, with problems and their causes first; follow logs; start, stop, restart and reload
    with keys.

    Needs a terminal of at least 40 x 8; ? shows the keys. Starting, stopping and logs require the operator role. Into a
    pipe, use impetusd status --watch.

    Example: impetusd monit
    """
    from impetusd.cli.monit import loop

    return loop.show(here())
