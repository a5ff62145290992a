"""What a file of PM2's says, before its apps are looked at: JSON and literal JavaScript are read, other JavaScript is run by node."""

from __future__ import annotations

import contextlib
from posixpath import splitext
from typing import TYPE_CHECKING, Any

from impetusd.interop.importing import dotenv, files, literal, modules, node, yamltext
from impetusd.interop.importing.model import ImportFault, lost
from impetusd.interop.importing.scanner import Dynamic

if TYPE_CHECKING:
    from impetusd.interop.importing.model import Imported, Options


def config(path: str, text: str, options: Options, imported: Imported) -> tuple[Any, dict[str, dict[str, str]]]:
    """What it says of apps, and the .env files that it reads, with the values in them."""
    extension = splitext(path)[1].lower()
    if extension in {".yaml", ".yml"}:
        return yamltext.parse(text, path), {}
    if extension not in {".js", ".cjs", ".mjs", ".ts"} and text.lstrip()[:1] in {"{", "[", "/"}:
        return literal.parse_value(text, path), {}
    try:
        return modules.parse_module(text, path)
    except Dynamic as error:
        if options.run_node is None:
            raise ImportFault(
                path, error.line, f"only JavaScript can compute this ({error.what}), but --no-node was given"
            ) from None
        imported.differ(
            f"{path}:{error.line}: only JavaScript can compute this ({error.what}), so the file was run with node."
        )
        notes: list[str] = []
        ran = options.run_node(path)
        if ran.marked is None:
            notes.append("*")
        found = ran.plain if ran.marked is None else node.merged(ran.plain, ran.marked, notes)
        for where in notes:
            imported.row(
                path, 1, "", where, "", lost("it depends on environment variables; converted as if none were set")
            )
        if ran.needs:
            imported.differ(
                f"{path} fails if some of the variables it reads are unset; it was read as if they were set."
            )
        for name in ran.missing:
            imported.row(
                path,
                1,
                "",
                name,
                "",
                lost("it does not exist here and was treated as empty; create it and import again"),
            )
        return found, ran.env_files


def otherwise(paths: list[str]) -> dict[str, str]:
    """The variables of .env files that env_file would read otherwise."""
    texts: list[str] = []
    for path in paths:
        with contextlib.suppress(ImportFault):
            texts.append(files.text_of(path))
    return dotenv.otherwise(*(text for text in texts if len(text) <= modules.MOST_ENV_FILE))
