"""`impetusd trigger`."""

from __future__ import annotations

import contextlib
import sys
import typing

import click

from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.cli.logs.tail import Follower
    from impetusd.cli.place import Place


@click.command(short_help="Run a timer's job now, and follow it.")
@click.argument("name")
@click.option("--no-wait", is_flag=True, help="Start it without following it.")
@conf_option
def command(name: str, no_wait: bool) -> int:
    """Run the job of the timer NAME now and show its output until it ends. Its schedule does not change.

    Exits with the job's exit code, 1 if it was killed or timed out. Ctrl-C leaves the job running. If it is already
    running, `overlap` in the INI file decides: skip refuses, queue waits, replace stops the running one.

    Example: impetusd trigger maintenance
    """
    from impetusd.cli import outcome
    from impetusd.client import control

    at = here()
    try:
        if no_wait:
            control.call(at.paths, "trigger", {"name": name, "wait": False})
            print(f"{name} was started; follow it with: {at.command} logs -f {name}")
            return 0
        run = follow(at, name)
    except control.NotRunning as error:
        raise outcome.not_running(at, error) from None
    return report(name, run)


def follow(at: Place, name: str) -> Mapping[str, typing.Any]:
    """Trigger it and print what comes into its log files until it has ended; its result."""
    from impetusd.cli import pending
    from impetusd.cli.logs.tail import Follower
    from impetusd.client import control

    streams = {"out": sys.stdout, "error": sys.stderr}
    with contextlib.ExitStack() as opened:
        followed: dict[str, tuple[Follower, typing.TextIO]] = {}

        def show() -> None:
            for follower, stream in followed.values():
                _print_new(follower, stream, at_end=False)

        for each in _log_files(at, name):
            if each["path"] not in followed:  # both streams may go into one file
                follower = opened.enter_context(contextlib.closing(Follower(each["path"], 0)))
                followed[each["path"]] = (follower, streams.get(each["stream"], sys.stdout))
        hooks = control.Hooks(tick=show)
        try:
            answer = control.call(at.paths, "trigger", {"name": name, "wait": True}, hooks)
        except KeyboardInterrupt:
            print(f"\n{name} keeps running; to stop it: {at.command} stop {name}", file=sys.stderr)
            raise
        for follower, stream in followed.values():
            _print_new(follower, stream, at_end=True)
    pending.report(at, hooks)
    run: Mapping[str, typing.Any] = answer["run"]
    return run


def _log_files(at: Place, name: str) -> typing.Any:
    """The file that its output goes to; none that we could follow under `run --logs stdout`."""
    from impetusd.client import control

    try:
        return control.call(at.paths, "logs", {"names": [name]})["files"]
    except (control.NotRunning, control.Unanswered):
        raise
    except control.ControlError:
        return []  # `trigger` itself reports an unknown name


def report(name: str, run: Mapping[str, typing.Any]) -> int:
    """Say on stderr how it ended, so that stdout is the job's alone; the exit code."""
    from impetusd.core.units import span

    sys.stdout.flush()
    print(f"{name}: {run['result']} after {span(run['duration_s'])}", file=sys.stderr)
    if run["ok"]:
        return 0
    code = run.get("code")
    return code if isinstance(code, int) and 1 <= code <= 125 else 1


def _print_new(follower: Follower, stream: typing.TextIO, *, at_end: bool) -> None:
    from impetusd.cli.screen.terminal import plain

    terminal = stream.isatty()
    for line in [*follower.read(), *(follower.flush() if at_end else ())]:
        text = line.decode(errors="surrogateescape" if not terminal else "replace")
        stream.buffer.write((plain(text) if terminal else text).encode(errors="surrogateescape") + b"\n")
    stream.flush()
