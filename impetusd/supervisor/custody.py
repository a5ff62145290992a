"""When the shim is killed, this process becomes the next shim: it has copies of the shim's descriptors.

That is an exec, so the pid, the descriptors and the instance lock stay: at no moment could another daemon be started. What
the shim knew it finds in the table in run_dir (`shim.table`, `shim.orphans`); the processes were reparented by then, and
are held by pidfd. Then it starts a supervisor, which comes up as after any death of one.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from impetusd.linux import procfs
from impetusd.shim import tableline
from impetusd.supervisor.logs.lines import stamp

ORPHANED = "orphaned"  # the shim's mode: see `shim.main`
DEAD_WITHIN = 5.0  # seconds from the end of the channel, which comes first, to the shim's own
WRITTEN_WITHIN = 0.05  # seconds
LOOKS, APART = 5, 0.02  # a thread that waits for a disk at each of so many looks, so many seconds apart, hangs


def hand_down(run_dir: str, blobs: Mapping[str, str]) -> None:
    """Add `blobs` to the table of the shim that was killed, unless its disk hangs."""

    def write() -> None:
        with contextlib.suppress(OSError):
            tableline.add(run_dir, {"blobs": blobs})

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(WRITTEN_WITHIN)


def become_shim(shim: int, command: Sequence[str], log: Callable[[str], None]) -> None:
    """Become the next shim. `shim` is a pidfd of the one that has hung up. Returns only if that cannot be."""
    poll = select.poll()
    poll.register(shim, select.POLLIN)
    if not command or not poll.poll(DEAD_WITHIN * 1000):
        return  # it lives, and has hung up on us
    log("the shim was killed: replacing it")
    try:
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd != shim:
                try:
                    os.set_inheritable(fd, True)
                except OSError:
                    continue  # of the listing itself
        argv = [*command, ORPHANED]
        if _hangs():  # exec would wait for the thread: the next shim gets another pid, and we leave a corpse
            os.posix_spawn(argv[0], argv, os.environ)
            os.closerange(3, 1 << 20)  # which its corpse is not to hold
            os._exit(0)
        os.execv(argv[0], argv)  # noqa: S606  # no shell is wanted
    except OSError as error:
        log(f"executing {command[0]} failed: {error.strerror}")


def log(text: str) -> None:
    """Write a line to stderr. Where that is a file, its disk may hang: in a thread then, and into the file opened anew."""
    line = f"{stamp(time.time())} supervisor: {text}\n".encode()

    def write() -> None:
        with contextlib.suppress(OSError):
            os.write(os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC), line)

    if stat.S_ISREG(os.fstat(2).st_mode):
        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(WRITTEN_WITHIN)
    else:
        os.write(2, line)


def _hangs() -> bool:
    """Whether a thread of this process is in the kernel, and does not come back."""
    found = set(os.listdir("/proc/self/task"))
    for look in range(LOOKS):
        if look:
            time.sleep(APART)
        found = {tid for tid in found if _state(tid) == b"D"}
        if not found:
            return False
    return True


def _state(tid: str) -> bytes:
    try:
        return b"".join(procfs.fields(f"self/task/{tid}")[:1])
    except OSError:
        return b""
