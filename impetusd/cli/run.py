"""`impetusd run`."""

from __future__ import annotations

import click

from impetusd.cli.options import conf_option, env_option, here


@click.command(short_help="Run the daemon in the foreground: for containers and systemd.")
@env_option
@conf_option
def command(env: str | None) -> int:
    """Be the daemon, in the foreground; everything that has autostart is started. SIGTERM stops it all.

    This is what a container or a systemd unit executes.

    Example: impetusd run -c /etc/impetusd/impetusd.ini
    """
    from impetusd import launch
    from impetusd.cli import place

    launch.run_in_foreground(place.load(here().conf, env).paths, env)
