"""Which manager a file is of, by what is in it; its name decides only where the content does not."""

from __future__ import annotations

import os
import re
from posixpath import basename
from typing import TYPE_CHECKING

from impetusd.interop.importing import circus, files, pm2, procfile, supervisord, systemd
from impetusd.interop.importing.model import BARE, MOST_PROGRAMS, ImportFault, names, reference, resolve

if TYPE_CHECKING:
    from impetusd.interop.importing.model import Imported, Options

READERS = {
    "pm2": pm2.read,
    "supervisord": supervisord.read,
    "procfile": procfile.read,
    "circus": circus.read,
    "systemd": systemd.read,
}
_SCRIPTS = (".js", ".cjs", ".mjs", ".ts", ".json", ".json5", ".yaml", ".yml", ".pm2")
_BY_CONTENT = (
    ("supervisord", re.compile(r"^\[(?:supervisord\]|program:|eventlistener:|fcgi-program:)", re.MULTILINE)),
    ("circus", re.compile(r"^\[(?:circus\]|watcher:)", re.MULTILINE)),
    ("systemd", re.compile(r"^\[(?:Service|Unit)\]", re.MULTILINE)),
    ("pm2", re.compile(r"\bmodule\.exports\b|^export default\b|^\s*[\"']?apps[\"']?\s*:", re.MULTILINE)),
)
_PROCFILE = re.compile(r"^[A-Za-z0-9_-]+:\s*\S", re.MULTILINE)


def kind_of(path: str, text: str) -> str:
    """A key of READERS. Raises ImportFault for what no reader knows."""
    name = basename(path).lower()
    for kind, pattern in _BY_CONTENT:
        if pattern.search(text) and not (kind != "pm2" and name.endswith(_SCRIPTS)):
            return kind
    if name.endswith(_SCRIPTS) or text.lstrip()[:1] == "{":
        return "pm2"
    if _PROCFILE.search(text):
        return "procfile"
    raise ImportFault(path, 1, f"unknown kind of file; use --from KIND with one of {', '.join(READERS)}")


def read(path: str, kind: str, options: Options) -> Imported:
    """`kind`: "" to find out. Raises ImportFault, and nothing else, whatever is in the file."""
    if not kind and "@" in basename(path) and path.endswith(".service") and not os.path.lexists(path):
        kind = "systemd"  # an instance of a template
    try:
        imported = READERS[kind or kind_of(path, files.text_of(path))](path, options)
    except RecursionError:
        raise ImportFault(path, 1, "it is nested too deeply") from None
    if len(imported.programs) > MOST_PROGRAMS:
        raise ImportFault(path, 1, f"more than {MOST_PROGRAMS} programs")
    for program in imported.programs:
        if program.argv and not resolve(program.argv[0], {}) and (asked := names(program.argv[0])):
            # A default that is no program: with none the file would be refused, also where the variable is set.
            bare = BARE if program.argv[0].startswith(BARE) else ""
            program.argv[0] = bare + reference(asked[0], f"/{asked[0]}/is/not/set")
            imported.todo.append(f"{program.name}: set {asked[0]}, which names its program.")
    return imported
