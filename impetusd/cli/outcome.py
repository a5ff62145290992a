"""Shared code of start, restart and scale: send the request, show progress, and report the outcome."""

from __future__ import annotations

import os
import sys

from impetusd.cli import pending
from impetusd.cli.screen import table
from impetusd.cli.screen.progress import Live
from impetusd.cli.screen.terminal import plain, screen_of
from impetusd.client import control
from impetusd.core import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from impetusd.cli.place import Place
    from impetusd.client.reaper import Left


def bring_up(here: Place, verb: str, method: str, params: Mapping[str, Any]) -> int:
    """Send a request that ends with slots up; print their table, and the last words of what failed. The exit code."""
    with Live(verb) as live, pending.UnknownNames(here, live.hooks):
        answer = control.call(here.paths, method, params, live.hooks)
    code = report(here, answer)
    pending.report(here, live.hooks)
    return code


def change(here: Place, verb: str, method: str, params: Mapping[str, Any], nothing: str) -> int:
    """Send a request that changes the configuration in force; print what it changed, or `nothing`. The exit code."""
    from impetusd.cli import plan

    try:
        with Live(verb) as live, pending.UnknownNames(here, live.hooks):
            # By the token the next supervisor knows the request again that has cost the one before its place.
            answer = control.call(here.paths, method, {**params, "token": os.urandom(8).hex()}, live.hooks)
    except control.NotRunning as error:
        raise not_running(here, error) from None
    if answer.get("moved"):
        print(f"impetusd now uses {here.conf}, because {answer['moved']} no longer exists")
    if method != "apply":
        pending.report(here, live.hooks)
    if not answer["changes"]:
        print(nothing)
        return 0
    print("\n".join(plan.lines(answer["changes"], screen_of(sys.stdout, os.environ))))
    for row in answer.get("unfinished", ()):
        said = plain(
            f"{row['name']} (pid {row['pid']}) is still {row['state']}: {row['reason'] or 'no change for a long time'}"
        )
        print(f"stopped waiting: {said}", file=sys.stderr)
    if not answer["units"]:
        return 0 if answer["ok"] else 1
    print()
    from impetusd.cli import reload

    return reload.report(here, answer) if answer.get("reloads") else report(here, answer)


def report(here: Place, answer: Mapping[str, Any]) -> int:
    """Print the outcome of such a request; 0 if it is ok, else 1."""
    screen = screen_of(sys.stdout, os.environ)
    print("\n".join(table.report(answer["units"], screen, here.command, tails=table.ALL)))
    if not answer["ok"] and protocol.all_as_wanted(answer["units"]):
        raise control.ControlError("not everything came up, because another command stopped some of it")
    return 0 if answer["ok"] else 1


def not_running(here: Place, error: control.NotRunning) -> control.ControlError:
    """For a command that needs a daemon: print how to start one, and what the previous one left behind."""
    from impetusd.client import reaper  # only here: broken code of the shim does not take the other commands with it

    left = reaper.left_behind(here.paths)
    if left.members:
        return control.ControlError(f"{error}: it was killed, and {live_on(here, left)}", error.exit)
    if found := pending.mistakes(here):
        what = f"it cannot start because of a mistake in the INI file: {found[0]}"
        return control.ControlError(f"{error}; {what}; to list all mistakes: {here.command} check", error.exit)
    return control.ControlError(f"{error}; to start it: {here.command} start", error.exit)


def live_on(here: Place, left: Left) -> str:
    """What a killed daemon left behind, and what to do, as the end of a sentence."""
    from impetusd.client import reaper

    number = len(left.members)
    count = f"{reaper.counted(number)} it started {'is' if number == 1 else 'are'} still running"
    if left.why:
        return (
            f"{count} and cannot be taken over, because {left.why}: {reaper.named(left.members)};"
            f" to stop them: {here.command} stop"
        )
    return f"{count}. {here.command} start takes them over without losing anything; {here.command} stop stops them"
