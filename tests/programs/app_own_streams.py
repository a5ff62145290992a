"""An application that puts an object of its own, which is not a file, in the place of its standard streams."""

from __future__ import annotations

import sys

import app_hello

make = app_hello.make


class Gone:
    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


sys.stdout = sys.stderr = Gone()  # type: ignore[assignment]
