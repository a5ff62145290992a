"""Exit status and resource usage of a process, read while it is still a zombie.

waitid(2) of the C library, and so os.waitid, has no room for the latter; the system call has a fifth argument. With WNOWAIT
the process stays to be waited for.
"""

from __future__ import annotations

import os

from impetusd.linux import libc

SYS_WAITID = {"x86_64": 247, "aarch64": 95, "riscv64": 95}.get(os.uname().machine)
SIGINFO_BYTES = 128

_syscall = libc.function("syscall")


class _Rusage(libc.Structure):
    _fields_ = (
        *((name, libc.c_long) for name in ("user_s", "user_us", "system_s", "system_us", "max_rss_kib")),
        ("rest", libc.c_long * 13),
    )


_used, _info = _Rusage(), (libc.c_int * (SIGINFO_BYTES // 4))()  # of the shim's one thread
SI_CODE, SI_PID, SI_STATUS = 2, 4, 6  # where they are in the siginfo_t of a 64-bit Linux, counted in ints
OPTIONS = os.WEXITED | os.WNOHANG | os.WNOWAIT


def of_zombie(pidfd: int) -> tuple[int, int, dict[str, float]] | None:
    """How a child ended, as si_code and si_status, and {"cpu_s", "max_rss" in bytes} of it and the children that it waited
    for, {} where that is unknown. None if it lives. Raises OSError; ChildProcessError if it is no child of ours.
    """
    if SYS_WAITID is None:
        info = os.waitid(os.P_PIDFD, pidfd, OPTIONS)
        return None if info is None else (info.si_code, info.si_status, {})
    _info[SI_PID] = 0
    if _syscall(SYS_WAITID, os.P_PIDFD, pidfd, _info, OPTIONS, libc.byref(_used)) != 0:
        raise libc.error()
    if not _info[SI_PID]:
        return None
    cpu = _used.user_s + _used.system_s + (_used.user_us + _used.system_us) / 1e6
    return _info[SI_CODE], _info[SI_STATUS], {"cpu_s": round(cpu, 3), "max_rss": _used.max_rss_kib << 10}
