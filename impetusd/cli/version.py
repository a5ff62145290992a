"""`impetusd version`."""

from __future__ import annotations

import platform

import click

from impetusd import __version__


@click.command(short_help="Show the version.")
def command() -> int:
    """Show the version of this command and of the python that runs it. `status --json` has the daemon's.

    Example: impetusd version
    """
    show()
    return 0


def show() -> None:
    """Print it."""
    print(f"impetusd {__version__} (python {platform.python_version()})")
