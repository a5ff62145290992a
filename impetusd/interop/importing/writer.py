"""From the model to the text of an INI, and back: what the text means is compared with what was meant.

`edit.written` cannot serve here, for it takes every dollar for a dollar; what is shown elsewhere is redacted, and this is not.
"""

from __future__ import annotations

import shlex
from posixpath import dirname, join, normpath
from typing import TYPE_CHECKING

from impetusd.core.config import edit, envfile, ini, parser, shell
from impetusd.core.config.agreement import OWN_VARIABLES
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError
from impetusd.interop.importing.model import BARE, CLOSE, Fate, Row, expanded, names, pieces, resolve, sole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from impetusd.core.config.model import Unit
    from impetusd.interop.importing.model import Imported, Program

# Where all is there that a file speaks of.
ANYWHERE = Host(euid=0, cpus=2, user_exists=lambda _: True, group_exists=lambda _: True)


def text_of(imported: Imported) -> str:
    """The INI. What cannot be written is left out, and has a row that says so."""
    parts: list[str] = []
    for program in imported.programs:
        parts += _blocks(imported, program)
    for name, members in imported.groups.items():
        if members:
            parts.append(edit.block(f"group:{name}", {"members": ", ".join(members)}))
    return "\n".join(parts)


def _blocks(imported: Imported, program: Program) -> list[str]:
    keys: dict[str, str] = {}
    try:
        keys["command"] = command(program.argv)
    except ValueError as error:
        _cannot(imported, program, "command", f"{error}; put it into a script")
        keys["command"] = "false"
        keys["enabled"] = "no"
    env_pass = [program.env_pass] if program.env_pass else []
    env, passed = _environment(imported, program, program.env, passing=bool(env_pass))
    env_pass += passed
    if env_pass:
        keys["env_pass"] = ", ".join(dict.fromkeys(env_pass))
    for key, value in program.keys.items():
        try:
            keys[key] = written(value)
        except ValueError as error:
            _cannot(imported, program, key, str(error))
    notes = "".join(f"; {ini.brief(line, 400)}\n" for note in program.notes for line in note.splitlines())
    found = [notes + edit.block(f"program:{program.name}", keys)]
    if env:
        found.append(edit.block(f"env:{program.name}", env))
    for profile, variables in program.profiles.items():
        its, _ = _environment(imported, program, variables, passing=False)
        if its:
            found.append(edit.block(f"env:{program.name}@{profile}", its))
    return found


def _environment(
    imported: Imported, program: Program, env: dict[str, str], *, passing: bool
) -> tuple[dict[str, str], list[str]]:
    """The lines of an [env:…], and the variables that are handed on as they are. What cannot be written is taken out of `env`.

    `passing`: all of impetusd's own environment is handed on anyway.
    """
    lines: dict[str, str] = {}
    passed: list[str] = []
    for name, value in list(env.items()):
        if sole(value) == name:
            passed += [] if passing else [name]
            continue
        try:
            if name in OWN_VARIABLES:
                raise ValueError("impetusd sets it itself")
            if not (name.isascii() and envfile.is_name(name)):
                raise ValueError("not a valid variable name")
            lines[name] = written(value)
        except ValueError as error:
            _cannot(imported, program, name, f"{error}; if it is needed, put it in a file and set env_file to it")
            del env[name]
    return lines, passed


def _cannot(imported: Imported, program: Program, key: str, why: str) -> None:
    row = Row(program.file, program.line, program.name, key, "", Fate.LOST, "", f"it cannot be written: {why}")
    if row not in imported.rows:  # the text is made again after each key that `check` refuses
        imported.rows.append(row)


def written(text: str) -> str:
    """How an INI says this value. ValueError where none can."""
    plain = _rendered(text)
    quoted = plain.replace("\\", "\\\\").replace('"', '\\"')
    for candidate in (plain, f'"{quoted}"', f"'{plain}'"):
        if ini.unquoted(_entry(candidate)) == plain:
            return candidate
    raise ValueError("it does not fit on one line")


def command(argv: Iterable[str]) -> str:
    """The same of an argument list."""
    words = list(argv)
    if not words or not words[0]:
        raise ValueError("it does not name a program")
    value = " ".join(_quoted(word, shlex.quote) for word in words)
    if _entry(_continued(value)) != value:
        raise ValueError("it contains line breaks, or ends with text that would become a comment")
    if shell.needed(
        ini.expand(value, _Everything(), {})[0]
    ):  # a word that means something to a shell, and nothing here
        value = " ".join(_quoted(word, lambda text: "'" + text.replace("'", "'\"'\"'") + "'") for word in words)
    return _continued(value)


