"""`impetusd unstartup`."""

from __future__ import annotations

import contextlib
import os

import click

from impetusd.cli.failure import Failure
from impetusd.cli.install import systemd, unitfiles
from impetusd.cli.options import conf_option, given


@click.command(short_help="Undo `startup`.")
@click.option("--user", is_flag=True, help="Remove the user service (systemd --user).")
@click.option("--now", is_flag=True, help="Stop it first if it is running.")
@conf_option
def command(*, user: bool, now: bool) -> int:
    """Disable and remove the service that `impetusd startup` created for this INI file.

    Example: impetusd unstartup --now
    """
    from impetusd.cli import place

    conf = place.find_conf(given(), os.environ)
    typed = place.command_for(given())
    manager = systemd.Manager(user=user)
    names = manager.units_of(conf)
    if not names:
        print(f"{conf} has no service in {manager.folder}; nothing to undo")
        return 0
    manager.require("remove", typed)
    for name in names:
        _remove(manager, name, typed, now=now)
    return 0


def _remove(manager: systemd.Manager, name: str, typed: str, *, now: bool) -> None:
    unit = f"{name}.service"
    if manager.state(name) not in {"inactive", "failed"}:
        if not now:  # without its unit file systemd would end a service in no order
            raise Failure(
                f"{unit} is running; stop it first with `{manager.command} stop {name}`, or stop and remove it with:"
                f" {typed} unstartup {'--user ' * manager.user}--now"
            )
        manager.run("stop", unit, unitfiles.helper_name(name))
        print(f"stopped {unit}")
    manager.run("disable", unit)
    print(f"disabled {unit}")
    folder = f"{manager.folder}/{unit}.d"
    for path in (
        f"{manager.folder}/{unit}",
        f"{manager.folder}/{unitfiles.helper_name(name)}",
        *(systemd.drop_in_path(manager.folder, name, profile) for profile in unitfiles.PROFILES),
    ):
        if systemd.remove(path):
            print(f"removed {path}")
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    if os.path.isdir(folder):
        print(f"kept {folder}, because it contains files that are not impetusd's")
    manager.ask("reset-failed", unit)
    manager.run("daemon-reload")
