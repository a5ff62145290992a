"""An application that prints more, while it is imported, than a pipe takes."""

from __future__ import annotations

print("x" * 1_000_000)
