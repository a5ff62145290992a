"""Ends what a test run that was killed has left: its teardown never ran, and a daemon outlives whoever started it.

One process for each process of pytest, in a session of its own. It reads `+FOLDER` when an instance is made and
`-FOLDER` when that was destroyed; at the end of its input, which is the end of pytest, it kills and removes the rest.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import census


def clear(root: Path) -> None:
    """Kill every process of the instance in `root`, then remove its cgroups and its folder."""
    while members := census.members(root):
        for process in members:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    for path in reversed(census.cgroups(root)):
        try:
            os.rmdir(path)
        except OSError:
            continue  # gone, or a zombie is still on its way out
    shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    """Read until the end, then clear."""
    roots: set[str] = set()
    for line in sys.stdin:
        if line.startswith("+"):
            roots.add(line[1:].rstrip("\n"))
        else:
            roots.discard(line[1:].rstrip("\n"))
    for root in roots:
        clear(Path(root))


if __name__ == "__main__":
    main()
