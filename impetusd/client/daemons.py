"""Find an instance's shim and supervisor in /proc when they do not respond and run_dir may be missing.

A process counts when its command is that of a shim or a supervisor for this state_dir, and it runs as the owner of the
state_dir: no other user can impersonate one.
"""

from __future__ import annotations

import os
import select
import signal
import time

from impetusd.client import instance
from impetusd.client.instance import SHIM, SUPERVISOR
from impetusd.linux import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from impetusd.core.config.location import Paths

END_WITHIN = 2.0  # seconds that a supervisor without a shim has to take its place or to end, and then to end by SIGKILL
LOG_WRITER = "impetusd-log"  # the name of a process that a shim has forked to write into its log: `shim.log.NAME`
_LOOK_AGAIN = 0.02


class Process:
    """A process of the instance's own. `pidfd` refers to it and to no later one with its pid."""

    __slots__ = ("kind", "parent", "pid", "pidfd")

    def __init__(self, pid: int, pidfd: int, kind: str, parent: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.kind = kind
        self.parent = parent

    def has_ended(self, within: float = 0.0) -> bool:
        """True if it exits within this many seconds."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(within * 1000))

    def signal(self, number: int) -> None:
        """Raises OSError: not permitted."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass


class Processes:
    """Those of an instance as they are now, as a context: it closes their pidfds."""

    def __init__(self, paths: Paths) -> None:
        self._state_dir = paths.state_dir
        self.found: list[Process] = []

    def __enter__(self) -> list[Process]:
        try:
            owner = os.stat(self._state_dir).st_uid
        except OSError:
            return self.found
        for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
            kind = self._kind(pid, owner)
            if not kind:
                continue
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            if self._kind(pid, owner) == kind:  # it has not become another one meanwhile
                self.found.append(Process(pid, pidfd, kind, _parent(pid)))
            else:
                os.close(pidfd)
        # What a shim has forked, for its log or for a program, looks like it for a moment.
        shims = {each.pid for each in self.found if each.kind == SHIM}
        forks = [each for each in self.found if each.kind == SHIM and each.parent in shims]
        for fork in forks:
            os.close(fork.pidfd)
            self.found.remove(fork)
        return self.found

    def __exit__(self, *_: object) -> None:
        for each in self.found:
            os.close(each.pidfd)

    def _kind(self, pid: int, owner: int) -> str:
        """SHIM or SUPERVISOR; "" for every other process, and for one that is only waiting to be reaped."""
        try:
            if os.stat(f"/proc/{pid}").st_uid not in {owner, 0}:
                return ""
            if "python" not in os.path.basename(os.readlink(f"/proc/{pid}/exe")):
                return ""  # anybody chooses the arguments of a setuid program
            with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
        except OSError:
            return ""
        found = instance.process(pid)
        if found is None or name == LOG_WRITER:
            return ""
        return found.kind if os.path.realpath(found.paths.state_dir) == os.path.realpath(self._state_dir) else ""


def locker(folder: str) -> int | None:
    """The pid of a process that has locked (flock) the folder; None if the kernel does not show it."""
    there = os.stat(folder)
    place = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    with open("/proc/locks", encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if "FLOCK" in words and place in words:
                return int(words[words.index(place) - 1])
    return None


def evict_stale(paths: Paths) -> bool:
    """End a supervisor whose shim is gone and that neither takes its place nor ends: stopped, or hung. True: there was one.

    Raises OSError when this user may not.
    """
    end = time.monotonic() + END_WITHIN
    while True:
        with Processes(paths) as found:
            stale = [each for each in found if each.kind == SUPERVISOR]
            if not stale or any(each.kind == SHIM for each in found):
                return False
            if time.monotonic() >= end:
                for each in stale:
                    each.signal(signal.SIGKILL)
                return all(each.has_ended(END_WITHIN) for each in stale)
            stale[0].has_ended(_LOOK_AGAIN)


def _parent(pid: int) -> int:
    try:
        return int((procfs.fields(pid, 2) or [b"", b"0"])[1])
    except OSError:
        return 0
