"""The report's row for one key, of an import or an export, as text and as JSON, without what looks secret.

`old` is the value as it may be shown: what that takes differs between the two.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from impetusd.core import redact
from impetusd.core.config import ini
from impetusd.interop.importing.model import Fate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from impetusd.interop.importing.model import Row

LONGEST = 160  # characters of a value


def line(row: Row, old: str, why: str) -> str:
    """`FILE:LINE: FATE: KEY = OLD → NEW (WHY)`."""
    where = " ".join(filter(None, (f"[{row.section}]" if row.section else "", row.key)))
    before = f" = {old}" if row.old else ""
    after = f" → {redact.text(ini.brief(row.new, LONGEST))}" if row.new else ""
    because = f" ({redact.text(ini.brief(why, 300))})" if why else ""
    return f"{row.file}:{row.line}: {row.fate.value}: {where}{before}{after}{because}"


def as_json(row: Row, old: str) -> dict[str, Any]:
    """The same as an object."""
    return {
        "file": row.file,
        "line": row.line,
        "section": row.section,
        "key": row.key,
        "old": old,
        "fate": row.fate.value,
        "new": redact.text(row.new),
        "why": redact.text(row.why),
    }


def counts(rows: Iterable[Row]) -> str:
    """How many keys have each fate: `3 kept, 1 translated, …`."""
    found = Counter(row.fate for row in rows)
    return ", ".join(f"{found[fate]} {fate.value}" for fate in Fate)


def is_faithful(rows: Iterable[Row]) -> bool:
    """Whether nothing was lost."""
    return all(row.fate is not Fate.LOST for row in rows)
