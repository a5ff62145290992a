"""`impetusd run`."""

from __future__ import annotations

import os
import signal

import click

from impetusd.cli.options import conf_option, env_option, here

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


@click.command(short_help="Run the daemon in the foreground: for containers and systemd.")
@click.option(
    "--logs",
    type=click.Choice(["files", "stdout"]),
    help="Where what programs print goes; the default is stdout as PID 1 (in a container), else files.",
)
@env_option
@conf_option
def command(logs: str | None, env: str | None) -> int:
    """Run the daemon in the foreground and start everything that has autostart.

    This is what a container or a systemd unit executes. SIGTERM and SIGINT stop everything, in order, and end it; SIGHUP
    is `impetusd apply`, SIGUSR2 `impetusd reopen-logs`. As PID 1 it also reaps what programs leave behind.

    With --logs stdout no log files are written but those that out_file and error_file name: each line goes to standard
    output behind the name of its slot (with log_format = json it is in the object), impetusd's own log to standard error.

    Exits with 0 after an orderly end, with 69 when a unit with critical = yes was FATAL (all else is stopped first), and
    with 73 when another impetusd runs in its folders or has left programs there.

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
