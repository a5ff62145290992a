"""Chance, for delays that are to differ."""

from __future__ import annotations

import os


def fraction() -> float:
    """Somewhere in [0, 1). `random` would be 0.1 MB for this alone, for as long as the supervisor lives."""
    return int.from_bytes(os.urandom(4)) / (1 << 32)
