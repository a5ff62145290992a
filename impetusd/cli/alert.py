"""`impetusd alert`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Send a test alert.")
@click.argument("action", type=click.Choice(["test"]))
@click.argument("name")
@conf_option
def command(action: str, name: str) -> int:  # noqa: ARG001  # there is one
    """Send a test message through [alert:NAME] and print the result.

    Exits with 0 if the receiver accepted it, otherwise 1.

    Example: impetusd alert test ops
    """
    from impetusd.cli import outcome
    from impetusd.client import control
    from impetusd.core.inert import plain

    at = here()
    try:
        answer = control.call(at.paths, "alert-test", {"name": name})
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    print(plain(f"{name}: {answer['text']}"))
    return 0 if answer["ok"] else 1
