"""`impetusd scale`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here
from impetusd.core.protocol import MAX_INSTANCES


@click.command(short_help="Run N instances of NAME.")
@click.argument("name")
@click.argument("n", type=click.IntRange(0, MAX_INSTANCES))
@conf_option
def command(name: str, n: int) -> int:
    """Run N instances of the unit NAME from now on, and wait until they are ready.

    Holds until the daemon ends; `instances` in the INI file holds for good. Where that is a range like 2..8, N is at
    most its end.

    Example: impetusd scale web 4
    """
    from impetusd import control
    from impetusd.cli import outcome

    at = here()
    try:
        return outcome.bring_up(at, "scaling", "scale", {"name": name, "n": n})
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
