"""What became of each key of an import, as text and as JSON, without what looks secret."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config import ini
from impetusd.interop.importing.model import Fate, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from impetusd.interop.importing.model import Imported, Row


def lines(imported: Imported) -> Iterator[str]:
    """A line for each key, then what changes without one, what is left to do, and the counts."""
    for row in imported.rows:
        where = " ".join(filter(None, (f"[{row.section}]" if row.section else "", row.key)))
        old = f" = {_old(row)}" if row.old else ""
        new = f" → {redact.text(ini.brief(row.new, 160))}" if row.new else ""
        why = f" ({redact.text(ini.brief(row.why, 300))})" if row.why and row.fate is not Fate.KEPT else ""
        yield f"{row.file}:{row.line}: {row.fate.value}: {where}{old}{new}{why}"
    yield from (f"differs: {each}" for each in imported.differs)
    yield from (f"this host lacks: {redact.text(each)}" for each in imported.lacks)
    yield from (f"to do: {each}" for each in imported.todo)
    counts = Counter(row.fate for row in imported.rows)
    programs = len(imported.programs)
    yield f"{programs} program{'' if programs == 1 else 's'}; keys: " + ", ".join(
        f"{counts[fate]} {fate.value}" for fate in Fate
    )


def as_json(imported: Imported) -> dict[str, Any]:
    """The same as an object."""
    return {
        "source": imported.source,
        "programs": [program.name for program in imported.programs],
        "keys": [
            {
                "file": row.file,
                "line": row.line,
                "section": row.section,
                "key": row.key,
                "old": _old(row),
                "fate": row.fate.value,
                "new": redact.text(row.new),
                "why": redact.text(row.why),
            }
            for row in imported.rows
        ],
        "differs": imported.differs,
        "lacks": [redact.text(each) for each in imported.lacks],
        "to_do": imported.todo,
    }


def is_faithful(imported: Imported) -> bool:
    """Whether nothing was lost."""
    return all(row.fate is not Fate.LOST for row in imported.rows)


def _old(row: Row) -> str:
    return redact.text(ini.brief(shown(row.old), 160))
