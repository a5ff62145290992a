"""`impetusd remove`."""

from __future__ import annotations

import os
import typing

import click

from impetusd.cli.options import conf_option, given

if typing.TYPE_CHECKING:
    from impetusd.core.config.ini import Section
    from impetusd.core.config.problem import Problem


@click.command(short_help="Stop a unit and remove its section from the INI file.")
@click.argument("name")
@conf_option
def command(name: str) -> int:
    """Remove the pool, program or timer NAME from the INI file and stop it.

    Its [env:NAME] and its health checks are removed as well, each with the comment directly above it; nothing else is
    touched. A unit that others depend on, or that belongs to a group, is not removed. Nothing changes if the file has
    other changes that are not applied yet. Log files are kept.

    The exit codes are those of `impetusd apply`, and 4 for an unknown NAME.

    Example: impetusd remove api
    """
    from impetusd.cli import editing, names, place
    from impetusd.cli.failure import Failure
    from impetusd.core.config import edit as texts
    from impetusd.core.config.problem import ConfigError

    conf = place.find_conf(given(), os.environ)
    config = place.load(conf)
    names.require([name], [*config.units, *config.timers])
    where = {**config.units, **{key: timer.unit for key, timer in config.timers.items()}}
    if name not in where:
        raise Failure(f"{name} is a pattern; name one unit", 2)
    with editing.editing(conf, given(), where[name].where.rpartition(":")[0]) as edit:
        found = texts.belonging(edit.sections, name)
        files = {os.path.realpath(section.file) for section in found}
        if files != {edit.file.path}:
            raise Failure(
                f"nothing was removed, because the sections of {name} are in several files: {_listed(found)}", 1
            )
        rest = texts.without(edit.text, found, [each for each in edit.sections if os.path.realpath(each.file) in files])

        def line(problem: Problem) -> int:
            changed = os.path.realpath(problem.file) == edit.file.path
            return rest.lines[problem.line - 1] if changed and problem.line <= len(rest.lines) else problem.line

        try:
            edit.checked(rest.text)
        except ConfigError as error:
            raise editing.mistakes(error.problems, line, f"{name} cannot be removed") from None
        gone = {section.name.partition(":")[2].strip() for section in found}
        _, code = editing.write(edit, rest.text, given(), gone)
        print(f"removed from {edit.file.path}: {_listed(found)}")
        return code


def _listed(sections: list[Section]) -> str:
    return ", ".join(f"[{section.name}] (line {section.line})" for section in sections)
