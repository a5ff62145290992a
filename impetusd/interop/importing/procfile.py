"""A Procfile, of foreman, honcho or Heroku, with the .env beside it."""

from __future__ import annotations

import os
import re
import shlex
from posixpath import basename, dirname
from typing import TYPE_CHECKING

from impetusd.interop.importing import files
from impetusd.interop.importing.model import (
    EVERY_VARIABLE,
    Imported,
    ImportFault,
    Program,
    kept,
    reference,
    shown,
    translated,
    unit_name,
)

if TYPE_CHECKING:
    from impetusd.interop.importing.model import Options

KEYS = {
    "NAME: COMMAND": kept("[program:NAME]", "run by sh -c if it needs a shell"),
    "release": translated("type", "oneshot: the other programs start once it has exited with 0"),
    ".env": translated("env_file", "for each program"),
    "PORT": translated(
        "[env:NAME]",
        "5000 (or PORT from .env) plus 100 for each further program, as in foreman; for web and commands that use"
        " PORT, a PORT in the environment takes precedence",
    ),
}
FIRST_PORT, NEXT_PORT = 5000, 100
_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(.+)")
_SHELL = re.compile(r"[$&|;<>()`*?~#{}\[\]!\n]|^\s*(?:[A-Za-z_]\w*=|(?:cd|export|source|\.|exec|eval|set)\s)", re.ASCII)


def read(path: str, options: Options) -> Imported:
    """Raises ImportFault."""
    imported = Imported("procfile")
    folder = options.cwd or dirname(path)
    taken: set[str] = set()
    release, env_file = "", f"{dirname(path)}/.env"
    asked = (files.variables_of(env_file) or {}).get("PORT", "")
    first = int(asked) if re.fullmatch(r"[0-9]{1,5}", asked) else FIRST_PORT
    for number, line in enumerate(files.text_of(path).split("\n"), 1):
        match = _LINE.match(line.strip())
        if match is None:
            continue  # as foreman does
        program = Program(unit_name(match[1], taken), path, number, env_pass=EVERY_VARIABLE, keys={"cwd": folder})
        program.argv = _command(match[2], path, number)
        rule = KEYS["NAME: COMMAND"]
        if match[1] == "release":
            program.keys["type"] = "oneshot"
            release, rule = program.name, KEYS["release"]
        port = str(first + NEXT_PORT * len(imported.programs))
        program.env["PORT"] = reference("PORT", port) if "PORT" in match[2] or match[1] == "web" else port
        imported.row(path, number, program.name, "PORT", "", KEYS["PORT"], f"PORT = {shown(program.env['PORT'])}")
        if os.path.isfile(env_file):
            program.keys["env_file"] = env_file
        imported.row(path, number, program.name, match[1], match[2], rule, f"[program:{program.name}]")
        imported.programs.append(program)
    if not imported.programs:
        raise ImportFault(path, 1, "it contains no line of the form NAME: COMMAND")
    for program in imported.programs:
        if release and program.name != release:
            program.keys["depends_on"] = release
        if "env_file" in program.keys:
            imported.row(
                path, program.line, program.name, ".env", "", KEYS[".env"], f"env_file = {program.keys['env_file']}"
            )
    imported.differ(
        "A process that exits is restarted, while foreman stops all of them. Output goes to files; set out_file ="
        " stdout to get foreman's behavior."
    )
    imported.differ(f"Programs run in {folder}; use --cwd FOLDER for another folder.")
    if basename(path) != "Procfile":
        imported.differ(f"{basename(path)} may be meant for development only.")
    return imported


def _command(text: str, path: str, line: int) -> list[str]:
    if _SHELL.search(text):
        return ["sh", "-c", text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ImportFault(path, line, f"the command cannot be parsed: {error}") from None
