"""`impetusd reload`, and how `restart --rolling` reports its end."""

from __future__ import annotations

import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, here, names_argument
from impetusd.core.config.schema import parse_duration

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from impetusd.cli.place import Place
    from impetusd.cli.screen.terminal import Screen


def _seconds(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command(short_help="Deploy new code without downtime; roll back if it fails.")
@click.option(
    "--canary",
    "canaries",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Watch the first N new workers, and continue only if their errors and memory match the old ones'.",
)
@click.option(
    "--watch",
    callback=_seconds,
    metavar="TIME",
    help="Watch the first new worker for this long instead of reload_watch.",
)
@click.option("--cancel", is_flag=True, help="Cancel a reload in progress; the old version keeps serving.")
@names_argument(required=True)
@conf_option
def command(names: tuple[str, ...], canaries: int | None, watch: float | None, cancel: bool) -> int:
    """Deploy new code of each NAME without downtime; roll back if it fails.

    The first new worker serves alongside the old ones for reload_watch. If the app cannot be imported, or the worker is
    not ready within listen_timeout, exits, or fails its health checks, the new workers are stopped, the old ones keep
    serving, and the exit code is 1. Programs can be reloaded if they have listen and wait_ready, or listen and are
    Node; other programs are restarted. A unit that is not running is started.

    While a unit is being reloaded, a second reload of it is refused.

    Example: impetusd reload --canary 1 --watch 60s web
    """
    from impetusd.cli import outcome, pending
    from impetusd.cli.screen.progress import Live
    from impetusd.client import control

    if cancel and (canaries or watch is not None):
        raise click.UsageError("--cancel cannot be combined with --canary or --watch")
    at = here()
    asked = {"names": list(names), "canaries": canaries or 0, "watch": watch, "cancel": cancel}
    try:
        with Live("reloading") as live, pending.UnknownNames(at, live.hooks):
            # By the token a supervisor that comes up meanwhile knows the request again.
            answer = control.call(at.paths, "reload", {**asked, "token": os.urandom(8).hex()}, live.hooks)
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    code = report(at, answer)
    pending.report(at, live.hooks)
    return code


def report(at: Place, answer: Mapping[str, typing.Any]) -> int:
    """Print how each reload ended, below the table; 0 if all is well, else 1."""
    from impetusd.cli.screen import table
    from impetusd.cli.screen.terminal import screen_of

    screen = screen_of(sys.stdout, os.environ)
    print("\n".join(table.report(answer["units"], screen, at.command, tails=table.ALL)))
    for each in answer["reloads"]:
        print("\n".join(lines(each, screen, at.command)))
    return 0 if answer["ok"] else 1


def lines(told: Mapping[str, typing.Any], screen: Screen, command: str) -> Iterator[str]:
    """How one reload ended."""
    from impetusd.cli.screen.terminal import plain
    from impetusd.core.units import show_duration

    name = plain(told["name"])
    match told["how"]:
        case "start":
            yield f"{name} was not running and has been started"
        case "restart":
            yield f"{name} was restarted, not reloaded: {told['note']}"
        case _ if not told["reason"]:
            yield f"{name} was reloaded in {told['took_s']:.2f} s (generation {told['generation']})"
            if cut := told.get("cut"):  # an older impetusd says nothing of it
                were = f"{cut} request{'s were' if cut != 1 else ' was'}"
                limit = show_duration(told["drain_timeout_s"])
                yield screen.paint(
                    f"{were} cut off after drain_timeout = {limit}; increase it to let such requests finish", "yellow"
                )
        case how:
            if how == "cancel":
                yield screen.paint(f"Reload of {name} was cancelled; the old version keeps serving", "dim")
            else:
                yield screen.paint(
                    f"Reload of {name} failed; the old version keeps serving: {plain(told['reason'])}", "red"
                )
            yield from (f"    {plain(line)}" for line in told["lines"])
            if told["stuck"]:
                yield screen.paint(plain(told["stuck"]), "red")
            if how != "cancel":
                yield f"{screen.arrow} fix it, then: {command} reload {name}"
