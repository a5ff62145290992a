"""`impetusd startup`."""

from __future__ import annotations

import os
import re
import sys
import typing

import click

from impetusd.cli.failure import Failure
from impetusd.cli.install import systemd, unitfiles
from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.cli.place import Place
    from impetusd.core.config.model import Config


@click.command(short_help="Install a systemd service that starts impetusd at boot and after a crash.")
@click.option("--user", is_flag=True, help="Install a user service (systemd --user); needs no root.")
@click.option("--now", is_flag=True, help="Start the service now.")
@click.option("--name", metavar="NAME", default=None, help="Name of the service. Default: impetusd.")
@click.option(
    "--profile",
    type=click.Choice(unitfiles.PROFILES),
    default=unitfiles.DEFAULT,
    help="Restrictions for the service and its programs: hardened is strict, compatible has none.",
)
@click.option("--print", "only_print", is_flag=True, help="Print the unit file and change nothing.")
@conf_option
def command(*, user: bool, now: bool, name: str | None, profile: str, only_print: bool) -> int:
    """Write and enable a systemd unit for this INI file, so that impetusd starts at boot and is restarted after a
    crash.

    The service is ready when all programs are up. systemctl status shows how many are, systemctl reload applies a
    changed INI file, and systemctl stop stops everything in order. Running startup again changes nothing unless the
    options differ; then the service is updated. `impetusd unstartup` undoes it.

    Example: impetusd startup --now
    """
    from impetusd.cli import place

    at = here()
    if name is not None and not re.fullmatch(r"[A-Za-z0-9:_.-]+", name):
        raise Failure(f"--name {name}: a service name may contain only letters, digits and :_.-", 2)
    if user and profile != unitfiles.DEFAULT:
        raise Failure(f"--profile {profile}: only a system service can be restricted; omit --user", 2)
    config = place.load(at.conf, former=False)  # from its next start on it lives where it is to
    manager = systemd.Manager(user=user)
    if not only_print:
        manager.require("install", at.command)
    name = name or "impetusd" if only_print else _name(manager, at, name)
    executable = place.executable()
    if re.search(r"[\"'\\\x00-\x1f]", executable):
        raise Failure(f"systemd cannot execute a path with a quote or backslash: {executable}; move it")
    files = {
        f"{manager.folder}/{name}.service": unitfiles.service(name, executable, config.paths, user=user),
        f"{manager.folder}/{unitfiles.helper_name(name)}": unitfiles.helper(name, executable, config.paths, user=user),
    }
    if more := unitfiles.drop_in(profile, executable, config.paths):
        files[systemd.drop_in_path(manager.folder, name, profile)] = more
    if only_print:
        first, *others = files
        sys.stdout.write(files[first] + "".join(f"\n# And in {path}:\n\n{files[path]}" for path in others))
        return 0
    _install(manager, name, files)
    if now:
        _start(manager, name, config)
    _say_what_next(manager, name, at, now=now)
    return 0


def _name(manager: systemd.Manager, at: Place, wanted: str | None) -> str:
    """The service's name: as wanted, or that of the service which this INI file has, or impetusd if that is free."""
    own = manager.units_of(at.conf)
    name = wanted or (own[0] if own else "impetusd")
    if wanted and own and wanted not in own:
        raise Failure(
            f"{at.conf} already has a service, {own[0]}.service; to use another name, first run: {at.command} unstartup"
        )
    path = f"{manager.folder}/{name}.service"
    if os.path.exists(path) and name not in own:
        first = systemd.read(path).partition("\n")[0]
        other = first.removeprefix(unitfiles.MARK)
        whose = f"is for {other}" if other != first else "was not written by `impetusd startup`"
        raise Failure(f"{path} {whose} and was left unchanged; choose another name with --name")
    return name


def _install(manager: systemd.Manager, name: str, files: Mapping[str, str]) -> None:
    changed = False
    for path, content in files.items():
        written = systemd.write(path, content)
        print(f"wrote {path}" if written else f"{path} is up to date")
        changed = changed or written
    for other in unitfiles.PROFILES:
        path = systemd.drop_in_path(manager.folder, name, other)
        if path not in files and systemd.remove(path):
            print(f"removed {path}")
            changed = True
    manager.run("daemon-reload")
    if manager.ask("is-enabled", f"{name}.service") == "enabled":
        print(f"{name}.service is already enabled")
    else:
        manager.run("enable", f"{name}.service")
        print(f"enabled {name}.service: it starts {'when you log in' if manager.user else 'at boot'}")
    if changed and manager.state(name) == "active":
        print(f"{name}.service is running; the changes take effect at its next start: {manager.command} restart {name}")


def _start(manager: systemd.Manager, name: str, config: Config) -> None:
    from impetusd.cli import place
    from impetusd.client import control

    if manager.state(name) == "active":
        print(f"{name}.service is already running")
        return
    if control.daemon_alive(place.find(config.paths.conf).paths):
        raise Failure(
            f"enabled but not started, because impetusd is already running outside of this service; to switch:"
            f" impetusd -c {config.paths.conf} stop, then {manager.command} start {name}"
        )
    manager.run("start", f"{name}.service")
    print(f"started {name}.service: {manager.ask('show', '--value', '--property=StatusText', f'{name}.service')}")


def _say_what_next(manager: systemd.Manager, name: str, at: Place, *, now: bool) -> None:
    from impetusd.client import control

    if not now and manager.state(name) != "active":
        first = f"{at.command} stop && " if control.daemon_alive(at.paths) else ""
        print(f"to start it now: {first}{manager.command} start {name}")
    if manager.user:
        from impetusd.linux.host import user_name

        person = user_name(os.geteuid())
        if not os.path.exists(f"{systemd.LINGER}/{person}"):
            print(f"it stops when you log out; to run it from boot, without a login: loginctl enable-linger {person}")
    missing = _missing_without_shell(at)
    if missing:
        where = f"~/.config/{name}.env" if manager.user else f"/etc/default/{name}"
        print(
            "the INI file needs variables that are set in this shell but not under systemd; write them as NAME=value"
            f" into {where}:\n{missing}",
            file=sys.stderr,
        )


def _missing_without_shell(at: Place) -> str:
    """The errors of the INI file in the environment that systemd provides; "" if there are none, or the same as
    here."""
    from impetusd.cli import place
    from impetusd.core.config.problem import ConfigError

    environ: Mapping[str, str] = {
        key: os.environ[key] for key in ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER") if key in os.environ
    }
    try:
        place.parsed(at.conf, environ)
    except ConfigError as error:
        return "\n".join(map(str, error.problems))
    return ""
