"""`impetusd reap-leftovers`."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import typing

import click

from impetusd.cli.install import unitfiles
from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.cli.place import Place
    from impetusd.client.reaper import Reaped

# SERVICE_RESULT in ExecStopPost= when systemd does not restart the service: it was stopped, or took too long.
STOPPED = frozenset({"success", "timeout"})
# Seconds until one that ended by itself, and may do so again, is started again. Spent here and not as RestartSec=, for while
# this runs a stop is noticed; one that was killed is replaced at once.
SPACING = 0.5


@click.command(name="reap-leftovers", short_help="Stop programs orphaned by a killed impetusd.")
@click.option("--after", metavar="UNIT", default=None, help="For systemd: act only if UNIT was stopped.")
@conf_option
def command(after: str | None) -> int:
    """Stop the programs that still run after impetusd itself was killed: SIGTERM, then SIGKILL after 5 seconds.

    Alternatively, `impetusd start` takes them over without losing anything. The systemd units of `impetusd startup` run
    this command when the service is stopped, so that nothing is left; after a crash they leave the programs alone.
    Programs of a running impetusd are never touched.

    Exits with 0 if nothing is left, 1 if impetusd is running or a process cannot be killed.

    Example: impetusd reap-leftovers
    """
    place = here()
    if after is None and "SERVICE_RESULT" not in os.environ:
        return _by_hand(place)
    from impetusd.cli.install.systemd import Manager
    from impetusd.client import reaper

    if after is not None:
        manager = Manager(user="/user@" in reaper.service_cgroup())
        facts = manager.facts(after, "ActiveState", "Result", "Restart", "ExecMainStatus", "ControlGroup")
        for_good, cgroup = stays_down(facts), reaper.cgroup_at(facts.get("ControlGroup", ""))
    else:
        cgroup = reaper.service_cgroup()
        manager = Manager(user="/user@" in cgroup)
        for_good = os.environ["SERVICE_RESULT"] in STOPPED
        if not for_good and os.environ.get("EXIT_CODE") == "exited":
            time.sleep(SPACING)
        for_good = for_good or manager.job(os.path.basename(cgroup)) == "stop"
    if not for_good:
        return 0  # it is started again, and takes over what is left; or it has failed, and an administrator decides
    try:
        _make_way(place)
        return _report(reaper.reap(place.paths, cgroup))
    except reaper.Held as held:
        print(f"{held}, but not as this service; nothing was stopped")
        return 0


def stays_down(facts: Mapping[str, str]) -> bool:
    """Whether a service that has ended was stopped: systemd reports this for one that ran; for one that was about to be
    restarted it only reports how it had ended before. `facts` are its properties.
    """
    if facts.get("ActiveState") == "inactive":
        return True
    if facts.get("ActiveState") != "failed" or facts.get("Restart", "no") == "no":
        return False
    if facts.get("Result") == "exit-code":
        return facts.get("ExecMainStatus") not in {str(code) for code in unitfiles.FINAL}
    return facts.get("Result") in {"signal", "core-dump", "watchdog", "timeout"}


def _by_hand(place: Place) -> int:
    from impetusd.client import control, reaper

    try:
        _make_way(place)
        return _report(reaper.reap(place.paths))
    except reaper.Held as held:
        with contextlib.suppress(OSError):
            control.ping(place.paths, mine=True)  # whose it is
        raise control.ControlError(f"{held}; to stop it: {place.command} stop") from None
    except PermissionError:
        control.daemon_alive(place.paths)  # says whose it is
        raise


def _make_way(place: Place) -> None:
    """ControlError if what is left belongs to another file; and a supervisor that holds it without a shim is ended."""
    from impetusd.client import control, launch

    control.require_rest(place.paths)
    launch.evict_stale(place.paths)


def _report(reaped: Reaped) -> int:
    from impetusd.client import reaper

    pids = reaped.ended
    print(
        f"stopped {reaper.counted(len(pids))}: {' '.join(map(str, pids))}" if pids else "no programs were left running"
    )
    return report_stuck(reaped)


def report_stuck(reaped: Reaped) -> int:
    """Print what not even SIGKILL ends, if anything; the exit code."""
    from impetusd.client import reaper

    if reaped.stuck:
        print(f"SIGKILL has no effect on {reaper.named(reaped.stuck)}: left running", file=sys.stderr)
    return 1 if reaped.stuck else 0
