"""fork(2) straight into a cgroup.

A process that is moved into a cgroup after its fork waits for an RCU grace period: 9.5 ms measured (Linux 6.18), and the
moves of several wait for each other. clone3(2) with CLONE_INTO_CGROUP (Linux 5.7) has the child born there, in the time
of a fork. Python has no call for it, so this one is made by number, between the hooks that Python's C API has for
whoever clones the process by other means. That is sound in a process with one thread, as the shim is: nothing of
another thread's is left locked.
"""

from __future__ import annotations

import ctypes
import os
import signal

SYS_CLONE3 = 435  # the same on every architecture but alpha
CLONE_INTO_CGROUP = 0x200000000

_python = ctypes.PyDLL(None, use_errno=True)  # PyDLL keeps the interpreter's lock over the call, as fork must
_python.syscall.restype = ctypes.c_long


class _Arguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


def fork_into(cgroup: str) -> int:
    """As os.fork(), with the child in the cgroup at this path. Raises OSError; ENOSYS where the kernel has no clone3."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        arguments = _Arguments(flags=CLONE_INTO_CGROUP, exit_signal=signal.SIGCHLD, cgroup=directory)
        _python.PyOS_BeforeFork()
        pid: int = _python.syscall(SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
        if pid == 0:
            _python.PyOS_AfterFork_Child()
            return 0
        number = ctypes.get_errno()
        _python.PyOS_AfterFork_Parent()
        if pid < 0:
            raise OSError(number, os.strerror(number), cgroup)
        return pid
    finally:
        os.close(directory)
