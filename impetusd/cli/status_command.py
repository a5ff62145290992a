"""`impetusd status` for click: its help, and every way of writing it that the short way in `main` leaves alone."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, given, names_argument


@click.command(short_help="Show units and what needs attention.")
@names_argument()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--watch", is_flag=True, help="Keep showing changes until Ctrl-C.")
@conf_option
def command(names: tuple[str, ...], as_json: bool, watch: bool) -> int:
    """Show all units, their uptime and restarts, and what needs attention.

    With --watch, a terminal shows changes live; into a pipe, each change is a line, or with --json a JSON object.

    Exits with 0 if all units that should be up are up, 1 if not, 3 if no daemon is running, 4 for an unknown NAME.

    Example: impetusd status --watch web
    """
    if watch:
        from impetusd.cli import status_watch
        from impetusd.cli.options import here

        return status_watch.show(here(), names, as_json=as_json)
    from impetusd.cli import status

    return status.show(given(), names, as_json=as_json)
