"""The descriptors that the shim keeps for the supervisor, by name, with copies of them in systemd's store."""

from __future__ import annotations

import errno
import os

from impetusd.shim import table, upstream, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from impetusd.shim.state import ShimState
    from impetusd.shim.upstream import Upstream

PIPES = 4  # descriptors that are kept for one process, at least


class Store:
    """Changes `kept` and `lost` of the state."""

    def __init__(self, state: ShimState, upstream: Upstream, null: int) -> None:
        """`null`: /dev/null, opened."""
        self._state = state
        self._upstream = upstream
        self._null = null

    def keep(self, name: str, fd: int) -> None:
        """Keep `fd`, which is ours from now on, in the place of what has the name; -1: it was sent, and no number was left."""
        state = self._state
        try:
            self.drop(name)
            if fd >= 0:
                self.hold(name, fd)
            else:
                state.lost.add(name)
        except Exception:
            if fd >= 0 and state.kept.get(name) != fd:
                state.lost.add(name)
                os.close(fd)
            raise

    def hold(self, name: str, fd: int) -> None:
        """Keep `fd` under a name that is free."""
        self._state.kept[name] = fd
        ident = table.ident(fd)
        self._state.note("kept", name, ident)
        self._upstream.store(upstream.name_of(ident), fd)

    def drop(self, name: str) -> None:
        """Close what has the name, if anything has."""
        self._state.lost.discard(name)
        fd = self._state.kept.pop(name, None)
        if fd is not None:
            self._upstream.discard(upstream.name_of(table.ident(fd)))
            os.close(fd)
            self._state.note("kept", name, None)

    def find(self, name: str) -> int:
        """The descriptor for a child's spec; "" is /dev/null. Raises OSError for one that was lost, ValueError for an unknown one."""
        if name in self._state.lost:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if name and name not in self._state.kept:
            raise ValueError(f"no descriptor is stored as {name}")
        return self._state.kept[name] if name else self._null

    def replace_copies(self, stored: Iterable[str]) -> None:
        """systemd's store has copies of these names, given by a shim before: have it hold copies of what is kept now instead."""
        for name in set(stored) - {""}:
            self._upstream.discard(name)
        for name, fd in self._state.kept.items():
            if name in {"lock", wire.PAGE}:  # the one is free when the shim is dead, the other means nothing then
                continue
            self._upstream.store(upstream.name_of(table.ident(fd)), fd)


def missing(state: ShimState, more: int) -> int:
    """How many descriptors must stay free when `more` are to be kept: a pidfd for each process that is to be started again.

    Such a process is down, and its pipes, two a stream, are kept.
    """
    alive = sum(child.pidfd >= 0 for child in state.children.values())
    return max(0, (len(state.kept) + more) // PIPES - alive)
