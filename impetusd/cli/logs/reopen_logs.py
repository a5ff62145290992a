"""`impetusd reopen-logs`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Open every log file anew, for logrotate.")
@conf_option
def command() -> int:
    """Reopen every log file at its path, after it was renamed. When this returns, nothing is written to the old file.

    For logrotate's `postrotate`. Without a daemon there is nothing to do, and that is no failure.

    Example: impetusd reopen-logs
    """
    from impetusd.client import control

    at = here()
    try:
        answer = control.call(at.paths, "reopen-logs", {})
    except control.NotRunning:
        print("impetusd is not running: no log file is open")
        return 0
    count = answer["files"]
    print(f"{count} log file{'s' * (count != 1)} opened anew")
    return 0
