"""What follows ends with its reader: `logs -f | head -1`, or a connection of ssh that is gone, with nothing more to print."""

from __future__ import annotations

import select


def expect(fd: int = 1) -> None:
    """Raise BrokenPipeError, as a write would, if nobody can read any more what is written to the pipe or socket `fd`."""
    poll = select.poll()
    poll.register(fd, 0)  # POLLERR and POLLHUP come unasked; a file never has them, nor a terminal that is there
    if poll.poll(0):
        raise BrokenPipeError
