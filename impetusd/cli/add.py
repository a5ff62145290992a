"""`impetusd add`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import typing

import click

from impetusd.cli.options import conf_option, given

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    from impetusd.cli.editing import Editing
    from impetusd.core.config.include import Source
    from impetusd.core.config.model import Config

HEAD = "; The units that impetusd keeps running. `impetusd help reference` lists all keys; `impetusd check` finds mistakes.\n"
FIRST_PORT = 8000
OF_THE_SYSTEM = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"})
INTERPRETER = re.compile(r"(python|pypy|node|nodejs|deno|bun|ruby|perl|php|sh|bash|dash|zsh)[0-9.]*")


@click.command(
    short_help="Run a command or an app as a new unit: write its section, apply it.",
    context_settings={"allow_interspersed_args": False},
)
@click.option("--name", "-n", help="The unit's name. Default: the name of the script, module or program.")
@click.option("--instances", "-i", metavar="N", help="Number of processes, as in the INI file: 4, max, 2..8.")
@click.option(
    "--listen", metavar="ADDRESS", multiple=True, help=f"Listen address. Default for an app: 127.0.0.1:{FIRST_PORT}."
)
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="Set an environment variable.")
@click.option(
    "--env-file",
    "env_files",
    metavar="FILE",
    multiple=True,
    help="Read environment variables from a file (for secrets).",
)
@click.option("--user", metavar="USER", help="Run as this user; impetusd must run as root.")
@conf_option
@click.argument("words", metavar="[--] COMMAND... | MODULE:NAME", nargs=-1, required=True, type=click.UNPROCESSED)
def command(words: tuple[str, ...], **options: typing.Any) -> int:
    """Write a section for COMMAND, or a pool for the app NAME in MODULE (aiohttp, ASGI or WSGI), and apply it.

    The unit runs in the current folder. If there is no INI file, ./impetusd.ini is created; an existing file is only
    appended to. Options come before COMMAND; put -- before COMMAND if it has options of its own. All arguments are
    taken literally: a $ is a dollar. The result is checked first; nothing changes if it has a mistake, or if the file
    has other changes that are not applied yet. If the daemon is not running, it is started with this unit only.

    A variable that looks secret is rejected if other users can read the file; use --env-file for it.

    The exit codes are those of `impetusd start`.

    Example: impetusd add --name api -i 2 -- python app.py
    """
    from impetusd.cli import editing, place

    conf = place.find_conf(given(), os.environ, new=True)
    while True:
        try:
            return _add(conf, words, **options)
        except editing.Made:
            pass  # the file: from here on it is there


def _add(
    conf: str,
    words: Sequence[str],
    *,
    name: str | None,
    instances: str | None,
    listen: Sequence[str],
    variables: Sequence[str],
    env_files: Sequence[str],
    user: str | None,
) -> int:
    from impetusd.cli import editing, start
    from impetusd.cli.failure import Failure
    from impetusd.core.config import edit as texts

    with editing.editing(conf, given()) as edit:
        is_app = _is_app(words[0])
        if is_app and len(words) > 1:
            raise Failure(f"options must come before the app: impetusd add {shlex.join([*words[1:], words[0]])}", 2)
        name = name or _name_of(words, is_app=is_app)
        _require_free(edit, name)
        keys = {"app": words[0]} if is_app else {"command": _written("COMMAND", texts.command, _resolved(words))}
        if is_app and (python := _python()):
            keys["interpreter"] = _written("interpreter", texts.written, python)
        if is_app and not listen:
            listen = (_free_address(edit.config),)
        given_keys = {
            "listen": ", ".join(listen),
            "instances": instances or "",
            "cwd": "" if _here() == edit.config.paths.base_dir else _here(),
            "user": user or "",
            "env_file": ", ".join(map(os.path.abspath, env_files)),
        }
        keys |= {key: _written(key, texts.written, value) for key, value in given_keys.items() if value}
        env = dict(_variable(each) for each in variables)
        mode = _mode(edit, env)
        blocks = [texts.block(f"{'pool' if is_app else 'program'}:{name}", keys)]
        if env:
            shown = {key: _written(f"--env {key}", texts.written, value) for key, value in env.items()}
            blocks.append(texts.block(f"env:{name}", shown))
        text = texts.added(edit.text or HEAD, blocks)
        _check(edit, text, name)
        at, code = editing.write(edit, text, given(), {name}, mode=mode, start=lambda at: start.start(at, (name,)))
    if code:
        print(
            f"impetusd: {name} was added to {at.conf} but did not come up; once fixed: {at.command} restart {name};"
            f" to remove it: {at.command} remove {name}",
            file=sys.stderr,
        )
    return code


def _is_app(word: str) -> bool:
    """Whether it is MODULE:NAME and not a file."""
    from impetusd.core.config.schema import parse_app

    try:
        return bool(parse_app(word)) and not os.path.exists(word)
    except ValueError:
        return False


def _name_of(words: Sequence[str], *, is_app: bool) -> str:
    """What a unit is named after: the module, the script of an interpreter, or the program."""
    from impetusd.cli.failure import Failure
    from impetusd.core.config.reading import is_unit_name

    found = words[0].partition(":")[0].partition(".")[0] if is_app else os.path.basename(words[0])
    if INTERPRETER.fullmatch(found):
        script = next((word for word in words[1:] if not word.startswith("-")), found)
        found = os.path.basename(script)
    found = re.sub(r"[^\w.-]+", "-", os.path.splitext(found)[0], flags=re.ASCII).strip(".-")
    if not (found and is_unit_name(found)):
        raise Failure("cannot derive a name from this command; give one with --name", 2)
    return found


def _require_free(edit: Editing, name: str) -> None:
    from impetusd.cli.failure import Failure
    from impetusd.core.config import ini
    from impetusd.core.config.reading import is_unit_name

    if not (name and is_unit_name(name)):
        form = "use letters, digits, _ . and -, starting with a letter, a digit or _"
        raise Failure(f"--name {ini.brief(name)!r} cannot be a unit's name; {form}", 2)
    for section in edit.sections:
        kind, _, its = section.name.partition(":")
        if its.strip().partition("@")[0].strip() == name:
            where = f"{section.file}:{section.line}"
            if kind.strip() == "env":
                raise Failure(f"[{ini.brief(section.name)}] at {where} would become its environment; use --name", 2)
            raise Failure(f"[{ini.brief(section.name)}] already exists at {where}; use another name with --name", 2)


def _written(what: str, how: typing.Callable[[typing.Any], str], value: object) -> str:
    from impetusd.cli.failure import Failure

    try:
        return how(value)
    except ValueError as error:
        instead = "name a file of variables with --env-file" if what.startswith("--env") else "put it into a script"
        raise Failure(f"{what} cannot be written into an INI file: {error}; {instead}", 2) from None


def _variable(text: str) -> tuple[str, str]:
    from impetusd.cli.failure import Failure
    from impetusd.core.config import ini
    from impetusd.core.config.envfile import is_name

    key, equals, value = text.partition("=")
    if not (equals and key.isascii() and is_name(key)):
        raise Failure(f"--env {ini.brief(key)!r} is not NAME=VALUE; a name consists of letters, digits, _ . and -", 2)
    return key, value


def _mode(edit: Editing, env: dict[str, str]) -> int:
    """The mode of a new file. Failure where a secret would come into one that others may read."""
    from impetusd.cli.failure import Failure
    from impetusd.core import redact

    secret = [key for key, value in env.items() if redact.value(key, value) != value]
    if not secret:
        return 0o644
    if edit.at is not None and edit.file.mode & 0o044:
        raise Failure(
            f"--env {secret[0]} looks secret, but other users can read {edit.file.path} (mode {edit.file.mode:04o}):"
            f" put it in a file with mode 0600 and pass that with --env-file, or run: chmod 600 {edit.file.path}",
            2,
        )
    return 0o600


def _resolved(words: Sequence[str]) -> list[str]:
    """The command, with the path of a program that is found only by this PATH: the daemon's may be another."""
    found = shutil.which(words[0]) if "/" not in words[0] else None
    if found is None or os.path.dirname(found) in OF_THE_SYSTEM:
        return list(words)
    return [os.path.abspath(found), *words[1:]]


