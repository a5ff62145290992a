"""`impetusd upgrade`."""

from __future__ import annotations

import os

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Upgrade impetusd in place, without touching programs.")
@conf_option
def command() -> int:
    """Upgrade impetusd in place to the code now on the disk: after `pip install --upgrade impetusd`, say.

    No program is touched: pids, connections, logs and timers stay. The new code proves itself first, beside the old, on
    the configuration in force. If it cannot come up, the old code stays, nothing is changed, and the reason is printed.

    Exits with 0 if the new code is in charge, with 1 if it cannot take over.

    Example: impetusd upgrade
    """
    from impetusd.cli import outcome
    from impetusd.cli.screen.progress import Live
    from impetusd.client import control

    place = here()
    try:
        with Live("upgrading") as live:
            answer = control.call(place.paths, "upgrade", {"token": os.urandom(8).hex()}, live.hooks)
    except control.NotRunning as error:
        raise outcome.not_running(place, error) from None
    old, new = answer["from"], answer["to"]
    print(f"impetusd {f'{old} → {new}' if old != new else new}: the code now on the disk is in charge")
    print(
        f"shim {answer['shim']['pid']} goes on; supervisor {answer['supervisor']['before']} → {answer['supervisor']['pid']}"
    )
    return 0
