"""A file that people edit, changed by a command: all of it or nothing, by one command at a time, and as it was but for that.

The new text is written beside the file that a link may lead to, gets its mode, owner and access list, and takes its name. Who
edits holds the lock (flock) of the file, and of the one that takes its place, until the end of the change.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time

from impetusd.files.folders import folder_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

PATIENCE = 120.0  # seconds for the command before: it may wait for a unit to come up
_LOOK_AGAIN = 0.05
_ACL = "system.posix_acl_access"


class Busy(Exception):
    """Another command holds the file."""


class Rewriting:
    """A context that locks the file at the absolute `path` against other users of this lock. Raises OSError, Busy.

    `data`: its content; None if there is no such file, which `replace` then makes, with its folder.
    """

    def __init__(self, path: str, most: int, tick: Callable[[], None] | None = None) -> None:
        self._named = path
        self._most = most
        self._tick = tick
        self._fds: list[int] = []
        self.path = path  # behind links
        self.data: bytes | None = None
        self.mode = 0o644

    def __enter__(self) -> Self:
        deadline = time.monotonic() + PATIENCE
        try:
            while not self._locked(deadline):
                self._close()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def _locked(self, deadline: float) -> bool:
        """Whether the lock is on the file that has the name now."""
        self.path = os.path.realpath(self._named)
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            self.data = None
            return True
        self._fds.append(fd)
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", self.path)
        self._lock(fd, deadline)
        try:
            now = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if (now.st_dev, now.st_ino) != (there.st_dev, there.st_ino):
            return False
        self.mode = stat.S_IMODE(there.st_mode)
        self.data = self._read(fd)
        return True

    def _lock(self, fd: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy from None
                if self._tick:
                    self._tick()
                time.sleep(_LOOK_AGAIN)
            else:
                return

    def _read(self, fd: int) -> bytes:
        data = b""
        while len(data) <= self._most and (more := os.pread(fd, self._most + 1 - len(data), len(data))):
            data += more
        if len(data) > self._most:
            raise OSError(errno.EFBIG, f"it is larger than {self._most} bytes", self.path)
        return data

    def replace(self, data: bytes, mode: int | None = None) -> None:
        """Write this to the file. `mode`: of a new one, less the umask. Raises OSError; FileExistsError if one was made
        meanwhile."""
        with folder_of(self.path, make=0o755) as (folder, name):
            aside = f".{name}.{os.urandom(4).hex()}.new"
            mode = (
                mode if mode is not None and self.data is None else 0o600
            )  # nobody else opens it before it is as it was
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
            self._fds.append(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if self.data is not None:
                    self._as_before(fd)
                written = 0
                while written < len(data):
                    written += os.write(fd, data[written:])
                os.fsync(fd)
                if self.data is None:
                    os.link(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
                    os.unlink(aside, dir_fd=folder)
                else:
                    os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(aside, dir_fd=folder)
                raise
            opened = os.open(f"/proc/self/fd/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)
        self.data = data

    def _as_before(self, fd: int) -> None:
        """Owner, access list and mode of the file that is replaced. Raises OSError."""
        there = os.stat(self.path, follow_symlinks=False)
        if there.st_nlink > 1:
            raise OSError(errno.EMLINK, "it has a second hard link, which would keep the old contents", self.path)
        own = os.fstat(fd)
        if (own.st_uid, own.st_gid) != (there.st_uid, there.st_gid):
            os.fchown(fd, there.st_uid, there.st_gid)
        with contextlib.suppress(OSError):
            os.setxattr(fd, _ACL, os.getxattr(self.path, _ACL))
        os.fchmod(fd, stat.S_IMODE(there.st_mode))

    def remove(self) -> None:
        """Take away a file that this has made. Raises OSError."""
        with folder_of(self.path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def is_still(self, data: bytes) -> bool:
        """Whether the file still has this content."""
        try:
            with open(self.path, "rb") as file:
                return file.read(self._most + 1) == data
        except OSError:
            return False
