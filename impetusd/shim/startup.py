"""Set up a process as the shim: its limits, the inherited descriptors and the instance lock."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import time

from impetusd.linux import proc
from impetusd.linux.errors import suppress
from impetusd.shim import leftovers, orphans, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from impetusd.shim.table import Found

LOOKS = 5  # tries to take the instance lock, 10 ms apart
FLOOR = -900  # our own oom_score_adj, where we may set it: children go first


def measured() -> dict[str, Any]:
    """What children get, whatever we give ourselves: our own oom_score_adj and limit of descriptors, before `prepare`."""
    return {"oom_score": spawn.oom_score(), "nofile": resource.getrlimit(resource.RLIMIT_NOFILE)}


def prepare(keep: set[int]) -> None:
    """Make this process fit to hold others: subreaper, many descriptors, last in line for the OOM killer.

    Descriptors other than those in `keep` are closed: whatever the caller's shell had open.
    """
    while (lowest := os.open("/dev/null", os.O_RDWR)) < 3:  # a caller without stdin, stdout or stderr
        os.set_inheritable(lowest, True)
    spawn.prctl(spawn.PR_SET_CHILD_SUBREAPER, 1)
    with suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(min(FLOOR, spawn.oom_score())))
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        os.set_inheritable(fd, False)
        low = fd + 1
    os.closerange(low, 1 << 30)
    gc.collect()
    gc.freeze()  # a fork copies fewer pages


def passed_on(*, everything: bool) -> list[int]:
    """The descriptors that were passed on: `everything` that is open, of a supervisor that is now this process, or systemd's store."""
    count, pid = os.environ.pop("LISTEN_FDS", "0"), os.environ.pop("LISTEN_PID", "")
    if everything:
        return [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and _is_open(fd)]
    return list(range(3, 3 + int(count))) if pid == str(os.getpid()) else []


def _is_open(fd: int) -> bool:
    """The listing of the descriptors had one of its own."""
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def lock_of(state_dir: str, given: list[int]) -> int:
    """The state directory, opened: of its copies in `given` the one that has the lock already, or else any; or a new one.

    There may be others: what a thread of the supervisor had open when that was executed as the shim.
    """
    there = os.stat(state_dir)
    copies = [fd for fd in given if (found := os.fstat(fd)).st_ino == there.st_ino and found.st_dev == there.st_dev]
    if not copies:
        return os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    lock = next(filter(_locks, copies), copies[0])
    given.remove(lock)
    return lock


def _locks(fd: int) -> bool:
    """Lock the folder, unless another open file has the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def take(lock: int) -> bool:
    """Take the instance lock. One that only looks whether an impetusd runs holds it for a moment: that is waited for."""
    for _ in range(LOOKS):
        if _locks(lock):
            return True
        time.sleep(0.01)
    return False


def refusal(found: Found, strays: list[proc.Member], conf: str) -> str:
    """Why nothing may be started: what a killed shim has left cannot be taken over as it was, or is not ours. "" if it may.

    Of a table that is whole, strays are what was started in the instant in which the shim was killed. Those that are older
    than its last line show that it is not whole.
    """
    if found.other is not None and proc.lives(found.other["shim"]):
        return f"{found.fault}, which is running; give each instance its own run_dir. Nothing was started"
    why = found.fault or "its table is missing"
    if found.saved is not None:
        strays, why = orphans.overlooked(found, strays), "its table does not list them"
    return leftovers.refusal(strays, why, conf) if strays else ""
