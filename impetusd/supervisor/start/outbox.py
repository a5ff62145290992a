"""The orders of one round to the shim: records, operations and descriptors, gathered into one message."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from impetusd.shim.wire import MOST_FDS

if TYPE_CHECKING:
    from impetusd.core.rules.lifecycle import Scope
    from impetusd.supervisor.disk.ledger import Ledger
    from impetusd.supervisor.start.link import Link


class Mark(NamedTuple):
    """How much of each a round has gathered."""

    puts: int
    ops: int
    keeps: int


class Outbox:
    """Gathers, and sends."""

    def __init__(self, link: Link, ledger: Ledger) -> None:
        self._link = link
        self._ledger = ledger
        self._puts: list[tuple[str, str | None]] = []
        self._ops: list[dict[str, Any]] = []
        self._keeps: list[tuple[str, int]] = []
        self._close_when_sent: list[tuple[str, int]] = []
        self.fds = dict(link.fds)  # name → our copy, of what the shim holds

    def put(self, key: str, blob: str | None) -> None:
        """Store `blob` in the shim under `key`; None removes it."""
        self._puts.append((key, blob))

    def ask(self, operation: dict[str, Any]) -> None:
        """Add an operation, after those added before."""
        self._ops.append(operation)

    def signal(self, process: int, number: int, scope: Scope) -> None:
        """Signal a process, its descendants, or both."""
        self.ask({"op": "signal", "process": process, "number": number, "scope": scope.value})

    def ack(self, process: int) -> None:
        """The exit of `process` is written down with this round's records: it may be reaped."""
        self.ask({"op": "ack", "process": process})

    def keep(self, name: str, fd: int, *, ours: bool) -> None:
        """Let the shim hold a descriptor; we keep our copy only if it is `ours`. If this raises, it is still the caller's."""
        self.keep_all({name: fd}, ours=ours)

    def keep_all(self, fds: Mapping[str, int], *, ours: bool) -> None:
        """Let the shim hold these descriptors, or, if this raises, none of them."""
        kept = [*fds.items()]
        keeps = [*self._keeps, *kept]
        if ours:
            self.fds |= fds
        else:
            self._close_when_sent += kept
        self._keeps = keeps  # nothing raises once anything has changed

    def keep_copy(self, name: str, fd: int) -> None:
        """Let the shim hold a copy of a descriptor that stays the caller's. Raises OSError."""
        copy = os.dup(fd)
        try:
            self.keep(name, copy, ours=False)
        except BaseException:
            os.close(copy)
            raise

    def keep_now(self, name: str, fd: int, blob: str) -> None:
        """`keep_copy`, and store `blob` under the same name, whatever happens to the round. Raises OSError."""
        ops = [{"op": "keep", "name": name}, {"op": "put", "key": name, "blob": blob}]
        copy = os.dup(fd)
        try:
            self._link.send(ops, [copy], functools.partial(os.close, copy))
        except BaseException:
            os.close(copy)
            raise

    def take(self, name: str) -> int | None:
        """What the previous supervisor kept under `name`: the descriptor is the caller's from now on."""
        return self.fds.pop(name, None)

    def drop(self, name: str) -> None:
        """Close a descriptor in the shim, and our copy."""
        self.ask({"op": "drop", "name": name})
        if name in self.fds:  # from here on nothing is called that could raise
            self._close_when_sent += [(name, self.fds[name])]
            del self.fds[name]

    def mark(self) -> Mark:
        """The current position in this round, for `roll_back`."""
        return Mark(len(self._puts), len(self._ops), len(self._keeps))

    def roll_back(self, mark: Mark) -> None:
        """Do not send the orders of a start since `mark`. Log pipes stay: they are the slot's, not the process's."""
        del self._puts[mark.puts :], self._ops[mark.ops :]
        undone = [each for each in self._keeps[mark.keeps :] if not each[0].startswith("log:")]
        for each in undone:
            self._keeps.remove(each)
            if each in self._close_when_sent:
                self._close_when_sent.remove(each)
            else:
                self.fds.pop(each[0], None)
            os.close(each[1])

    def flush(self) -> None:
        """Send what was gathered as one message, so that the shim gets all of it or nothing.

        Of more descriptors than one message takes, the first go ahead: see `Starter.continue_from`.
        """
        self._puts += self._ledger.puts().items()
        if not (self._puts or self._ops or self._keeps):
            return
        keeps = self._keeps
        messages = []
        while len(keeps) > MOST_FDS:
            ahead, keeps = keeps[:MOST_FDS], keeps[MOST_FDS:]
            messages.append(([{"op": "keep", "name": name} for name, _ in ahead], [fd for _, fd in ahead]))
        ops: list[dict[str, Any]] = [{"op": "keep", "name": name} for name, _ in keeps]
        ops += [{"op": "put", "key": key, "blob": blob} for key, blob in dict(self._puts).items()]
        messages.append((ops + self._ops, [fd for _, fd in keeps]))
        closing = self._close_when_sent

        def sent() -> None:
            for _, fd in closing:
                os.close(fd)

        # An exception before this line leaves everything unchanged; after it, `Link.send` raises nothing.
        self._puts, self._ops, self._keeps, self._close_when_sent = [], [], [], []
        for message, fds in messages[:-1]:
            self._link.send(message, fds)
        self._link.send(*messages[-1], sent)
        self._ledger.sent()

    def quit(self, code: int) -> None:
        """Let the shim exit with `code` after us."""
        self.ask({"op": "quit", "code": code})
        self.flush()

    def close(self) -> None:
        """Let go of our copies of what the shim holds."""
        for fd in (*self.fds.values(), *(fd for _, fd in self._close_when_sent)):
            os.close(fd)
        self.fds.clear()
        self._close_when_sent.clear()
