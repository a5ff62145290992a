"""The shim's state: one record, shared by all its parts.

`shim.table` writes it to a file for the shim after this one, `shim.handover` passes it to new code in this process, and
`shim.orphans` fills it with what a killed shim has left. What only one part needs, and no successor, stays in that part.

Whoever changes something that the file has, notes it here (`note`, `touch`); the table writes that at the end of the round.
"""

from __future__ import annotations

import time

from impetusd.bare import deque
from impetusd.shim import failures
from impetusd.shim.child import Child

TYPE_CHECKING = False  # `typing` and `dataclasses` would be 2 MB for as long as we live
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence
    from typing import Any


class ShimState:
    """All of it. Times are time.monotonic()."""

    __slots__ = (
        *("baseline", "blobs", "born", "changes", "channel", "children", "code", "corpses", "due", "emptied", "forked"),
        *("forking", "has_reported", "kept", "life", "lifeline", "lost", "outbox", "quitting", "shutdown"),
        *("silent_deaths", "spares", "supervisor", "sweep_due", "trial_pid", "troubles"),
    )

    def __init__(self, life: str, baseline: dict[str, Any]) -> None:
        """`life`: see `shim.table`; `baseline`: see `startup.measured`."""
        self.life = life
        self.baseline = baseline

        # What is held for the supervisor.
        self.children: dict[int, Child] = {}
        self.kept: dict[str, int] = {}  # descriptors by name
        self.lost: set[str] = set()  # names for which no descriptor came: no number was left for it
        self.blobs: dict[str, str] = {}
        self.forking: dict[int, Child] = {}  # children that a template was asked for, and has not answered yet
        self.forked: list[Child] = []  # the answered ones that still wait at their gate

        # The supervisor, and what is to be sent to it.
        self.supervisor: Child | None = None
        self.channel: socket.socket | None = None
        self.lifeline = -1  # our end of a pipe whose other end closes as soon as the supervisor is killed
        self.corpses: list[Child] = []  # supervisors that were killed and cannot end
        self.outbox: deque[tuple[dict[str, Any], Sequence[int]]] = deque()  # events with their descriptors
        self.born = 0.0  # when it was started
        self.due: float | None = 0.0  # when to start the next one
        self.has_reported = False  # whether this one has sent anything yet
        self.silent_deaths = 0  # deaths in a row of one that had not, or went wrong before it had lasted
        self.troubles: dict[str, str] = {}  # what the operator should know: part → sentence

        # The end.
        self.shutdown = False  # SIGTERM came
        self.quitting = False  # the supervisor said `quit`
        self.code = 0  # the exit status that it asked for
        self.spares = False  # there was a child whose descendants are not to be ended with it

        # What is still to be done in this round.
        self.changes: dict[str, Any] = {}  # for the table: see `note`
        self.sweep_due = False
        self.emptied: list[str] = []  # cgroups to remove
        self.trial_pid = 0  # of the process that tries new code: see `handover.Upgrade`

    @property
    def is_stop_requested(self) -> bool:
        """Whether the end of everything was asked for: of us, or of a supervisor, which notes it in a blob."""
        return self.shutdown or "shutdown" in self.blobs

    def mains(self) -> set[int]:
        """The pids of the children that live, or are not reaped yet."""
        return {child.pid for child in self.children.values() if child.pid}

    # What is written down.

    def note(self, part: str, key: Any, value: Any) -> None:
        """From now on, `key` of a part of the table has this value; None: it is gone."""
        self.changes.setdefault(part, {})[key] = value

    def touch(self, child: Child) -> None:
        """Something about `child` has changed."""
        self.note("children", child.process, child)

    # What the supervisor learns.

    def emit(self, event: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Send an event at the end of the round. Without a supervisor nothing is lost: the next one gets all of the state."""
        if self.channel is not None:
            self.outbox.append((event, fds))

    def trouble(self, what: str, sentence: str) -> None:
        """Have `status` show `sentence` about a part of the shim; "" ends that."""
        if self.troubles.get(what, "") == sentence:
            return
        self.troubles[what] = sentence
        if not sentence:
            del self.troubles[what]
        # `process` for supervisors of an older version, which look for it in every event.
        self.emit({"event": "trouble", "process": 0, "what": what, "sentence": sentence})

    def report_exit(self, child: Child) -> None:
        """Send its `exited`, once."""
        if not child.exit_reported:
            self.touch(child)
            self.emit({"event": "exited", "process": child.process, **(child.ended or {}), "left": child.left})
            child.exit_reported = True

    def fail_start(self, child: Child, stage: str, cause: dict[str, Any]) -> None:
        """Record and send that `child` could not be started. `stage` and `cause`: see `failures.failed`."""
        child.close_gate()
        child.ended = {**failures.failed(stage, cause), "at": time.time()}
        self.report_exit(child)

    def forget_if_done(self, child: Child) -> None:
        """Forget a child whose exit is acknowledged, once nothing of its tree lives."""
        if child.acked and not child.left:
            self.note("children", child.process, None)
            if child.cgroup:
                self.emptied.append(child.cgroup)
            self.spares = self.spares or not child.stop[2]
            del self.children[child.process]
