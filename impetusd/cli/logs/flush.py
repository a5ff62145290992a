"""`impetusd flush`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, here, names_argument


@click.command(short_help="Empty log files.")
@names_argument()
@conf_option
def command(names: tuple[str, ...]) -> int:
    """Empty the log files of all units, or of each NAME; rotated files are kept. Needs a running daemon.

    Example: impetusd flush web
    """
    from impetusd.cli import outcome
    from impetusd.cli.main import complain
    from impetusd.client import control
    from impetusd.core.units import counted

    at = here()
    try:
        answer = control.call(at.paths, "flush", {"names": list(names)})
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    failed = answer["failed"]
    print(f"{counted(len(answer['files']) - len(failed), 'log file')} emptied")
    for sentence in failed:
        complain(sentence, 1)
    return 1 if failed else 0
