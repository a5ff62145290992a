"""What a killed supervisor had read from pipes and not written; and the journals that hold it, one for each thread.

A chunk that is found waits for its pipe: what becomes of it is known once the pipe's file is. If a thread of the killed
supervisor hangs in the kernel over it, it is frozen: that thread may still write it, so its pipe waits for the thread's end.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping

from impetusd.supervisor.logs.journal import Journal, Pending

ADOPTION = 2.0  # seconds that a chunk found in the journal waits for its pipe
JOURNAL = "journal:"  # the memory's names in the shim's store
Found = tuple[Pending, Journal]


class Chunks:
    """The chunks by pipe, and the journals. Its methods may be called from any thread."""

    def __init__(
        self,
        held: Mapping[str, int],
        keep: Callable[[str, int | None], object] | None,
        soon: Callable[[Callable[[], object]], object],
    ) -> None:
        """As `Writer`."""
        self._keep = keep
        self._soon = soon
        self._free: list[Journal] = []  # those that no thread uses
        self.found: dict[str, Found] = {}
        self._frozen: dict[str, Found] = {}
        self._thawed: dict[str, functools.partial[None]] = {}  # what to do once its thread has ended
        self.foreign = False  # an older version has read on behind what was held of unfinished lines
        numbers = sorted(int(name.removeprefix(JOURNAL)) for name in held if name.startswith(JOURNAL))
        self._numbers = 1 + max([-1, *numbers])  # how many numbers are taken
        for number in numbers:
            self._find(f"{JOURNAL}{number}", Journal(held[f"{JOURNAL}{number}"]))
        self._until = time.monotonic() + ADOPTION

    def _find(self, name: str, journal: Journal) -> None:
        self.foreign |= journal.foreign
        pending = journal.pending()
        if pending is None:
            journal.claim()
        elif journal.is_in_use():
            self._frozen[pending.pipe] = pending, journal
            self._thawed[pending.pipe] = functools.partial(self._drop, name, journal)
            return
        else:
            self.found[pending.pipe] = pending, journal
        self._free.append(journal)

    def of(self, pipe: str) -> Found | None:
        """What was read from the pipe."""
        return self.found.get(pipe) or self._frozen.get(pipe)

    def is_frozen(self, pipe: str, found: Found) -> bool:
        """Whether a thread of the killed supervisor may still write it."""
        return pipe in self._frozen and found[1].is_in_use()

    def are_awaited(self) -> bool:
        """Whether a chunk may still find its pipe: any other read would overwrite it. Waits a millisecond if so."""
        waits = time.monotonic() < self._until
        if waits:
            time.sleep(0.001)
        return waits

    def resolved(self, pipe: str) -> None:
        """The chunk has found its file, or nobody came for it."""
        found = self.found.pop(pipe, None)
        if found is not None:
            found[1].done()
        if self._frozen.pop(pipe, None) is not None:
            self._soon(self._thawed.pop(pipe))

    def journal(self) -> Journal:
        """A journal for one more thread."""
        if self._free:
            return self._free.pop(0)
        journal = Journal()
        if self._keep is not None:
            self._keep(f"{JOURNAL}{self._numbers}", journal.fd)
        self._numbers += 1
        return journal

    def _drop(self, name: str, journal: Journal) -> None:
        journal.close()
        if self._keep is not None:
            self._keep(name, None)

    def close(self) -> None:
        """Let go of the journals that no thread uses."""
        for journal in (*self._free, *(journal for _, journal in self._frozen.values())):
            journal.close()
