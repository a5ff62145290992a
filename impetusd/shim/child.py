"""The shim's record of one process, and its JSON form."""

from __future__ import annotations

import os

from impetusd import bare
from impetusd.bare import socket
from impetusd.linux.errors import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What is saved as it is: key in the JSON, which older code reads as well, and name here. Not the fork socket, which may be a
# template's or that of a fork without an answer yet: see `handover.dump`.
SAVED = {
    **{
        name: name
        for name in ("process", "invocation", "cgroup", "pid", "started", "session", "pidfd", "status", "ended")
    },
    **{name: name for name in ("acked", "left", "gate", "killed", "limits", "stop", "template")},
    "doomed": "kill_tree",
    "ours": "is_child",
    "told": "tree_signalled",
}

# How a child is stopped without a supervisor: signal, seconds until SIGKILL, treekill. For one whose spec does not say.
STOP: list[Any] = [15, 10.0, True]
NOBODY: dict[
    int, int
] = {}  # what is known of a tree before it is looked for; shared, as STOP is: replaced, never changed


class Child:
    """One process that the supervisor asked for, from its start until its exit is acknowledged and nothing of its tree lives."""

    __slots__ = (*SAVED.values(), "asked", "exit_reported", "failed", "forks", "known", "seen")

    def __init__(self, process: int, invocation: str, cgroup: str) -> None:
        self.process = process
        self.invocation = invocation
        self.cgroup = cgroup
        self.pid = 0  # 0 once it is reaped, or when it could not be started
        self.started = 0  # its start time, which tells it from a later process with its pid: see `proc.Member`
        self.session = 0  # its pid for good: the kernel keeps the number while the session has a member
        self.pidfd = -1
        self.status = -1  # the status descriptor of `spawn.start`, until it is read
        self.failed: dict[str, Any] | None = None  # how the start failed: see `failures.failed`
        self.gate = -1  # our end of the pipe that a forked worker reads: it waits there until its pid is written down
        self.forks: socket.socket | None = None  # a template's fork socket
        self.asked = 0  # when a template was asked to fork it: see `proc.now`
        self.ended: dict[str, Any] | None = None
        self.exit_reported = False  # `exited` was sent, by this shim process
        self.acked = False
        self.known = NOBODY  # descendants as they were last found: pid and start time
        self.left = False  # it has ended, and descendants of it live
        self.kill_tree = False  # whatever is found of its tree is killed
        self.tree_signalled = False  # a signal was sent to its descendants
        self.killed = False  # SIGKILL was sent to it on command
        self.limits = ""  # JSON: by file, why those of its cgroup are not in force; "" if it has none
        self.template = False  # it forks others, and ends when the shim does
        self.is_child = True  # the kernel has it as a child of ours; not, if a shim before this one started it
        self.stop = STOP
        self.seen = 0.0  # when (monotonic) one that is no child of ours was first seen to have ended

    def close_gate(self, word: bytes = b"") -> None:
        """Close its gate, if it has one. A worker that still waits there ends, unless it is given a `word`."""
        if self.gate >= 0:
            gate, self.gate = self.gate, -1
            with suppress(OSError):  # it has ended
                os.write(gate, word)
            os.close(gate)

    def row(self) -> dict[str, Any]:
        """Its row in the `hello` of a new supervisor."""
        row = {"process": self.process, "pid": self.pid, "ended": self.ended, "left": self.left, "acked": self.acked}
        return {**row, **self.limited()}

    def limited(self) -> dict[str, Any]:
        """Whether its limits are in force, for the supervisor; nothing if it has none."""
        return {"limits": bare.loads(self.limits)} if self.limits else {}

    def dump(self) -> dict[str, Any]:
        """All that is saved of it; descriptors by their numbers."""
        return {**{key: getattr(self, name) for key, name in SAVED.items()}, **self._dump_failed()}

    @classmethod
    def load(cls, saved: dict[str, Any]) -> Child:
        """The child of what `dump` of this version or another returned: a missing key means the first value, an unknown one
        nothing. Raises KeyError or TypeError for anything else.
        """
        child = cls(0, "", "")
        for key, name in SAVED.items():
            first = getattr(child, name)
            value = saved[key] if key == "process" else saved.get(key, first)
            if not _is_like(value, first, optional=key == "ended"):
                raise TypeError(f"{key} of a child is {value!r}")
            setattr(child, name, value)
        failed, cause = saved.get("failed"), saved.get("cause")
        if failed is not None and [type(each) for each in failed] != [str, str]:
            raise TypeError(f"failed of a child is {failed!r}")
        if failed:
            child.failed = {"stage": failed[0], "error": failed[1], **({"cause": cause} if cause else {})}
        return child

    def _dump_failed(self) -> dict[str, Any]:
        """In the form that the first version reads, with the cause beside it."""
        failed = self.failed
        return (
            {"failed": [failed["stage"], failed["error"]], "cause": failed.get("cause")} if failed else {"failed": None}
        )


def _is_like(value: Any, first: Any, *, optional: bool) -> bool:
    """Whether `value` is of the kind of the `first` one, or is None or a dict (`optional`)."""
    if optional:
        return value is None or isinstance(value, dict)
    if isinstance(first, list):
        kinds = [type(each) for each in value] if isinstance(value, list) else []
        return kinds in ([int, float, bool], [int, int, bool])
    return type(value) is type(first)
