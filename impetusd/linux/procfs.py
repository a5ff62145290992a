"""The one reader of /proc: of a process, its state, children and rights; of the host, its processes and its boot.

That a process is gone is an answer. Without a descriptor or memory left to look with, these functions raise OSError
instead of guessing. Files that only one part reads are read there: a PSS, limits, open files, a command line.
"""

from __future__ import annotations

import os

from impetusd.linux.errors import unless_blind


def pids() -> list[int]:
    """Every process of the host."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def fields(who: int | str, most: int = -1) -> list[bytes]:
    """/proc/PID/stat from the state on, which is field 3 of proc(5); [] when there is no such process.

    `who` is a pid or `self/task/TID`. `most`: where to stop splitting, for speed.
    """
    try:
        fd = os.open(f"/proc/{who}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError as error:
        unless_blind(error)
        return []
    return text[text.rindex(b")") + 2 :].split(None, most)  # the name may hold blanks and brackets


def lines(pid: int, name: str) -> list[bytes]:
    """A file of a process by its lines; [] when there is no such process."""
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read(65536).splitlines()
    except OSError as error:
        unless_blind(error)
        return []


def children(pid: int) -> list[int]:
    """The children of `pid`, whichever of its threads forked them; none with a kernel without CONFIG_PROC_CHILDREN.

    By the kernel's lists, which may leave some out while others end.
    """
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError as error:
        unless_blind(error)
        return []
    return [int(child) for task in tasks for line in lines(pid, f"task/{task}/children") for child in line.split()]


def rights(pid: int) -> bytes:
    """The user ids that `pid` has, as /proc shows them; b"" when there is no such process."""
    return next((line for line in lines(pid, "status") if line.startswith(b"Uid:")), b"")


def boot_id() -> str:
    """The kernel's name for this boot. Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
