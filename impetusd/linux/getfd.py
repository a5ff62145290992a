"""pidfd_getfd(2), Linux 5.6: a copy of another process's descriptor. Needs what ptrace(2) needs.

Used in the shim: the standard library only.
"""

from __future__ import annotations

import os

from impetusd.linux import libc

SYS_PIDFD_GETFD = 438

_syscall = libc.function("syscall")


def by_pidfd(pidfd: int, number: int) -> int:
    """A copy of descriptor `number` of that process. Raises OSError."""
    fd = _syscall(SYS_PIDFD_GETFD, pidfd, number, 0)
    if fd < 0:
        raise libc.error()
    return fd


def of(pid: int, number: int) -> int:
    """The same by its pid, which may be another process's by now: look at what the copy is. Raises OSError."""
    pidfd = os.pidfd_open(pid)
    try:
        return by_pidfd(pidfd, number)
    finally:
        os.close(pidfd)
