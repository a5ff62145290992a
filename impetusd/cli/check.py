"""`impetusd check`."""

from __future__ import annotations

import os
import sys

import click

from impetusd.cli.options import conf_option, env_option, given


@click.command(short_help="Check an INI file, and tell every problem in it.")
@click.argument("file", required=False)
@env_option
@conf_option
def command(file: str | None, env: str | None) -> int:
    """Check FILE (else the file that -c or its absence means) and tell each problem with its line. Changes nothing.

    Exits with 0 if it may be started as it is, with 2 if not.

    Example: impetusd check conf/impetusd.ini
    """
    from impetusd import instance
    from impetusd.cli import place
    from impetusd.core.problem import ConfigError

    path = place.find_conf(file if file is not None else given(), os.environ)
    try:
        checked = place.parsed(path, os.environ, env)
    except ConfigError as error:
        print("\n".join(map(str, error.problems)))
        sys.stdout.flush()
        count = len(error.problems)
        print(f"impetusd: {count} problem{'s' * (count != 1)} in {path}", file=sys.stderr)
        return 2
    if behind := instance.behind_link(checked.paths):
        print(behind)
        return 2
    kinds = (
        ("unit", checked.units),
        ("timer", checked.timers),
        ("health check", checked.health),
        ("group", checked.groups),
    )
    counts = [f"{len(names)} {kind}{'s' * (len(names) != 1)} ({', '.join(names)})" for kind, names in kinds if names]
    print(f"{path} is fine: {', '.join(counts) or '0 units (nothing to run yet)'}")
    return 0
