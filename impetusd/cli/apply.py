"""`impetusd apply`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, env_option, here


@click.command(short_help="Apply the INI file to what is running.")
@env_option
@conf_option
def command(env: str | None) -> int:
    """Apply exactly what `impetusd plan` shows, and wait until it is done.

    What has not changed is not touched. A pool gets new workers one at a time, and no request is lost. A file with a
    problem changes nothing. SIGHUP to the daemon does the same.

    Exits with 0 if all that was changed is up, with 1 if something is not, with 2 if the file has problems.

    Example: impetusd apply
    """
    from impetusd.cli import outcome, plan

    return outcome.change(here(), "applying", "apply", {"env": env} if env is not None else {}, plan.NOTHING)