def _python() -> str:
    """The python of the app's own venv, activated or in this folder; "" if there is none, or impetusd is installed in
    it."""
    for venv in (os.environ.get("VIRTUAL_ENV", ""), ".venv", "venv"):
        python = os.path.join(venv, "bin/python")
        if venv and os.access(python, os.X_OK):
            ours = os.path.realpath(venv) == os.path.realpath(sys.prefix)
            return "" if ours else os.path.abspath(python)
    return ""


def _here() -> str:
    """The current folder, by the way that the shell went."""
    from impetusd.cli import place

    return place.absolute(".")


def _free_address(config: Config) -> str:
    """The first from FIRST_PORT on where no unit listens, and nobody else."""
    import socket

    taken = {each.port for unit in config.units.values() for each in unit.listen}
    for port in range(FIRST_PORT, FIRST_PORT + 100):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                if port not in taken:
                    sock.bind(("127.0.0.1", port))
                    return f"127.0.0.1:{port}"
            except OSError:
                continue
    return f"127.0.0.1:{FIRST_PORT}"  # a start reports who has it


def _check(edit: Editing, text: str, name: str) -> None:
    """Failure if the new section is a mistake, or asks for what this host does not have: a program, a module."""
    from impetusd.cli import editing, lacking, tryout
    from impetusd.core.config.problem import ConfigError

    def line(problem: typing.Any) -> int:
        return problem.line if problem.line <= edit.text.count("\n") else 0

    try:
        config, source = edit.checked(text)
    except ConfigError as error:
        raise editing.mistakes(error.problems, line, f"{name} cannot be added") from None
    faults = _of_this_host(config, source, name, lacking.lacking) or _of_this_host(
        config, source, name, lambda config, source, environ: (tryout.tryouts(config, source, environ), [])
    )
    if faults:
        raise editing.mistakes(faults, lambda _: 0, f"{name} cannot be added")


def _of_this_host(config: Config, source: Source, name: str, ask: typing.Any) -> list[typing.Any]:
    """The findings of `ask` on this unit alone."""
    from dataclasses import replace

    faults, lacks = ask(replace(config, units={name: config.units[name]}, timers={}, health={}), source, os.environ)
    return [*faults, *lacks]
