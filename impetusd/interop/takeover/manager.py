"""What a take-over knows of the old manager, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class ManagerFault(Exception):
    """The old manager cannot be asked, or has refused: a sentence for the operator."""


class Was(Enum):
    """What the old manager has a process as."""

    RUNNING = "running"
    STOPPED = "stopped"
    ENDED = "ended"
    FAILED = "failed"  # given up, or between two tries
    UNSETTLED = "unsettled"  # starting or stopping: for a moment


@dataclass(frozen=True, slots=True)
class Process:
    """One process under the old manager. `name` is as the imported file says it, `id` as the manager is asked by;
    `said`: the manager's own word for its state. `shared`: it listens in the manager's process, not in its own.
    `recurs`: while it is in the list, it is started by a clock, stopped or not.
    """

    name: str
    id: str
    was: Was
    said: str
    pid: int = 0
    shared: bool = False
    recurs: bool = False


class Manager(Protocol):
    """The old manager's client. Every method raises ManagerFault. `notes`: what a start could not restore."""

    title: str
    pid: int
    notes: list[str]

    def processes(self) -> list[Process]:
        """All that it has."""

    def stop(self, ids: Sequence[str]) -> None:
        """Stop these, and return once they have stopped. It keeps them in its list."""

    def start(self, ids: Sequence[str]) -> None:
        """Start these again, as they were."""

    def forget(self, processes: Iterable[Process]) -> None:
        """Take these, which are stopped, out of its list."""

    def by_hand(self, ids: Sequence[str]) -> str:
        """What an operator types to start these again under it, once they are still in its list."""

    def at_the_end(self, *, empty: bool) -> list[str]:
        """What is left to do, that they do not come back. `empty`: it has nothing any more."""
