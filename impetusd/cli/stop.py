"""`impetusd stop`."""

from __future__ import annotations

import sys
import typing

import click

from impetusd.cli.options import conf_option, here, names_argument

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.cli.place import Place
    from impetusd.client import control


@click.command(short_help="Stop NAME, or everything and the daemon.")
@names_argument()
@conf_option
def command(names: tuple[str, ...]) -> int:
    """Stop each NAME; without NAME, stop everything and then the daemon.

    Returns when everything has stopped, at the latest after kill_timeout: processes that have not exited by then are
    killed with all their descendants, and listed. Stopping a unit that is not running succeeds. A process that survives
    even SIGKILL, because it is stuck in the kernel, is listed and left running after a few seconds, and the exit code
    is 1.

    Example: impetusd stop web
    """
    from impetusd.client import control

    at = here()
    try:
        return _stop_some(at, names) if names else _stop_all(at)
    except control.NotRunning as error:
        return _stop_leftovers(at, names, error)


def _stop_some(at: Place, names: tuple[str, ...]) -> int:
    from impetusd.cli.screen.progress import Live
    from impetusd.client import control

    with Live("stopping") as live:
        answer = control.call(at.paths, "stop", {"names": list(names)}, live.hooks)
    _report_killed(answer)
    left = _report_left(answer)
    count = len(answer["units"]) - len(left)
    print(
        f"stopped: {_some([row['name'] for row in answer['units'] if row not in left])}" if count else "nothing stopped"
    )
    return 1 if left else 0


def _stop_all(at: Place) -> int:
    from impetusd.cli.screen.progress import Live
    from impetusd.client import control, launch

    launch.evict_stale(at.paths)
    with Live("stopping") as live:
        try:
            shim_pid = control.call(at.paths, "ping", {}, live.hooks)["shim"]["pid"]
        except control.Unanswered as error:
            return _end_by_signal(at, live.hooks, error)
        answer = None
        try:
            answer = control.call(at.paths, "stop", {"names": []}, live.hooks)
        except control.NotRunning:
            pass  # it ended before it could answer, or somebody else stopped it: the request is fulfilled
        launch.wait_gone(at.paths, shim_pid, live.hooks)
    left = []
    if answer is not None:
        _report_killed(answer)
        left = _report_left(answer)
    print("stopped; impetusd is not running")
    return 1 if left else 0


def _end_by_signal(at: Place, hooks: control.Hooks, error: control.ControlError) -> int:
    """It runs and does not answer."""
    from impetusd.client import launch

    ended = launch.end_by_signal(at.paths, hooks)
    if ended is None:
        raise error
    print(f"stopped; impetusd is not running (it did not answer and was sent SIGTERM: pid {ended})")
    return 0


def _stop_leftovers(at: Place, names: tuple[str, ...], error: control.NotRunning) -> int:
    """No daemon runs; one that was killed may have left what it had started."""
    from impetusd.cli import outcome, reap_leftovers
    from impetusd.client import reaper

    if not reaper.left_behind(at.paths).members:
        print(error)
        return 0
    if names:
        raise outcome.not_running(at, error)
    try:
        reaped = reaper.reap(at.paths)
    except reaper.Held:
        return _stop_all(at)  # somebody has started it meanwhile
    print(f"impetusd had been killed; stopped {reaper.counted(len(reaped.ended))} that it had started")
    return reap_leftovers.report_stuck(reaped)


def _report_killed(answer: Mapping[str, typing.Any]) -> None:
    if answer["killed"]:
        print(f"killed after kill_timeout: {_some(answer['killed'])}")


def _report_left(answer: Mapping[str, typing.Any]) -> list[Mapping[str, typing.Any]]:
    left = [row for row in answer["units"] if row.get("pid") is not None]
    for row in left:
        reason = row.get("reason") or "it is still running"
        print(f"{row['name']} (pid {row['pid']}) is {row['state']}: {reason}", file=sys.stderr)
    return left


def _some(names: list[str]) -> str:
    """The names, as far as a person reads them."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
