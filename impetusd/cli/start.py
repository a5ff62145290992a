"""`impetusd start`."""

from __future__ import annotations

import os
import shlex
import sys
import typing

import click

from impetusd.cli.options import conf_option, env_option, here, names_argument

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from impetusd.cli.place import Place


@click.command(short_help="Start everything, or NAME; starts the daemon if needed.")
@names_argument()
@env_option
@conf_option
def command(names: tuple[str, ...], env: str | None) -> int:
    """Start everything that has autostart, or each NAME, and wait until it is ready.

    Starts the daemon if it is not running. The INI file is checked first; if it has a mistake, nothing changes. Units
    that are already running are left alone. Exits with 0 if everything is up; otherwise prints the reason and the last
    lines of output, and exits with 1.

    Example: impetusd start web
    """
    return start(here(), names, env)


def start(at: Place, names: Sequence[str], env: str | None = None) -> int:
    """Check the configuration, see that a daemon runs, start `names`; returns the exit code."""
    from impetusd.cli import outcome, place
    from impetusd.cli.failure import Failure
    from impetusd.cli.names import require_known
    from impetusd.cli.screen.progress import Live
    from impetusd.client import control, instance, launch
    from impetusd.core.protocol import EXIT_UNKNOWN_NAME

    config = place.load(at.conf, env)
    for name in names:
        if name not in config.units and (advice := _to_add(name)):
            raise Failure(f"no unit '{name}'; to add it: {at.command} add {advice}", EXIT_UNKNOWN_NAME)
    launch.evict_stale(at.paths)
    for _ in range(3):  # a daemon that another command is just stopping may answer once more, and be gone then
        with Live("starting impetusd") as live:
            try:
                its = control.call(at.paths, "ping", {}, live.hooks).get("profile", "")
            except control.NotRunning:
                # A slip in a name must not start a daemon.
                require_known(names, (*config.units, *config.groups), config.timers)
                from impetusd.client import reaper

                at = place.for_a_start(at)
                left = reaper.left_behind(at.paths)
                try:
                    launched = launch.ensure_running(at.paths, live.hooks, env)
                except launch.LeftBehind:
                    left = reaper.left_behind(at.paths)  # anew: why it cannot be used is known by now
                    if not left.why:
                        raise
                    told = (
                        f"nothing was started: impetusd was killed, and {outcome.live_on(at, left)}, then start again"
                    )
                    raise control.ControlError(told) from None
            else:
                launched = False
                if env is not None and env != its:
                    raise control.ControlError(
                        f"impetusd runs with {f'the profile {its}' if its else 'no profile'}, and start does not"
                        f" change running units; to switch: {at.command} apply --env {env or repr('')}"
                    )
        if not launched and (behind := instance.behind_link(at.to_be)):
            print(f"impetusd: {behind}", file=sys.stderr)
        if launched:
            count = len(left.members)
            found = f" and took over {reaper.counted(count)} of a killed impetusd" if count else ""
            print(f"impetusd started{found}; its own log is {at.paths.log_file}", file=sys.stderr)
        try:
            code = outcome.bring_up(at, "starting", "start", {"names": list(names), "wait": True})
        except control.NotRunning:
            continue
        if not names and "gateway" in config.units:
            _report_page(at)
        return code
    raise control.ControlError(f"impetusd exited during the start; see {at.paths.log_file}")


def _report_page(at: Place) -> None:
    """Print the gateway's address, with a login link, as long as nobody has a password or a session."""
    import contextlib

    from impetusd.cli import access, login_link
    from impetusd.cli.failure import Failure
    from impetusd.client import control

    with contextlib.suppress(Failure, control.ControlError):
        status = control.call(at.paths, "status", {"names": []})
        if status.get("gateway") and not (known := access.read(at)).users and not known.sessions:
            print(f"web page (this link works once): {login_link.made(at, status)}", file=sys.stderr)


RUN_BY = {".py": "python3", ".js": "node", ".mjs": "node", ".cjs": "node", ".sh": "sh", ".rb": "ruby", ".php": "php"}


def _to_add(name: str) -> str:
    """The argument for `add` if a file, or an app in one, is meant instead of a unit; "" for anything else."""
    module, colon, app = name.partition(":")
    if colon and app.isidentifier() and os.path.isfile(f"{module.replace('.', '/')}.py"):
        return name
    if not os.path.isfile(name):
        return ""
    runner = "" if os.access(name, os.X_OK) and "/" in name else RUN_BY.get(os.path.splitext(name)[1], "")
    if not runner and "/" not in name:
        name = f"./{name}"
    return f"-- {runner} {shlex.quote(name)}".replace("  ", " ")
