"""A small file system in memory, for tests of a full disk."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(folder: Path, size: str, *, held: bool = False) -> Iterator[Path]:
    """Make `folder`, a disk of `size` as mount(8) has it ("256k"), until the block ends. Skips where nothing can be mounted.

    `held`: something may still have a file open there at the end, which is an error else.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small disk")
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", *(["-l"] if held else []), folder], check=True)
