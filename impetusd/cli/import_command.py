"""`impetusd import`."""

from __future__ import annotations

import json
import os
import sys
import typing

import click

if typing.TYPE_CHECKING:
    from impetusd.interop.importing.model import Imported


@click.command(short_help="Convert a file of PM2, supervisord or another manager into an INI file.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--output", "-o", metavar="FILE", help="Write the INI file to this path (mode 0600) instead of standard output."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--from", "kind", type=click.Choice(["pm2", "supervisord", "procfile", "circus", "systemd"]), help="The manager that FILE belongs to. Default: detected from its content.")  # fmt: skip
@click.option("--cwd", metavar="FOLDER", help="The working directory of the old manager. Default for PM2 and Procfiles: the folder of FILE.")  # fmt: skip
@click.option("--root", metavar="FOLDER", help="The root folder for absolute paths of included files.")
@click.option("--no-node", is_flag=True, help="Never run JavaScript.")
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
@click.option("--take-over", is_flag=True, help="Also move the programs that PM2 or supervisord runs to impetusd, unit by unit. Needs -o.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="With --take-over: only show the steps.")
@click.option("--yes", "-y", is_flag=True, help="With --take-over: do not ask.")
def command(
    files: tuple[str, ...],
    output: str | None,
    kind: str | None,
    cwd: str | None,
    root: str | None,
    *,
    force: bool,
    no_node: bool,
    as_json: bool,
    take_over: bool,
    dry_run: bool,
    yes: bool,
) -> int:
    """Convert FILE of another process manager into an INI file: PM2's ecosystem.config.js, .json, .yaml or dump.pm2,
    supervisord.conf, a Procfile, circus.ini, or systemd services.

    The report on standard error shows how each key was converted. Running programs are not touched. JavaScript is
    parsed; it is run with node only if parsing is not enough and the file belongs to root or you. The INI file is
    verified before it is written: if a command, environment, folder or user would differ, nothing is written.

    --take-over then moves the running programs, one unit at a time (see `impetusd help import`). If the INI file
    already exists, it is used unchanged, so that an interrupted take-over can be continued with the same command.

    Exits with 0 if everything was converted, 1 if the report lists losses, 2 if no INI file was written. With
    --take-over: 0 if everything was moved, 1 if it stopped at a unit, 2 if nothing was moved.

    Example: impetusd import ecosystem.config.js -o impetusd.ini
    """
    from impetusd.cli.failure import Failure
    from impetusd.interop.importing import kinds, node, rows, writer
    from impetusd.interop.importing.model import ImportFault, Options

    target = os.path.abspath(output) if output else os.path.abspath("impetusd.ini")
    if (dry_run or yes) and not take_over:
        raise Failure("--dry-run and --yes are for --take-over", 2)
    if take_over and not output:
        raise Failure("--take-over needs -o FILE, the INI file for impetusd", 2)
    is_there = bool(output) and not force and os.path.lexists(target)
    if is_there and not take_over:
        raise Failure(f"{output} already exists; choose another file, or use --force to overwrite it", 2)
    options = Options(
        cwd=os.path.abspath(cwd) if cwd else "",
        root=os.path.abspath(root) if root else "",
        run_node=None if no_node else node.run,
    )
    try:
        imported = _together([kinds.read(os.path.abspath(file), kind or "", options) for file in files])
    except ImportFault as fault:
        raise Failure(f"cannot import: {fault}", 2) from None
    if take_over:
        from impetusd.cli.take_over import TakeOver

        moving = TakeOver(imported, target, output or "", _typed(files, output, kind, cwd, root))
        if is_there:
            return moving.carry_out(None, lambda _: None, dry=dry_run, yes=yes)
        moving.add_listen()
    text, problems = writer.without_faults(imported, target)
    if not problems:
        imported.lacks = _lacks(text, target)
    _report(imported, as_json=as_json)
    if problems:
        raise Failure("no INI file was written, because it would be wrong:\n" + "\n".join(problems), 2)
    if take_over:
        return moving.carry_out(
            text, lambda text: _write(target, text, output or "", force=force), dry=dry_run, yes=yes
        )
    if output:
        _write(target, text, output, force=force)
        print(f"impetusd: wrote {output}; next: impetusd check {output}", file=sys.stderr)
    else:
        print(text, end="")
    return 0 if rows.is_faithful(imported.rows) else 1


def _typed(files: tuple[str, ...], output: str | None, kind: str | None, cwd: str | None, root: str | None) -> str:
    """The call that goes on with a take-over."""
    import shlex

    options = [("--from", kind), ("--cwd", cwd), ("--root", root), ("-o", output)]
    words = [word for name, value in options if value for word in (name, value)]
    return shlex.join(["impetusd", "import", "--take-over", *words, *files])


def _together(parts: list[Imported]) -> Imported:
    """Several files as one: a unit whose name another file has taken is given another."""
    from impetusd.interop.importing.model import unit_name

    first, *others = parts
    taken = {program.name for program in first.programs} | set(first.groups)
    for part in others:
        renamed = {program.name: unit_name(program.name, taken) for program in part.programs}
        for program in part.programs:
            program.name = renamed[program.name]
            if needed := program.keys.get("depends_on"):
                program.keys["depends_on"] = ", ".join(renamed.get(each, each) for each in needed.split(", "))
        first.programs += part.programs
        first.groups |= {
            unit_name(name, taken): [renamed.get(each, each) for each in members]
            for name, members in part.groups.items()
        }
        first.rows += part.rows
        first.differs += [each for each in part.differs if each not in first.differs]
        first.todo += [each for each in part.todo if each not in first.todo]
    return first


def _lacks(text: str, target: str) -> list[str]:
    """What the INI speaks of and this host does not have, each with its section."""
    from impetusd.cli.lacking import lacking
    from impetusd.core.config import parser
    from impetusd.core.config.include import Source
    from impetusd.core.config.model import user_and_group
    from impetusd.core.config.problem import ConfigError
    from impetusd.interop.importing import writer
    from impetusd.linux.host import this_host

    source = Source(target, text)
    try:
        config = parser.parse_all(source, os.environ, writer.ANYWHERE)
    except ConfigError:
        return []  # a variable has a value here that `check` will refuse
    host = this_host()
    users = [(unit.name, user_and_group(unit.user)[0]) for unit in config.units.values()]
    found = [f"user {user} ({name})" for name, user in users if user and not host.user_exists(user)]
    headers = [(int(unit.where.rpartition(":")[2]), unit.name) for unit in config.units.values()]
    for problem in [each for group in lacking(config, source, os.environ) for each in group]:
        name = max((each for each in headers if each[0] <= problem.line), default=(0, ""))[1]
        found.append(f"{problem.text} ({name})")
    return found


def _report(imported: Imported, *, as_json: bool) -> None:
    from impetusd.interop.importing import report

    if as_json:
        print(json.dumps(report.as_json(imported), indent=2), file=sys.stderr)
        return
    for line in report.lines(imported):
        print(line, file=sys.stderr)


def _write(target: str, text: str, output: str, *, force: bool) -> None:
    """Readable by its owner alone: there may be passwords in it. Raises Failure."""
    from impetusd.cli import whole

    whole.write(target, text, output, force=force, mode=0o600)
