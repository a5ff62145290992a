"""`impetusd apply`."""

from __future__ import annotations

import os
import sys

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Have what runs be what the INI file says.")
@conf_option
def command() -> int:
    """Do what `impetusd plan` shows, and nothing else, and wait until it is done.

    What has not changed is not touched. A pool gets new workers one at a time, and no request is lost. A file with a
    problem changes nothing. SIGHUP to the daemon does the same.

    Exits with 0 if all that was changed is up, with 1 if something is not, with 2 if the file has problems.

    Example: impetusd apply
    """
    from impetusd import control
    from impetusd.cli import outcome, plan
    from impetusd.cli.progress import Live
    from impetusd.cli.terminal import screen_of

    at = here()
    try:
        with Live("applying") as live:
            answer = control.call(at.paths, "apply", {"token": os.urandom(8).hex()}, live.hooks)
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    if not answer["changes"]:
        print("nothing to change: what runs is what the file says")
        return 0
    print("\n".join(plan.lines(answer["changes"], screen_of(sys.stdout, os.environ))))
    if not answer["units"]:
        return 0
    print()
    return outcome.tell(at, answer)
