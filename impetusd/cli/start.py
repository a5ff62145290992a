"""`impetusd start`."""

from __future__ import annotations

import sys
import typing

import click

from impetusd.cli.options import conf_option, here, names_argument

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from impetusd.cli.place import Place


@click.command(short_help="Start everything, or NAME; starts the daemon if need be.")
@names_argument()
@conf_option
def command(names: tuple[str, ...]) -> int:
    """Start everything that has autostart, or each NAME, and wait until it is ready.

    Starts the daemon if it does not run; the INI file is checked first, and a mistake in it changes nothing. What runs
    already is left alone. Exits with 0 if all is up, with 1 if something is not: then with the reason and the last
    lines that it wrote.

    Example: impetusd start web
    """
    return start(here(), names)


def start(at: Place, names: Sequence[str]) -> int:
    """Check the configuration, see that a daemon runs, start `names`; returns the exit code."""
    from impetusd import control, launch
    from impetusd.cli import outcome, place
    from impetusd.cli.names import require_known
    from impetusd.cli.progress import Live

    config = place.load(at.conf)
    for _ in range(3):  # a daemon that another command is just stopping may answer once more, and be gone then
        with Live("starting impetusd") as live:
            try:
                control.call(config.paths, "ping", {}, live.hooks)
            except control.NotRunning:
                # A slip in a name must not start a daemon.
                require_known(names, config.units, config.timers)
                launched = launch.ensure_running(config.paths, live.hooks)
            else:
                launched = False
        if launched:
            print(f"impetusd started; its own log is {config.paths.log_file}", file=sys.stderr)
        try:
            return outcome.bring_up(at, "starting", "start", {"names": list(names), "wait": True})
        except control.NotRunning:
            continue
    raise control.ControlError(f"impetusd ended while it was asked to start; {config.paths.log_file} should say why")
