"""What the shim knows of one process that the supervisor asked for; as JSON, too, for the code that takes over."""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a successor is told as it is: its name in the message, which older code reads as well, and here. The fork socket is told
# apart, for it may be a template's or an unanswered fork's.
PLAIN = {
    **{
        name: name
        for name in ("process", "invocation", "cgroup", "pid", "started", "session", "pidfd", "status", "ended")
    },
    **{name: name for name in ("acked", "left", "gate", "killed", "stop", "template")},
    "doomed": "kill_tree",
    "ours": "is_child",
    "told": "tree_signalled",
}


# How a child is stopped without a supervisor: signal, seconds until SIGKILL, treekill. For one whose spec does not say.
STOP = (15, 10.0, True)


class Child:
    """One process that the supervisor asked for, from its start until its tree is empty and its exit written down."""

    __slots__ = (*PLAIN.values(), "asked", "exit_told", "failed", "forks", "known", "seen")

    def __init__(self, process: int, invocation: str, cgroup: str) -> None:
        self.process = process
        self.invocation = invocation
        self.cgroup = cgroup
        self.pid = 0  # 0 once it is reaped, or when it could not be started
        self.started = 0  # with the pid, this is one process for ever: see `proc.Member`
        self.session = 0  # its pid for good: the kernel keeps the number while the session has a member
        self.pidfd = -1
        self.status = -1  # the start's status descriptor, until it has told
        self.failed: dict[str, Any] | None = None  # how the start failed: see `failures.failed`
        self.gate = -1  # of a forked worker that waits until its pid is written down: our end of the pipe that it reads
        self.forks: socket.socket | None = None  # a template's fork socket
        self.asked = 0  # when a template was asked to fork it: see `proc.now`
        self.ended: dict[str, Any] | None = None
        self.exit_told = False  # `exited` was emitted, by this process
        self.acked = False
        self.known: dict[int, int] = {}  # descendants when it was last signalled: pid and start time
        self.left = False  # descendants live on after it
        self.kill_tree = False  # whoever is found of its tree is killed
        self.tree_signalled = False  # a signal was sent to its descendants
        self.killed = False  # SIGKILL was sent to it on command
        self.template = False  # it forks others, and ends when the shim does
        self.is_child = True  # a child in the kernel's books; not, if the shim that started it was killed
        self.stop: list[Any] = [*STOP]
        self.seen = 0.0  # when (monotonic) the end of one that is not was seen

    def row(self) -> dict[str, Any]:
        """What a new supervisor is told of it."""
        return {"process": self.process, "pid": self.pid, "ended": self.ended, "left": self.left, "acked": self.acked}

    def dump(self) -> dict[str, Any]:
        """All of it but the fork socket, descriptors by their numbers."""
        return {**{key: getattr(self, name) for key, name in PLAIN.items()}, **self._dump_failed()}

    @classmethod
    def load(cls, saved: dict[str, Any]) -> Child:
        """What `dump` told, by this version or another: what it does not tell is as at first, and what it tells besides
        means nothing. Raises KeyError or TypeError for what is none of that.
        """
        child = cls(0, "", "")
        for key, name in PLAIN.items():
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
        """As the first version reads it, and the cause beside it."""
        failed = self.failed
        return (
            {"failed": [failed["stage"], failed["error"]], "cause": failed.get("cause")} if failed else {"failed": None}
        )


def _is_like(value: Any, first: Any, *, optional: bool) -> bool:
    """Whether it is of the kind that it was at first, or the record of an end (`optional`)."""
    if optional:
        return value is None or isinstance(value, dict)
    if isinstance(first, list):
        kinds = [type(each) for each in value] if isinstance(value, list) else []
        return kinds in ([int, float, bool], [int, int, bool])
    return type(value) is type(first)
