"""fork(2) for a child that soon executes a program, straight into a cgroup if there is one.

A process that is moved into a cgroup after its fork waits for an RCU grace period: 9.5 ms measured (Linux 6.18), and the
moves of several wait for each other. clone3(2) with CLONE_INTO_CGROUP (Linux 5.7) creates the child there, in the time
of a fork. Python has no call for it, so it is made by number. Python's fork hooks are left out: they repair the locks
and threads of an interpreter that goes on, and this child has one thread and executes a program after a few calls. They
would cost it 45 page faults, 0.3 ms.
"""

from __future__ import annotations

import os

from impetusd.bare import signal
from impetusd.linux import libc

SYS_CLONE3 = 435  # the same on every architecture but alpha
CLONE_INTO_CGROUP = 0x200000000

_syscall = libc.function("syscall", locked=True)  # as fork must be


class _Arguments(libc.Structure):
    _fields_ = tuple(
        (name, libc.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
            *("set_tid", "set_tid_size", "cgroup"),
        )
    )


def fork(cgroup: str = "") -> int:
    """As fork(2), without Python's hooks; the child is in the cgroup at this path, or in ours.

    Raises OSError; ENOSYS if the kernel has no clone3.
    """
    if not cgroup:
        return _clone3(_Arguments(exit_signal=signal.SIGCHLD), "")
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    pid = -1
    try:
        pid = _clone3(_Arguments(flags=CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=directory), cgroup)
    finally:
        try:
            os.close(directory)
        except Exception:
            if pid < 0:  # else there is a child, and its pid must not be lost
                raise
    return pid


def _clone3(arguments: _Arguments, cgroup: str) -> int:
    pid = _syscall(SYS_CLONE3, libc.byref(arguments), libc.sizeof(arguments))
    if pid < 0:
        raise libc.error(*([cgroup] if cgroup else []))
    return pid
