"""`impetusd reopen-logs`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Reopen log files, for logrotate.")
@conf_option
def command() -> int:
    """Reopen every log file at its path after it was renamed. When this command returns, nothing is written to the old
    files.

    For logrotate's `postrotate`. Exits with 0 if no daemon is running.

    Example: impetusd reopen-logs
    """
    from impetusd.client import control
    from impetusd.core.units import counted

    at = here()
    try:
        answer = control.call(at.paths, "reopen-logs", {})
    except control.NotRunning:
        print("impetusd is not running; no log files are open")
        return 0
    print(f"{counted(answer['files'], 'log file')} reopened")
    return 0
