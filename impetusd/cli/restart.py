"""`impetusd restart`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here, names_argument


@click.command(short_help="Stop and start everything, or NAME.")
@click.option("--rolling", is_flag=True, help="One process of a unit after the other; of a pool, no request is lost.")
@names_argument()
@conf_option
def command(names: tuple[str, ...], rolling: bool) -> int:
    """Give everything, or each NAME, a new process, and wait until it is ready.

    What does not run is started, the daemon included. Exits as `impetusd start` does.

    Example: impetusd restart --rolling web
    """
    from impetusd import control
    from impetusd.cli import outcome, start

    at = here()
    try:
        return outcome.bring_up(at, "restarting", "restart", {"names": list(names), "wait": True, "rolling": rolling})
    except control.NotRunning:
        return start.start(at, names)
