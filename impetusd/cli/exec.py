"""`impetusd exec`."""

from __future__ import annotations

import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, here

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.cli.place import Place
    from impetusd.core.config.model import Config, Unit

_WORDS = "impetusd.command"  # in the context: what stands behind --, None without one


class _Dashed(click.Command):
    """Everything after -- is the command, with all its options; what precedes it is ours."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does it, of our part."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_WORDS] = args[at + 1 :] if at < len(args) else None
        return super().parse_args(ctx, args[:at])


@click.command(
    cls=_Dashed,
    context_settings={"ignore_unknown_options": True},  # `exec web ls -l` has no --, which is what there is to say
    short_help="Run a command with the environment, user and folder of UNIT.",
)
@click.argument("unit")
@click.argument("words", metavar="-- COMMAND [ARG]...", nargs=-1)
@click.option("--own", is_flag=True, help="Run UNIT's own command from the INI file.")
@conf_option
def command(unit: str, words: tuple[str, ...], *, own: bool) -> int:
    """Run COMMAND on this terminal the way a process of UNIT would be started now: with its environment ([env:UNIT],
    env_file, the profile), user, groups, folder, umask, limits and capabilities.

    UNIT is a pool, program, timer or health check, or one instance of it (web:1); it may be stopped or disabled. The
    active configuration applies; without a daemon, the INI file. COMMAND is not supervised, is not in the unit's cgroup
    and gets no listening sockets. The ledger records who ran what.

    Must be run as the user that impetusd runs as. Exits with the exit code of COMMAND, 128 + n if signal n killed it,
    127 if the program does not exist, 126 if it cannot be executed.

    Example: impetusd exec maintenance -- impetusd-service maintenance --dry-run
    """
    from impetusd.cli.failure import Failure
    from impetusd.client import execute

    argv = [] if own else _argv(unit, words)
    at = here()
    try:
        config = _configured(at)
        argv = argv or _own(config, unit, words)
        spec, limits = _resolved(at, config, unit, argv)
        sys.stdout.flush()
        return execute.execute(spec, argv, limits)
    except execute.NotExecuted as error:
        raise Failure(str(error), error.exit) from None


def _argv(unit: str, words: tuple[str, ...]) -> list[str]:
    """The words after --. Raises Failure."""
    from impetusd.cli.failure import Failure

    argv: list[str] | None = click.get_current_context().meta[_WORDS]
    if words or argv is None:
        import shlex

        typed = shlex.join([*words, *(argv or ())]) or "COMMAND"
        raise Failure(f"put -- before the command: impetusd exec {unit} -- {typed}", 2)
    if not argv or not argv[0]:
        raise Failure(f"no command after --: impetusd exec {unit} -- COMMAND", 2)
    return argv


def _own(config: typing.Callable[[int], Config], unit: str, words: tuple[str, ...]) -> list[str]:
    """The unit's command. Raises Failure."""
    from impetusd.cli import names
    from impetusd.cli.failure import Failure
    from impetusd.client import execute

    if words or click.get_current_context().meta[_WORDS] is not None:
        raise Failure("--own runs the unit's own command; omit either --own or the command after the unit", 2)
    found = execute.named(lambda index: _units(config(index)), unit)
    if found is None:
        names.require([unit], names.names_in(config(0)))
    if found is None or not found[0].command:
        raise Failure(f"{unit} has no command of its own; write one: impetusd exec {unit} -- COMMAND", 2)
    return list(found[0].command)


def _resolved(
    at: Place, config: typing.Callable[[int], Config], unit: str, argv: list[str]
) -> tuple[Mapping[str, typing.Any], list[list[typing.Any]]]:
    """Spec and limits, from the daemon or, where none runs, from the INI file; says by what it goes, if that is not plain."""
    from impetusd.cli import pending
    from impetusd.client import control, execute
    from impetusd.core import protocol

    hooks = control.Hooks()
    try:
        with pending.UnknownNames(at, hooks):
            answer = control.call(at.paths, "exec", {"name": unit, "command": protocol.shortened_command(argv)}, hooks)
    except control.NotRunning:
        spec = execute.resolve(lambda index: _units(config(index)), unit)
        if spec is None:
            from impetusd.cli import names

            group = config(0).groups.get(unit)
            names.require([unit], [*names.names_in(config(0)), *config(0).groups])
            meant = ", ".join(group.members) if group else "a pattern"
            raise control.ControlError(f"{unit} is {meant}; exec needs exactly one unit", protocol.EXIT_USAGE) from None
        print(f"impetusd is not running; exec uses {at.conf}", file=sys.stderr)
        return spec, []
    if hooks.uid != os.geteuid():  # the daemon's user decides what we execute
        from impetusd.linux.host import user_name

        who = user_name(hooks.uid or 0)
        raise control.ControlError(
            f"this impetusd runs as {who}, and exec must be run as that user: sudo -u {who} impetusd exec"
        )
    pending.report(at, hooks)
    if answer["older"]:
        _report_outdated(at, answer)
    return answer["spec"], answer["limits"]


def _report_outdated(at: Place, answer: Mapping[str, typing.Any]) -> None:
    running = ", ".join(f"{each['name']} (pid {each['pid']})" for each in answer["older"])
    variables = ", ".join(dict.fromkeys(name for each in answer["older"] for name in each["variables"]))
    print(
        f"impetusd: {running} was started with different values of {variables} than this command gets"
        f" → {at.command} restart {answer['unit']}",
        file=sys.stderr,
    )


def _configured(at: Place) -> typing.Callable[[int], Config]:
    """The configuration in the INI file, as an instance sees it; it is read when it is asked for."""
    import functools

    from impetusd.cli import place
    from impetusd.cli.failure import Failure
    from impetusd.core.config import parser
    from impetusd.core.config.problem import ConfigError
    from impetusd.linux.host import this_host

    @functools.cache
    def parsed(instance: int) -> Config:
        try:
            found, profile = place.source_of(at.conf, os.environ, None)
            return parser.parse_all(found, os.environ, this_host(), profile=profile, instance=instance)
        except ConfigError as error:
            raise Failure(error.report(), 2) from None

    return parsed


def _units(config: Config) -> dict[str, Unit]:
    """Everything that has processes, by name."""
    return {unit.name: unit for unit in config.with_jobs()}
