"""What became of each key of an export, as text and as JSON, without what looks secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config import ini
from impetusd.core.units import counted
from impetusd.interop.importing import rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from impetusd.interop.exporting.model import Exported
    from impetusd.interop.importing.model import Row


def lines(made: Exported) -> Iterator[str]:
    """A line for each key, then what changes without one, what is left to do, and the counts."""
    for row in made.rows:
        yield rows.line(row, _old(row), row.why)
    yield from (f"differs: {each}" for each in made.differs)
    yield from (f"to do: {redact.text(each)}" for each in made.todo)
    total = len(made.workloads)
    yield f"{counted(total, 'container type')}; keys: {rows.counts(made.rows)}"


def as_json(made: Exported) -> dict[str, Any]:
    """The same as an object."""
    return {
        "target": made.options.target.value,
        "workloads": [{"unit": work.unit, "name": work.name, "role": work.role.value} for work in made.workloads],
        "keys": [rows.as_json(row, _old(row)) for row in made.rows],
        "differs": made.differs,
        "to_do": [redact.text(each) for each in made.todo],
    }


def _old(row: Row) -> str:
    return redact.value(row.key, ini.brief(row.old, rows.LONGEST))
