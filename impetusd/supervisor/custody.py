"""When the shim is killed, this process becomes the next one: it has copies of what the shim held.

That is an exec, so the pid, the descriptors and the instance lock stay: at no moment could another daemon be started. What
the shim knew it finds in the table in run_dir (`shim.table`, `shim.orphans`); the processes were reparented by then, and
are held by pidfd. Then it starts a supervisor, which comes up as after any death of one.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence

ORPHANED = "orphaned"  # the shim's mode: see `shim.main`
DEAD_WITHIN = 5.0  # seconds from the end of the channel, which comes first, to the shim's own


def succeed(shim: int, command: Sequence[str], tell: Callable[[str], None]) -> None:
    """Become the next shim. `shim` is a pidfd of the one that has hung up. Returns only if that cannot be."""
    poll = select.poll()
    poll.register(shim, select.POLLIN)
    if not command or not poll.poll(DEAD_WITHIN * 1000):
        return  # it lives, and has hung up on us
    tell("the shim was killed: taking its place")
    try:
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd > 2 and fd != shim:
                try:
                    os.set_inheritable(fd, True)
                except OSError:
                    continue  # of the listing itself
        os.execv(command[0], [*command, ORPHANED])  # noqa: S606  # no shell is wanted
    except OSError as error:
        tell(f"executing {command[0]} failed: {error.strerror}")
