"""Finding the descriptors that a killed shim had kept, by device and inode.

They are among those that were passed on to this process, and in the survivors themselves, whose pipes and sockets they
are. A survivor may be hostile, and put another file at a number between any two of our steps. So nothing is opened that
it can replace: a copy is taken of what it has (pidfd_getfd(2)), and looked at; only then is it used. Its link in /proc is
read first, which asks no file system: a look at a file on a hung one would hang as well.
"""

from __future__ import annotations

import fcntl
import os
import stat

from impetusd.linux import getfd, proc
from impetusd.linux.errors import suppress, unless_blind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from impetusd.shim.child import Child


def sift(given: Iterable[int], wanted: Iterable[list[int]]) -> list[int]:
    """Close those of `given`, descriptors of this process, that are none of `wanted` (see `table.ident`); returns the others."""
    files = {(device, inode) for device, inode, _ in wanted}
    kept = []
    for fd in given:
        there = os.fstat(fd)
        if (there.st_dev, there.st_ino) in files:
            kept.append(fd)
        else:
            os.close(fd)
    return kept


class Search:
    """`found`: name → descriptor. `barred`: the pids of survivors out of which we may take nothing."""

    def __init__(self, kept: dict[str, list[int]]) -> None:
        """`kept`: name → its `table.ident`."""
        self._kept = kept
        self._wanted: dict[tuple[int, int], list[str]] = {}
        for name, (device, inode, _) in kept.items():
            self._wanted.setdefault((device, inode), []).append(name)
        self._links = {f"{kind}:[{inode}]" for _, inode in self._wanted for kind in ("pipe", "socket")}
        self.found: dict[str, int] = {}
        self.barred: list[int] = []

    def among(self, given: Iterable[int]) -> None:
        """Look through descriptors of this process, and close them."""
        for fd in given:  # one by one: there may be hardly a number left
            self._take(fd)
            os.close(fd)

    def within(self, survivors: Iterable[Child]) -> None:
        """Look through those of other processes, each held by its pidfd."""
        for child in survivors:
            if len(self.found) == len(self._kept):
                return
            for number, link in _links(child.pid):
                if link in self._links:
                    self._copy(child, number)

    def _copy(self, child: Child, number: int) -> None:
        try:
            fd = getfd.by_pidfd(child.pidfd, number)
        except PermissionError:
            # Yama wants an ancestor or CAP_SYS_PTRACE. What runs as ourselves has no rights that we have not.
            fd = _opened(child.pid, number) if proc.is_our_equal(child.pid) else -1
            if fd < 0:
                if child.pid not in self.barred:
                    self.barred.append(child.pid)
                return
        except OSError as error:
            unless_blind(error)
            return
        try:
            if os.readlink(f"/proc/self/fd/{fd}") in self._links:  # it is still what it was
                self._take(fd)
        finally:
            os.close(fd)

    def _take(self, fd: int) -> None:
        """Take a copy for each name that it is wanted for."""
        there, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
        if flags & os.O_PATH:
            return
        for name in self._wanted.get((there.st_dev, there.st_ino), ()):
            mode = self._kept[name][2]
            if name in self.found:
                continue
            try:
                if stat.S_ISFIFO(there.st_mode):
                    self.found[name] = _reopened(fd, mode)
                elif flags & os.O_ACCMODE == mode:
                    self.found[name] = os.dup(fd)
            except OSError:  # it is another user's pipe, or no descriptor is left: it is reported as lost
                continue


def _reopened(fd: int, mode: int) -> int:
    """The pipe that our descriptor `fd` is an end of, opened anew: either end leads to both."""
    # One that is opened to be written waits for a reader: it has one for as long as it takes.
    reader = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if mode == os.O_RDONLY:
        return reader
    try:
        return os.open(f"/proc/self/fd/{fd}", mode | os.O_CLOEXEC)
    finally:
        os.close(reader)


def _links(pid: int) -> Iterator[tuple[int, str]]:
    folder = f"/proc/{pid}/fd"
    with suppress(OSError):
        for number in os.listdir(folder):
            with suppress(OSError):
                yield int(number), os.readlink(f"{folder}/{number}")


def _opened(pid: int, number: int) -> int:
    """A pipe's end by its path; -1 for what cannot be opened so, as a socket."""
    try:
        return os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        unless_blind(error)
        return -1