def _quoted(word: str, quote: Callable[[str], str]) -> str:
    """A word as a command line has it: bare references stand outside of its quotes."""
    first, *others = word.split(BARE)
    parts = [quote(_rendered(first, lines=True))] if first or not others else []
    for other in others:
        held, close, rest = other.partition(CLOSE)
        parts += [_rendered(held + close), quote(_rendered(rest, lines=True)) if rest else ""]
    return "".join(parts)


def _continued(value: str) -> str:
    """A value of several lines, as an INI has it: each line but the first is indented, and a blank one would end it."""
    return value.replace("\n", "\n    ")


class _Everything(dict[str, str]):
    """An environment in which every variable is set."""

    def get(self, key: str, default: object = None) -> str:  # noqa: ARG002
        return key


def _rendered(text: str, *, lines: bool = False) -> str:
    if any(char in text for char in ("\r\0" if lines else "\n\r\0")):
        raise ValueError("it contains a line break")
    parts = []
    for literal, name, default in pieces(text):
        if not all(char.isprintable() or char in "\t\n" for char in literal + (default or "")):
            raise ValueError("it contains a non-printable character, or is not UTF-8")
        if name is None:
            parts.append(literal.replace("$", "$$"))
        elif default is None:
            parts.append(f"${{{name}}}")
        elif set(default) & set("}'\""):
            raise ValueError(f"the default of {name} contains a quote or a brace")
        else:
            parts.append(f"${{{name}:-{default.replace('$', '$$')}}}")
    return "".join(parts)


def _entry(text: str) -> str:
    sections, problems = ini.parse(f"[s]\nk = {text}\n", "")
    return "" if problems else sections[0].entries["k"].value


def differences(text: str, path: str, imported: Imported) -> list[str]:
    """Why the text is not to be written, each a sentence: what `check` finds, and what it means and should not."""
    named = {
        name
        for program in imported.programs
        for value in (*program.argv, *program.env.values(), *program.keys.values())
        for name in names(value)
        if name != "INSTANCE"
    }
    for environ in ({}, {name: f"value of {name}" for name in named}, dict.fromkeys(named, "")):
        given = {**environ, "HOME": "/root"} if "HOME" not in environ else environ
        try:
            config = parser.parse(text, path, given, ANYWHERE)
        except ConfigError as error:
            if environ and environ.get(next(iter(named))):
                continue  # what stands for a number may be none
            return [str(problem) for problem in error.problems]
        for program in imported.programs:
            if found := _differing(program, config.units[program.name], dirname(path), {**given, "INSTANCE": "0"}):
                return found
    return []


def _differing(program: Program, unit: Unit, folder: str, environ: Mapping[str, str]) -> list[str]:
    if not unit.enabled:
        return []
    said = f"[program:{program.name}]"
    found = []
    if list(unit.command) != expanded(program.argv, environ):
        found.append(f"{said}: command would not be read back unchanged")
    for name, value in program.env.items():
        if unit.env.get(name) != resolve(value, environ) and sole(value) != name:
            found.append(f"{said}: {name} would not be read back unchanged")
    wanted = {key: resolve(program.keys[key], environ) for key in ("user", "group", "cwd") if key in program.keys}
    if "cwd" in wanted:
        wanted["cwd"] = normpath(join(folder, wanted["cwd"]))
    found += [f"{said}: {key} would not be read back unchanged" for key in wanted if getattr(unit, key) != wanted[key]]
    return found


def without_faults(imported: Imported, path: str) -> tuple[str, list[str]]:
    """The text and what is wrong with it, after keys that `check` refuses were left out, each with its row."""
    text = ""
    problems: list[str] = []
    for _ in range(1 + sum(len(program.keys) for program in imported.programs)):
        text = text_of(imported)
        try:
            parser.parse(text, path, {"HOME": "/root"}, ANYWHERE)
        except ConfigError as error:
            if not _leave_out(imported, text, error):
                return text, [str(problem) for problem in error.problems]
        else:
            break
    problems = differences(text, path, imported)
    return text, problems


def _leave_out(imported: Imported, text: str, error: ConfigError) -> bool:
    """Take out each key that the error is about; whether there was one."""
    sections, _ = ini.parse(text, "")
    found = False
    for problem in error.problems:
        for section in sections:
            for key, entry in section.entries.items():
                program = next((each for each in imported.programs if f"program:{each.name}" == section.name), None)
                if entry.line != problem.line or program is None or key not in program.keys:
                    continue
                old = program.keys.pop(key)
                why = f"impetusd check rejects {key} = {old}: {problem.text}"
                imported.rows.append(Row(program.file, program.line, program.name, key, old, Fate.LOST, "", why))
                found = True
    return found
