"""The tables of keys as the help page has them. `python -m impetusd.interop.exporting.tables impetusd/help` writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from impetusd.core.config import schema
from impetusd.interop.exporting import fates
from impetusd.interop.exporting.model import Target

if TYPE_CHECKING:
    from collections.abc import Mapping

PAGE = "export.md"
TABLES: Mapping[str, Mapping[str, fates.Both]] = {
    "[pool:], [program:]": fates.UNITS,
    "type = oneshot, CronJob": fates.ENDING,
    "[timer:]": fates.TIMERS,
    "[health:]": fates.SECTIONS[schema.HEALTH],
    "[impetusd]": fates.OWN,
    "[group:]": fates.GROUPS,
    "[include]": fates.INCLUDES,
    "[gateway]": {"all keys": next(iter(fates.SECTIONS[schema.GATEWAY].values()))},
    "[host:]": {"all keys": next(iter(fates.SECTIONS[schema.HOST].values()))},
    "[alert:]": {"all keys": next(iter(fates.SECTIONS[schema.ALERT].values()))},
    "[env:]": {"a value": fates.LITERAL, "with ${NAME}": fates.REFERENCE, "a secret": fates.SECRET},
}


def table(title: str, rules: Mapping[str, fates.Both]) -> str:
    """In Markdown: what each key becomes."""
    lines = [f"| {title} | compose | Kubernetes | |", "|---|---|---|---|"]
    for key, both in rules.items():
        ours, theirs = (fates.pick(target, both) for target in Target)
        cells = [f"{each.fate.value} {f'`{each.ours}`' if each.ours else ''}".strip() for each in (ours, theirs)]
        why = ours.why if ours.why == theirs.why else "; ".join(
            f"{target.value}: {each.why}" for target, each in zip(Target, (ours, theirs), strict=True) if each.why
        )  # fmt: skip
        lines.append(f"| {f'`{key}`' if ' ' not in key else key} | {cells[0]} | {cells[1]} | {why} |")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """The page with its tables as they are now. ValueError where one has no place in it."""
    for title, rules in TABLES.items():
        start = text.index(f"| {title} | compose |")
        end = text.find("\n\n", start)
        text = text[:start] + table(title, rules) + (text[end + 1 :] if end >= 0 else "")
    return text


def main(folder: str) -> None:
    """Rewrite the page."""
    path = Path(folder, PAGE)
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
