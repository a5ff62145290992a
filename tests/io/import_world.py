"""A file imported, and its INI read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from impetusd.core.config import parser
from impetusd.interop.importing import kinds, writer
from impetusd.interop.importing.model import Fate, Options

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from impetusd.core.config.model import Config
    from impetusd.interop.importing.model import Imported


def read_back(path: Path, environ: Mapping[str, str] | None = None, **options: Any) -> tuple[Config, Imported, str]:
    """What the INI made of the file says in this environment, what the report says, and the INI."""
    imported = kinds.read(str(path), "", Options(**options))
    target = str(path.with_name("impetusd.ini"))
    ini, problems = writer.without_faults(imported, target)
    assert problems == [], ini
    return parser.parse(ini, target, {"HOME": "/root", **(environ or {})}, writer.ANYWHERE), imported, ini


def lost(imported: Imported) -> set[str]:
    """The keys that the report calls lost."""
    return {row.key for row in imported.rows if row.fate is Fate.LOST}
