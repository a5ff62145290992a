"""A log whose file this user may not read, but whose lines its role may: asked of the daemon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from impetusd.client import control

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from impetusd.core.config.location import Paths

AGAIN = 1.0  # seconds between two questions while nothing comes


class Remote:
    """As `Follower`: from its last lines on, as far as one page goes. Each line that looks secret comes hidden."""

    def __init__(
        self, paths: Paths, name: str, stream: str, count: int, wanted: Callable[[bytes], object] | None
    ) -> None:
        """Raises ControlError if the daemon does not give it."""
        self._paths = paths
        self._of = {"name": name, "stream": "error" if stream == "error" else "out"}
        self._wanted = wanted
        self._due = 0.0
        self.error, self.unreadable = "", list[str]()
        self._where: dict[str, Any] = {}
        self._first = list(filter(self._wanted, self._ask()))[-count:] if count else self._ask()[:0]

    def _ask(self) -> list[bytes]:
        answer = control.call(self._paths, "tail", {**self._of, **self._where})
        self._where = {"offset": answer["next"], "file": answer["file"]} if answer["file"] else {}
        self._due = 0.0 if answer["lines"] else time.monotonic() + AGAIN
        return [line.encode("utf-8", "surrogateescape") for line in answer["lines"]]

    def read(self) -> Iterator[bytes]:
        """Every line that was completed since the last call, without its newline."""
        first, self._first = self._first, []
        yield from first
        while not first and time.monotonic() >= self._due:
            try:
                yield from filter(self._wanted, self._ask())
                self.error = ""
            except control.ControlError as error:
                self.error = str(error)
                self._due = time.monotonic() + AGAIN

    def flush(self) -> Iterator[bytes]:
        """The unfinished last line is not given."""
        return iter(())

    def close(self) -> None:
        """Nothing is held."""
