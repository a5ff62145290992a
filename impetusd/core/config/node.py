"""Programs that are Node: which they are, and the variables by which the preload of `impetusd/node` is loaded into them."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False  # typing takes 2 ms to import, and every command that starts something comes by here
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from impetusd.core.config.model import Unit

PRELOAD = os.path.join(os.path.dirname(os.path.abspath(__file__)).removesuffix("/core/config"), "node", "preload.cjs")
NAMES = frozenset({"node", "nodejs", "npm", "npx", "yarn", "pnpm", "next", "fastify", "nest", "nuxt", "tsx", "ts-node"})
SCRIPTS = (".js", ".cjs", ".mjs", ".ts", ".mts", ".cts")
LINGER = 5.0  # seconds at most that idle connections of a stopping server are kept


def is_node(command: Sequence[str]) -> bool:
    """True if a command runs Node or a Node script, judging by its words."""
    words = list(command)
    if words and os.path.basename(words[0]) == "env":
        words = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    return bool(words) and (
        os.path.basename(words[0]) in NAMES or words[0].endswith(SCRIPTS) or "/node_modules/.bin/" in f"/{words[0]}"
    )


def loads(command: Sequence[str], listen: Sequence[object], node: str, rules: int) -> bool:
    """True if the preload is loaded into such a program. Under former rules, no program had one."""
    return rules > 2 and bool(listen) and (node == "yes" or (node == "auto" and is_node(command)))


def is_loaded(unit: Unit) -> bool:
    """The same of a unit."""
    return loads(unit.command, unit.listen, unit.node, unit.rules)


def listens(unit: Unit) -> bool:
    """True if the program counts as ready once it listens."""
    return unit.ready is not None and unit.ready.kind == "listen"


def options(given: str) -> str:
    """NODE_OPTIONS with our preload before what the user has `given`."""
    path = PRELOAD.replace("\\", "\\\\").replace('"', '\\"')
    return " ".join(filter(None, (f'--require="{path}"', given)))


def environment(unit: Unit, inodes: Sequence[int], notify: tuple[int, int] | None, signal: str, python: str) -> str:
    """IMPETUSD_NODE; preload.cjs says what is in it.

    `inodes`: of the unit's listening sockets, which are at descriptor 3 and so on. `notify`: descriptor and inode.
    """
    listen: list[dict[str, Any]] = []
    for number, (address, inode) in enumerate(zip(unit.listen, inodes, strict=True)):
        where = {"path": address.path} if address.path else {"host": address.host, "port": address.port}
        listen.append({"fd": 3 + number, "inode": inode, **where})
    return json.dumps(
        {
            "listen": listen,
            "notify": {"fd": notify[0], "inode": notify[1]} if notify else None,
            "ready": "listen" if listens(unit) else "told" if unit.wait_ready else "",
            "signal": signal,
            "linger": min(LINGER, unit.kill_timeout / 2),
            "python": python,
        }
    )
