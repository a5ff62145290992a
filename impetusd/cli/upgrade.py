"""`impetusd upgrade`."""

from __future__ import annotations

import os

import click

from impetusd.cli.options import conf_option, here


@click.command(short_help="Upgrade impetusd in place, without touching programs.")
@conf_option
def command() -> int:
    """Upgrade impetusd in place to the code on disk, for example after `pip install --upgrade impetusd`.

    Programs are not affected: PIDs, connections, logs and timers stay. The new code is first tested next to the old
    code with the active configuration. If it fails, the old code keeps running, nothing changes, and the reason is
    printed.

    Exits with 0 if the new code is running, 1 if it could not take over.

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
    print(f"impetusd {f'{old} → {new}' if old != new else new}: the code on disk is now running")
    print(
        f"shim {answer['shim']['pid']} continues; supervisor {answer['supervisor']['before']} →"
        f" {answer['supervisor']['pid']}"
    )
    return 0
