"""The tables of keys as the help pages have them. `python -m impetusd.interop.importing.tables impetusd/help` writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from impetusd.interop.importing import (
    circus,
    gunicorn_keys,
    pm2_keys,
    procfile,
    supervisord_keys,
    systemd_keys,
    systemd_others,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from impetusd.interop.importing.model import Rule

# Page → the tables in it, each by what stands above its first column.
PAGES: dict[str, dict[str, Mapping[str, Rule]]] = {
    "from-pm2.md": {"ecosystem.config.js": pm2_keys.KEYS},
    "from-supervisord.md": {
        "[program:x]": supervisord_keys.KEYS,
        "[supervisord]": supervisord_keys.DAEMON,
        "other sections": supervisord_keys.SECTIONS,
    },
    "from-gunicorn.md": {"gunicorn.conf.py": gunicorn_keys.KEYS},
    "from-systemd.md": {
        "[Unit], [Service], [Install]": systemd_keys.KEYS,
        "[Timer]": systemd_others.TIMER,
        "[Socket]": systemd_others.SOCKET,
    },
    "import.md": {"Procfile": procfile.KEYS, "[watcher:x] of circus": circus.KEYS},
}


def table(title: str, rules: Mapping[str, Rule]) -> str:
    """In Markdown: what each key becomes."""
    aliases: dict[str, list[str]] = {}
    for alias, key in pm2_keys.ALIASES.items() if rules is pm2_keys.KEYS else ():
        aliases.setdefault(key, []).append(alias)
    lines = [f"| {title} | fate | here | |", "|---|---|---|---|"]
    for key, rule in rules.items():
        names = ", ".join(f"`{each}`" for each in (key, *aliases.get(key, ())))
        ours = f"`{rule.ours}`" if rule.ours else ""
        lines.append(f"| {names} | {rule.fate.value} | {ours} | {rule.why} |")
    return "\n".join(lines) + "\n"


def written(text: str, page: str) -> str:
    """The page with its tables as they are now. ValueError where one has no place in it."""
    for title, rules in PAGES[page].items():
        start = text.index(f"| {title} | fate |")
        end = text.find("\n\n", start)
        text = text[:start] + table(title, rules) + (text[end + 1 :] if end >= 0 else "")
    return text


def main(folder: str) -> None:
    """Rewrite the pages."""
    for page in PAGES:
        path = Path(folder, page)
        path.write_text(written(path.read_text(encoding="utf-8"), page), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
