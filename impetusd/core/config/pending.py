"""Detect changes of an INI file that are not applied, by checksum, since the text may contain secrets.

The daemon has two for each file that it has read: of all of it, which is cheap to compare, and of what it says, in which
comments and blanks do not count.
"""

from __future__ import annotations

import zlib

from impetusd.core.config import ini

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any


def whole(text: str) -> int:
    """The number of the text."""
    return zlib.crc32(text.encode("utf-8", "surrogateescape"))


def meaning(text: str, path: str) -> int:
    """The checksum of the file's contents."""
    sections, _ = ini.parse(text, path)
    said = [(each.name, [(key, entry.value) for key, entry in each.entries.items()]) for each in sections]
    return whole(repr(said))


def report(texts: Iterable[tuple[str, str]], globs: Iterable[str]) -> dict[str, Any]:
    """The daemon's report on its active files: the INI file first, then the patterns that it includes."""
    return {"files": [[path, whole(text), meaning(text, path)] for path, text in texts], "globs": list(globs)}


def differs(
    told: Mapping[str, Any], conf: str, read: Callable[[str], str], listing: Callable[[str], list[str]]
) -> bool:
    """True if `conf`, or a file that it includes, differs from the active configuration.

    `told` is a `report`, or {} of an older daemon; `listing` gives the files that a pattern means. Raises OSError.
    """
    files = told.get("files")
    if not files:
        return False
    (_, *own), *included = files
    known = {path: numbers for path, *numbers in included}
    present = dict.fromkeys(path for pattern in told["globs"] for path in listing(pattern))
    if set(present) != set(known):
        return True
    for path, (of_all, of_meaning) in {conf: own, **known}.items():
        text = read(path)
        if whole(text) != of_all and meaning(text, path) != of_meaning:
            return True
    return False
