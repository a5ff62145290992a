"""`impetusd run`."""

from __future__ import annotations

import os
import signal

import click

from impetusd.cli.options import conf_option, env_option, here

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


@click.command(short_help="Run the daemon in the foreground, for containers and systemd.")
@click.option(
    "--logs",
    type=click.Choice(["files", "stdout"]),
    help="Destination of program output. Default: stdout as PID 1 (in a container), otherwise files.",
)
@env_option
@conf_option
def command(logs: str | None, env: str | None) -> int:
    """Run the daemon in the foreground and start everything that has autostart.

    This is the command for containers and systemd units. SIGTERM and SIGINT stop everything in order and exit; SIGHUP
    works like `impetusd apply`, SIGUSR2 like `impetusd reopen-logs`. As PID 1 it also reaps orphaned processes.

    With --logs stdout, log files are written only for units with out_file or error_file. All other lines go to standard
    output, prefixed with the name of their slot (with log_format = json, the name is in the object); impetusd's own log
    goes to standard error.

    Exits with 0 after an orderly shutdown, 69 if a unit with critical = yes became FATAL (everything else is stopped
    first), and 73 if another impetusd runs in the same folders or left programs there.

    Example: impetusd run -c /etc/impetusd/impetusd.ini
    """
    first = os.getpid() == 1
    if first:  # the kernel drops what PID 1 has no handler for yet; what it blocks is kept for when it has
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    from impetusd.cli import place
    from impetusd.client import launch

    at = here()
    place.load(at.conf, env)
    launch.require_none(at.paths)
    launch.run_in_foreground(place.for_a_start(at).paths, logs or ("stdout" if first else "files"), env)
