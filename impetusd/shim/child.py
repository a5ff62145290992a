"""What the shim knows of one process that the supervisor asked for; as JSON, too, for the code that takes over."""

from __future__ import annotations

import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a successor is told as it is; the fork socket is told apart, for it may be a template's or an unanswered fork's.
PLAIN = (
    *("process", "invocation", "cgroup", "pid", "started", "session", "pidfd", "status", "ended", "acked", "left"),
    *("doomed", "killed", "ours", "stop", "template", "told"),
)


STOP = (15, 10.0, True)  # what one is given of whom the supervisor has not told how it is to be stopped


class Child:
    """One process that the supervisor asked for, from its start until its tree is empty and its exit written down."""

    __slots__ = (*PLAIN, "asked", "exit_told", "failed", "forks", "seen")

    def __init__(self, process: int, invocation: str, cgroup: str) -> None:
        self.process = process
        self.invocation = invocation
        self.cgroup = cgroup
        self.pid = 0  # 0 once it is reaped, or when it could not be started
        self.started = 0  # with the pid, this is one process for ever: see `tree.Member`
        self.session = 0  # its pid for good: the kernel keeps the number while the session has a member
        self.pidfd = -1
        self.status = -1  # the start's status descriptor, until it has told
        self.failed: tuple[str, str] | None = None  # the stage at which the start failed, and why
        self.forks: socket.socket | None = None  # a template's fork socket
        self.asked = 0  # when a template was asked to fork it: see `tree.now`
        self.ended: dict[str, Any] | None = None
        self.exit_told = False  # `exited` was emitted, by this process
        self.acked = False
        self.left = False  # descendants live on after it
        self.doomed = False  # whoever is found of its tree is killed
        self.told = False  # a signal was sent to its descendants
        self.killed = False  # SIGKILL was sent to it on command
        self.template = False  # it forks others, and ends when the shim does
        self.ours = True  # a child in the kernel's books; not, if the shim that started it was killed
        self.stop: list[Any] = [
            *STOP
        ]  # how it is stopped without a supervisor: signal, seconds until SIGKILL, treekill
        self.seen = 0.0  # when (monotonic) the end of one that is not was seen

    def row(self) -> dict[str, Any]:
        """What a new supervisor is told of it."""
        return {"process": self.process, "pid": self.pid, "ended": self.ended, "left": self.left, "acked": self.acked}

    def dump(self) -> dict[str, Any]:
        """All of it but the fork socket, descriptors by their numbers."""
        return {**{name: getattr(self, name) for name in PLAIN}, "failed": self.failed}

    @classmethod
    def load(cls, saved: dict[str, Any]) -> Child:
        """What `dump` told. Raises KeyError or TypeError for what is none of that."""
        child = cls(saved["process"], saved["invocation"], "")
        for name in PLAIN:
            setattr(child, name, saved.get(name, child.stop) if name == "stop" else saved[name])
        child.failed = tuple(saved["failed"]) if saved["failed"] else None
        return child
