"""`impetusd check`."""

from __future__ import annotations

import os
import sys
import typing

import click

from impetusd.cli.options import conf_option, env_option, given

if typing.TYPE_CHECKING:
    from impetusd.core.config.model import Config
    from impetusd.core.config.problem import Problem


@click.command(short_help="Check an INI file and report every problem.")
@click.argument("file", required=False)
@click.option(
    "--host",
    is_flag=True,
    help="Exit with 1 if something is missing on this host: a program, folder, user, or a module that an app imports.",
)
@env_option
@conf_option
def command(file: str | None, env: str | None, *, host: bool) -> int:
    """Check FILE (default: the file that commands would use) and report each problem with its line. Changes nothing.

    The env_files that it names are read too; as root, check also rejects a file that other users can write. Anything
    missing on this host is only a warning, so that a file can be checked on a different host. With --host, the
    app of each pool is also imported, as its user and with its interpreter, to see whether its dependencies are
    installed.

    Exits with 0 if there are no problems, 2 if there are; with --host, 1 if there are warnings.

    Example: impetusd check conf/impetusd.ini
    """
    from impetusd.cli import place
    from impetusd.client import instance
    from impetusd.core.units import counted

    path = place.find_conf(file if file is not None else given(), os.environ)
    checked, problems, warnings = _look(path, env, host=host)
    for problem in warnings:
        print(f"impetusd: warning: {problem}", file=sys.stderr)
    if checked is None:
        print("\n".join(map(str, problems)))
        sys.stdout.flush()
        print(f"impetusd: {counted(len(problems), 'problem')} in {path}", file=sys.stderr)
        return 2
    if behind := instance.behind_link(checked.paths):
        print(behind)
        return 2
    if host and warnings:
        print(
            f"impetusd: {path} has no problems, but {counted(len(warnings), 'warning')} for this host", file=sys.stderr
        )
        return 1
    kinds = (
        ("unit", checked.units),
        ("timer", checked.timers),
        ("health check", checked.health),
        ("group", checked.groups),
    )
    counts = [f"{counted(len(names), kind)} ({', '.join(names)})" for kind, names in kinds if names]
    print(f"{path} is OK: {', '.join(counts) or '0 units (nothing to run yet)'}")
    return 0


def _look(path: str, profile: str | None, *, host: bool) -> tuple[Config | None, list[Problem], list[Problem]]:
    """The configuration (None if it has errors), its errors, and its warnings."""
    from dataclasses import replace

    from impetusd.cli import place
    from impetusd.cli.lacking import lacking
    from impetusd.cli.tryout import tryouts
    from impetusd.core.config import parser
    from impetusd.core.config.problem import ConfigError, error_of
    from impetusd.linux.host import this_host

    source, profile = place.source_of(path, os.environ, profile)
    here = this_host()
    anywhere = replace(
        here, euid=0, user_exists=lambda _: True, group_exists=lambda _: True, has_watch=True
    )  # where everything in the file exists
    warnings: list[Problem] = list(source.warnings)
    try:
        parser.parse_all(source, os.environ, here, profile=profile)
    except ConfigError as error:
        warnings += error.problems
    try:
        checked = parser.parse_all(source, os.environ, anywhere, profile=profile)
    except ConfigError as error:
        return None, list(error.problems), [each for each in warnings if each not in error.problems]
    faults, lacks = lacking(checked, source, os.environ)
    lacks += tryouts(checked, source, os.environ) if host and not faults and not lacks else []
    told = [*error_of([*checked.warnings, *warnings, *lacks], [file for file, _ in source.texts]).problems]
    return None if faults else checked, faults, told
