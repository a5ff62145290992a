"""A standard stream in the place of a log file: with `impetusd run --logs stdout`, as in a container, or out_file =
stdout.

Programs' output goes to stdout, each line prefixed with its slot's name (unchanged with out_file = stdout); on stderr
the daemon's own log. A stream that takes nothing for a while costs lines, which are counted, and never the programs'
time; one that is only slow is waited for. If the supervisor dies a line may come twice, because nobody knows how much
of a pipe was read.
"""

from __future__ import annotations

import errno
import math
import os
import select
import zlib
from collections.abc import Mapping

from impetusd.supervisor.logs.logfile import LogFile
from impetusd.supervisor.logs.lost import Lost

STDOUT, STDERR = "standard output", "standard error"  # in the place of a log file's path
STREAMS = {STDOUT: 1, STDERR: 2}
NAMES = {"stdout": STDOUT, "stderr": STDERR}  # their names in out_file and error_file
STUCK = 1.0  # seconds that a stream may take nothing
COLOURS = range(31, 37)  # of ECMA-48, red to cyan


class Stream(LogFile):
    """Used by one thread, as every log file is."""

    __slots__ = ()

    def _open(self, now: float) -> None:  # noqa: ARG002  # as a file does
        self.fd = os.dup(STREAMS[self.path])
        self._regular, self._device, self._inode = False, 0, 0  # any kind of file: it is neither rotated nor truncated
        self._look_at = math.inf
        self._line_start, self.midline = 0, False

    def _send(self, data: memoryview) -> int:
        """As much as a pipe that has room takes without waiting."""
        room = select.poll()
        room.register(self.fd, select.POLLOUT)
        if not room.poll(STUCK * 1000):
            raise BlockingIOError(errno.EAGAIN, f"no data was accepted for {STUCK:g} s")
        return os.write(self.fd, data[: select.PIPE_BUF])

    def empty(self) -> None:
        """There is nothing in it to be removed."""


def log_file(path: str, lost: Lost | None = None) -> LogFile:
    """The file or stream that `path` names."""
    return Stream(path, lost) if path in STREAMS else LogFile(path, lost)


class Prefix:
    """What stands before each line. On a terminal names are padded to `width` and have colours."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.width = 0
        self._terminal = os.isatty(STREAMS[STDOUT])
        self._colour = self._terminal and "NO_COLOR" not in environ and environ.get("TERM") != "dumb"

    def of(self, name: str) -> str:
        """The prefix of a slot."""
        shown = f"{name:<{self.width if self._terminal else 0}} |"
        if self._colour:
            shown = f"\033[{COLOURS[zlib.crc32(name.encode()) % len(COLOURS)]}m{shown}\033[0m"
        return f"{shown} "
