"""Schedule writes of state.json: soon after a change, or at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from impetusd.supervisor.disk.state import StateFile
    from impetusd.supervisor.faults import Faults

SAVE_AFTER = 0.2  # seconds in which changes are gathered before they are written to the disk
SOURCE = "state.json"  # of what raises


class Saving:
    """Writes `content()` into a file."""

    def __init__(
        self, file: StateFile, path: str, content: Callable[[], Mapping[str, Any]], warn: Callable[[str], object]
    ) -> None:
        self._file = file
        self._path = path
        self._content = content
        self._warn = warn
        self.faults: Faults
        self._timer: asyncio.TimerHandle | None = None

    def soon(self) -> None:
        """Save a little later, because much may change at once."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(
                SAVE_AFTER, self.faults.attempt, SOURCE, "saving persistent state", self._write
            )

    def _write(self) -> None:
        self._timer = None
        self._file.save(self._content())

    def now(self) -> None:
        """Begin to write."""
        if self._timer is not None:  # this is all that it would write
            self._timer.cancel()
            self._timer = None
        self._file.save(self._content(), urgent=True)

    async def done(self) -> None:
        """Write, and wait until it is on the disk."""
        self.now()
        await self._file.saved()

    def restore(self) -> None:
        """Somebody may have removed the file: it is written anew, not only once something changes."""
        if not os.path.exists(self._path):
            self._warn(f"{self._path} was deleted and has been rewritten")
            self.now()
