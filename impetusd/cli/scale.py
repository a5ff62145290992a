"""`impetusd scale`."""

from __future__ import annotations

import os
import re

import click

from impetusd.cli.options import conf_option, here
from impetusd.core.protocol import MAX_INSTANCES


def _number(_ctx: click.Context, _param: click.Parameter, text: str) -> int | str:
    """So many, or as "+1" and "-1" so many more or fewer."""
    found = re.fullmatch(r"([+-]?)([0-9]{1,9})", text)
    if found is None or int(found[2]) > MAX_INSTANCES:
        raise click.BadParameter(f"{text!r}: use a number from 0 to {MAX_INSTANCES}, or +N or -N")
    return text if found[1] else int(text)


@click.command(short_help="Run N instances of NAME.", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("n", callback=_number)
@conf_option
def command(name: str, n: int | str) -> int:
    """Run N instances of the unit NAME, or +N more or -N fewer, and wait until they are ready.

    Lasts until the daemon stops; to change the number permanently, set `instances` in the INI file. If that is a range
    like 2..8, N cannot exceed its upper end.

    Example: impetusd scale web +1
    """
    from impetusd.cli import outcome
    from impetusd.client import control

    at = here()
    asked = {"name": name, "n": n, "token": os.urandom(8).hex()} if isinstance(n, str) else {"name": name, "n": n}
    try:
        return outcome.bring_up(at, "scaling", "scale", asked)
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
