"""`impetusd apply`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, env_option, here


@click.command(short_help="Apply the INI file to what is running.")
@env_option
@conf_option
def command(env: str | None) -> int:
    """Apply exactly what `impetusd plan` shows, and wait until it is done.

    Unchanged units are not touched. A pool's workers are replaced one at a time, without losing a request. If the file
    has a problem, nothing changes. SIGHUP to the daemon does the same.

    Exits with 0 if everything that changed is up, 1 if something is not, 2 if the file has problems.

    Example: impetusd apply
    """
    from impetusd.cli import outcome, plan

    return outcome.change(here(), "applying", "apply", {"env": env} if env is not None else {}, plan.NOTHING)
