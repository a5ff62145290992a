"""`impetusd signal`."""

from __future__ import annotations

import signal

import click

from impetusd.cli.options import conf_option, here, names_argument


def signal_name(text: str) -> str:
    """`HUP` for `HUP`, `hup`, `SIGHUP` and `1`; ValueError else."""
    try:
        number = (
            signal.Signals(int(text)) if text.isdecimal() else signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"]
        )
    except (KeyError, ValueError):
        raise ValueError(text) from None
    return number.name.removeprefix("SIG")


@click.command(short_help="Send a signal to NAME.")
@click.argument("sig")
@names_argument(required=True)
@conf_option
def command(sig: str, names: tuple[str, ...]) -> int:
    """Send the signal SIG (HUP, SIGHUP or 1) to the main process of each NAME.

    Example: impetusd signal HUP web:0
    """
    from impetusd.cli import outcome
    from impetusd.client import control

    try:
        name = signal_name(sig)
    except ValueError:
        raise click.BadParameter(f"unknown signal {sig!r}; `kill -l` lists all signals.", param_hint="SIG") from None
    at = here()
    try:
        answer = control.call(at.paths, "signal", {"names": list(names), "signal": name})
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    signalled = answer["signalled"]
    print(f"SIG{name} sent to {', '.join(signalled)}" if signalled else "none of these is running; no signal was sent")
    return 0 if signalled else 1
