"""What became of each key of an import, as text and as JSON, without what looks secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config import ini
from impetusd.core.units import counted
from impetusd.interop.importing import rows
from impetusd.interop.importing.model import Fate, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from impetusd.interop.importing.model import Imported, Row


def lines(imported: Imported) -> Iterator[str]:
    """A line for each key, then what changes without one, what is left to do, and the counts."""
    for row in imported.rows:
        yield rows.line(row, _old(row), "" if row.fate is Fate.KEPT else row.why)
    yield from (f"differs: {each}" for each in imported.differs)
    yield from (f"missing on this host: {redact.text(each)}" for each in imported.lacks)
    yield from (f"to do: {each}" for each in imported.todo)
    programs = len(imported.programs)
    yield f"{counted(programs, 'program')}; keys: {rows.counts(imported.rows)}"


def as_json(imported: Imported) -> dict[str, Any]:
    """The same as an object."""
    return {
        "source": imported.source,
        "programs": [program.name for program in imported.programs],
        "keys": [rows.as_json(row, _old(row)) for row in imported.rows],
        "differs": imported.differs,
        "lacks": [redact.text(each) for each in imported.lacks],
        "to_do": imported.todo,
    }


def _old(row: Row) -> str:
    return redact.text(ini.brief(shown(row.old), rows.LONGEST))
