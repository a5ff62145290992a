"""What a process used over its life, read while it is still a zombie.

waitid(2) of the C library, and so os.waitid, has no room for it; the system call has a fifth argument. With WNOWAIT the
process stays to be waited for.
"""

from __future__ import annotations

import ctypes
import os

SYS_WAITID = {"x86_64": 247, "aarch64": 95, "riscv64": 95}.get(os.uname().machine)
SIGINFO_BYTES = 128

_libc = ctypes.CDLL(None, use_errno=True)


class _Rusage(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_long) for name in ("user_s", "user_us", "system_s", "system_us", "max_rss_kib")),
        ("rest", ctypes.c_long * 13),
    ]


def of_zombie(pidfd: int) -> dict[str, float]:
    """{"cpu_s", "max_rss" in bytes} of a process that has ended and the children that it waited for; {} where unknown."""
    if SYS_WAITID is None:
        return {}
    used, info = _Rusage(), ctypes.create_string_buffer(SIGINFO_BYTES)
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    if _libc.syscall(SYS_WAITID, os.P_PIDFD, pidfd, info, options, ctypes.byref(used)) != 0:
        return {}
    cpu = used.user_s + used.system_s + (used.user_us + used.system_us) / 1e6
    return {"cpu_s": round(cpu, 3), "max_rss": used.max_rss_kib << 10}
