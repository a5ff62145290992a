"""`impetusd reopen-logs`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Open every log file anew, for logrotate.")
@conf_option
def command() -> int:
    """Open every log file anew at its path, after something has renamed it. When this returns, nothing goes to the old one.

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
