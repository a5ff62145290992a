"""What became of each key of an export, as text and as JSON, without what looks secret."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config import ini
from impetusd.interop.importing.model import Fate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from impetusd.interop.exporting.model import Exported
    from impetusd.interop.importing.model import Row


def lines(made: Exported) -> Iterator[str]:
    """A line for each key, then what changes without one, what is left to do, and the counts."""
    for row in made.rows:
        where = " ".join(filter(None, (f"[{row.section}]" if row.section else "", row.key)))
        old = f" = {_old(row)}" if row.old else ""
        new = f" → {redact.text(ini.brief(row.new, 160))}" if row.new else ""
        why = f" ({redact.text(ini.brief(row.why, 300))})" if row.why else ""
        yield f"{row.file}:{row.line}: {row.fate.value}: {where}{old}{new}{why}"
    yield from (f"differs: {each}" for each in made.differs)
    yield from (f"to do: {redact.text(each)}" for each in made.todo)
    counts = Counter(row.fate for row in made.rows)
    total = len(made.workloads)
    containers = f"{total} kind{'s' * (total != 1)} of container"
    yield f"{containers}; keys: " + ", ".join(f"{counts[fate]} {fate.value}" for fate in Fate)


def as_json(made: Exported) -> dict[str, Any]:
    """The same as an object."""
    return {
        "target": made.options.target.value,
        "workloads": [{"unit": work.unit, "name": work.name, "role": work.role.value} for work in made.workloads],
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
            for row in made.rows
        ],
        "differs": made.differs,
        "to_do": [redact.text(each) for each in made.todo],
    }


def is_faithful(made: Exported) -> bool:
    """Whether nothing was lost."""
    return all(row.fate is not Fate.LOST for row in made.rows)


def _old(row: Row) -> str:
    return redact.value(row.key, ini.brief(row.old, 160))
