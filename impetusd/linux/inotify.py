"""inotify(7): what changes in a folder is reported, so that nothing has to look for it."""

from __future__ import annotations

import os
import struct

from impetusd.linux import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

IN_CLOSE_WRITE, IN_MOVED_FROM, IN_MOVED_TO, IN_DELETE = 0x8, 0x40, 0x80, 0x200
IN_DELETE_SELF, IN_MOVE_SELF, IN_Q_OVERFLOW, IN_EXCL_UNLINK = 0x400, 0x800, 0x4000, 0x4000000
IN_CLOEXEC, IN_NONBLOCK = 0o2000000, 0o4000
ITSELF = IN_DELETE_SELF | IN_MOVE_SELF  # the folder: its watch goes with it
# For a file that others may write to. Not IN_MODIFY: a writer closes the file as well, and we, who keep ours open
# until another has its name, are not woken by our own lines.
MASK = IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | ITSELF | IN_EXCL_UNLINK
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name

_init, _add, _remove = map(libc.function, ("inotify_init1", "inotify_add_watch", "inotify_rm_watch"))


def create() -> int:
    """A descriptor that is readable when something is reported; -1 where the kernel has none left to give."""
    return _init(IN_CLOEXEC | IN_NONBLOCK)


def add(fd: int, folder: str, mask: int) -> int:
    """Request reports of `folder` by `mask`. Returns the watch; -1 if the kernel has none left."""
    return _add(fd, os.fsencode(folder), mask)


def events(fd: int) -> Iterator[tuple[int, int, str]]:
    """(watch, mask, name) of what was reported. Raises OSError; BlockingIOError when nothing was."""
    data = os.read(fd, 65536)
    while data:
        watch, mask, _, length = _EVENT.unpack_from(data)
        name = os.fsdecode(data[_EVENT.size : _EVENT.size + length].rstrip(b"\0"))
        data = data[_EVENT.size + length :]
        yield watch, mask, name


class Inotify:
    """One folder at a time. `fd` is readable when something has changed in it; -1 where the kernel has none left to give."""

    __slots__ = ("_watch", "fd")

    def __init__(self) -> None:
        self.fd = create()
        self._watch = -1

    @property
    def on(self) -> bool:
        """Whether changes are reported: the folder is watched and has not moved."""
        return self._watch >= 0

    def add(self, folder: str) -> None:
        """Watch `folder`, as it is now: one of its name that was watched before may have been removed."""
        if self.fd < 0:
            return
        before, self._watch = self._watch, add(self.fd, folder, MASK)
        if before not in {-1, self._watch}:
            _remove(self.fd, before)

    def changed(self, name: str) -> tuple[bool, bool]:
        """Whether the name may have been removed or replaced, and whether somebody has written to the file that has it.

        Reports on the former file do not count.
        """
        other = written = False
        try:
            for watch, mask, each in events(self.fd):
                own, itself, lost = each == name, bool(mask & ITSELF), bool(mask & IN_Q_OVERFLOW)
                if watch != self._watch and not lost:
                    continue  # of the folder before this one
                if itself:
                    _remove(self.fd, watch)
                    self._watch = -1
                other = other or own or itself or lost
                if own and mask & (IN_CLOSE_WRITE | IN_MOVED_TO):
                    written = bool(mask & IN_CLOSE_WRITE)
        except BlockingIOError:
            pass
        return other, written
