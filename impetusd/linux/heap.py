"""Configure how the C library keeps memory freed by Python: mallopt(3)."""

from __future__ import annotations

from impetusd.linux import libc

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of malloc.h
LARGE = 1 << 17  # bytes


def return_large_blocks() -> None:
    """Have each block of LARGE bytes go back to the kernel when it is freed, and threads share one heap.

    Otherwise glibc keeps them after the first one, up to 64 MB, for the next: a supervisor that once answered for 500 units
    was 0.6 MB larger for good. A C library without these settings (musl) is left alone.
    """
    try:
        mallopt = libc.function("mallopt")
    except AttributeError:
        return
    for setting, value in ((M_MMAP_THRESHOLD, LARGE), (M_TRIM_THRESHOLD, LARGE), (M_ARENA_MAX, 1)):
        mallopt(setting, value)
