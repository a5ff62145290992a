"""`impetusd reap-leftovers`."""

from __future__ import annotations

import contextlib
import os

import click

from impetusd.cli.options import conf_option, here

# What systemd says of the service in ExecStopPost= when it is not to be started again: it was stopped, or took too long.
STOPPED = frozenset({"success", "timeout"})


@click.command(name="reap-leftovers", short_help="End what a killed impetusd has left, instead of starting it again.")
@conf_option
def command() -> int:
    """End the programs that live on after impetusd itself was killed: SIGTERM, and SIGKILL after 5 seconds.

    `impetusd start` would take them over again, with nothing lost; this is for who does not want that. The unit of
    `impetusd startup` runs it when the service is stopped, so that nothing is left then; after a crash it does nothing.

    Exits with 0 if nothing is left, with 1 while impetusd runs.

    Example: impetusd reap-leftovers
    """
    from impetusd import control, launch, reaper

    result = os.environ.get("SERVICE_RESULT")  # systemd.exec(5)
    if result is not None and result not in STOPPED:
        return 0  # it is started again, and takes over what is left
    place = here()
    control.require_rest(place.paths)
    if result is None and control.daemon_alive(place.paths) and not launch.evict_stale(place.paths):
        with contextlib.suppress(OSError):
            control.ping(place.paths, mine=True)  # whose it is
        raise control.ControlError(f"impetusd runs on {place.paths.state_dir}; to end it: {place.command} stop")
    reaped = reaper.reap(place.paths, service=result is not None)
    print(f"ended {len(reaped)} processes: {' '.join(map(str, reaped))}" if reaped else "nothing was left")
    return 0
