"""`impetusd disable`, and what it shares with `enable`."""

from __future__ import annotations

import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(short_help="Switch units off, without editing the INI file.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@conf_option
def command(names: tuple[str, ...]) -> int:
    """Stop each unit or timer NAME, and leave it out from now on, over reboots too: as `enabled = no` would.

    `stop` is for what comes back with the next `start`; this holds until `impetusd enable`.

    Example: impetusd disable web
    """
    return switch("disable", names)


def switch(method: str, names: Sequence[str]) -> int:
    """Ask the daemon, and show what it did. Returns the exit code."""
    from impetusd import control
    from impetusd.cli import outcome, plan
    from impetusd.cli.progress import Live
    from impetusd.cli.terminal import screen_of

    at = here()
    try:
        with Live(method) as live:
            params = {"names": list(names), "token": os.urandom(8).hex()}
            answer = control.call(at.paths, method, params, live.hooks)
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    if not answer["changes"]:
        print(f"{', '.join(names)}: {method}d already")
        return 0
    print("\n".join(plan.lines(answer["changes"], screen_of(sys.stdout, os.environ))))
    if not answer["units"]:
        return 0
    print()
    return outcome.tell(at, answer)
