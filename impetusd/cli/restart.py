"""`impetusd restart`."""

from __future__ import annotations

import typing

import click

from impetusd.cli.options import conf_option, here, names_argument

if typing.TYPE_CHECKING:
    from impetusd.cli.place import Place


@click.command(short_help="Stop and start everything, or NAME.")
@click.option(
    "--rolling", is_flag=True, help="Use `impetusd reload` where possible, otherwise restart one process after another."
)
@names_argument()
@conf_option
def command(names: tuple[str, ...], rolling: bool) -> int:
    """Restart everything, or each NAME, and wait until it is ready.

    Units that are not running are started, and so is the daemon. The exit codes are those of `impetusd start`.

    Example: impetusd restart --rolling web
    """
    from impetusd.cli import outcome, start
    from impetusd.client import control

    at = here()
    if rolling:
        return _roll(at, names)
    try:
        return outcome.bring_up(at, "restarting", "restart", {"names": list(names), "wait": True, "rolling": False})
    except control.NotRunning:
        return start.start(at, names)


def _roll(at: Place, names: tuple[str, ...]) -> int:
    from impetusd.cli import outcome, pending, reload, start
    from impetusd.cli.screen.progress import Live
    from impetusd.client import control

    try:
        with Live("restarting") as live, pending.UnknownNames(at, live.hooks):
            asked = {"names": list(names), "wait": True, "rolling": True}
            answer = control.call(at.paths, "restart", asked, live.hooks)
    except control.NotRunning:
        return start.start(at, names)
    code = reload.report(at, answer) if answer.get("reloads") else outcome.report(at, answer)
    pending.report(at, live.hooks)
    return code
