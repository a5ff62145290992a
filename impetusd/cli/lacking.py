"""Finds what an INI file names and this host lacks or must not trust: programs, folders, env_files. For `check`."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import typing

from impetusd.cli.facts import trust_of
from impetusd.core.config import envfile, ini
from impetusd.core.config.environment import passes_path
from impetusd.core.config.problem import Problem
from impetusd.core.config.reading import place
from impetusd.files import vetted
from impetusd.files.folders import refusal
from impetusd.linux.cgroup import offered

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from impetusd.core.config.include import Source
    from impetusd.core.config.ini import Section
    from impetusd.core.config.model import Config, Unit

SHEBANG_BYTES = 256  # of a program's first line: BINPRM_BUF_SIZE of the kernel


def lacking(config: Config, source: Source, environ: Mapping[str, str]) -> tuple[list[Problem], list[Problem]]:
    """(mistakes in and around env_files, what this host lacks), each at the key's line. Opens files: may wait for a disk.

    Root goes by no env_file that others than root and the unit's user could have written: that is a mistake, as it is of
    the INI file itself.
    """
    own = os.geteuid()
    sections = {
        f"{section.file}:{section.line}": section for path, text in source.texts for section in ini.parse(text, path)[0]
    }
    faults: list[Problem] = []
    lacks: list[Problem] = []
    for unit in config.with_jobs():
        if not unit.enabled:
            continue
        section = sections[unit.where]
        variables: dict[str, str] = {}
        trust = None if own else trust_of(unit, own)
        for path, optional in map(envfile.named, unit.env_file):
            at, said = place(section, "env_file"), f"env_file = {ini.brief(path, 200)}"
            try:
                data, other = vetted.read(path, vetted.MOST_ENV_FILE, trust)
                if other is not None:
                    faults.append(Problem(at.file, at.line, f"{said}: {other.what}; {other.fix}"))
                variables.update(envfile.parse(data, unit.rules))
            except envfile.Fault as fault:
                faults.append(
                    Problem(path, fault.line, f"{fault.reason} (an env_file of {unit.name.partition('~')[0]})")
                )
            except OSError as error:
                if not (optional and error.errno in {errno.ENOENT, errno.ENOTDIR}):
                    lacks.append(Problem(at.file, at.line, f"{said}: {error.strerror} on this host"))
        for key in ("out_file", "error_file"):
            path = getattr(unit, key)
            if path.startswith("/") and (why := refusal(path)):
                at = place(section, key)
                faults.append(Problem(at.file, at.line, f"{key} = {ini.brief(path, 200)}: {why}"))
        lacks += _of_unit(unit, section, {**environ, **variables, **unit.env})
    return list(dict.fromkeys(faults)), list(dict.fromkeys(lacks))


def _of_unit(unit: Unit, section: Section, environ: Mapping[str, str]) -> Iterator[Problem]:
    if unit.made is not None:  # its start makes its folder, and we its command
        return
    for key, controller in (("memory_max", "memory"), ("cpu_max", "cpu")):
        if getattr(unit, key) and controller not in offered():
            at = place(section, key)
            text = f"{key}: not enforced, because impetusd cannot use the cgroup v2 controller {controller} here"
            yield Problem(at.file, at.line, f"{text}; see impetusd help recipes")
    if not os.path.isdir(unit.cwd):
        at = place(section, "cwd")
        yield Problem(at.file, at.line, f"cwd = {ini.brief(unit.cwd, 200)}: no such folder on this host")
        return  # a relative path begins there
    for key, name in (("command", unit.command[0] if unit.command else ""), ("interpreter", unit.interpreter)):
        fault = _of_program(name, unit.cwd, _path(unit, environ)) if name else ""
        if fault:
            at = place(section, key, "exec")
            yield Problem(at.file, at.line, f"{key}: {fault}")


def _path(unit: Unit, environ: Mapping[str, str]) -> str:
    path = environ.get("PATH", os.defpath)
    return path if passes_path(unit.env_pass) else f"{os.path.dirname(sys.executable)}:{path}"


def _of_program(name: str, cwd: str, path: str) -> str:
    said = ini.brief(name, 200)
    if "/" not in name:
        found = shutil.which(name, path=path)
        return _of_script(found) if found else f"no program {said} in PATH on this host"
    program = os.path.normpath(os.path.join(cwd, name))
    if os.path.isdir(program):
        return f"{said} is a folder on this host"
    if not os.path.exists(program):
        return f"{said} does not exist on this host"
    return _of_script(program) if os.access(program, os.X_OK) else f"{said} is not executable; run: chmod +x {said}"


def _of_script(path: str) -> str:
    """The interpreter that its first line names."""
    try:
        with open(path, "rb") as file:
            first = file.read(SHEBANG_BYTES).partition(b"\n")[0]
    except OSError:  # executable and not readable
        return ""
    interpreter = os.fsdecode(first[2:]).split(maxsplit=1)[:1] if first.startswith(b"#!") else []
    if interpreter and not os.path.isfile(interpreter[0]):
        return f"{ini.brief(path, 200)} needs the interpreter {ini.brief(interpreter[0], 200)} (first line), which does not exist on this host"
    return ""
