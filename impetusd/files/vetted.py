"""Files that say what to run: they are used only if nobody else could have written them.

The path to a file is walked name by name, and each folder, link and file is judged once opened: what is judged is what
is read, even if names change meanwhile. A FIFO, a device or an endless file is refused without blocking.
"""

from __future__ import annotations

import errno
import functools
import os
import stat

from impetusd.core.trust import Fault, Trust, file_fault, folder_fault, link_fault, second_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import stat_result

MOST_BYTES = 8 << 20  # in all files of one configuration together
MOST_ENV_FILE = 1 << 20  # bytes; the kernel takes 128 KiB for one variable
MOST_LINKS = 40  # on one way, as in the kernel
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read(path: str, most: int, trust: Trust | None) -> tuple[bytes, Fault | None]:
    """The content of the regular file at the absolute `path`, and why not to trust it. Without `trust` nothing is
    judged.

    Raises OSError; EFBIG if it has more than `most` bytes, EACCES if a link of the user in `trust`, whose rights count
    from there on, leads to a file that this user may not read.
    """
    fd, fault = _open(path, trust)
    try:
        data = b""
        while len(data) <= most and (more := os.read(fd, most + 1 - len(data))):
            data += more
    finally:
        os.close(fd)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most} bytes", path)
    return data, fault


def examine(path: str, trust: Trust) -> Fault | None:
    """Why not to trust what is at the absolute `path`, a folder's own content included. Raises OSError."""
    walk = _Walk(path, trust)
    os.close(walk.fd)
    return walk.fault


def _open(path: str, trust: Trust | None) -> tuple[int, Fault | None]:
    if trust is None:
        fd, fault = os.open(path, _READ), None
    else:
        walk = _Walk(path, trust)
        fault = walk.fault
        try:
            _refuse_others(walk.fd, path)  # before it is opened: a device might act on that
            fd = os.open(f"/proc/self/fd/{walk.fd}", _READ)
        finally:
            os.close(walk.fd)
    try:
        _refuse_others(fd, path)
    except OSError:
        os.close(fd)
        raise
    return fd, fault


def _refuse_others(fd: int, path: str) -> None:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", path)


class _Walk:
    """The way to `path`. `fd` (O_PATH) is what is at its end, `fault` the first that is wrong with it."""

    def __init__(self, path: str, trust: Trust) -> None:
        self.fault: Fault | None = None
        self._path = path
        self._trust = trust
        self._bent = False  # by a link of the user's own: from here on all must be open to that user, too
        self._shared = False  # others than root may put something into the folder `fd`
        self._open_to_all = False  # and so may everybody
        self.fd = os.open("/", _LOOK)
        try:
            self._go(path)
        except BaseException:
            os.close(self.fd)
            raise

    def _go(self, path: str) -> None:
        links, where, todo = 0, "/", parts(path)
        there = self._enter(self.fd, where)
        while todo:
            name = todo.pop()
            self._permitted(self.fd, there, 1)
            fd = os.open(name, _LOOK, dir_fd=self.fd)
            named = os.path.normpath(os.path.join(where, name))
            found = os.fstat(fd)
            if stat.S_ISLNK(found.st_mode):
                try:
                    target = os.readlink("", dir_fd=fd)
                finally:
                    os.close(fd)
                links += 1
                if links > MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                self._is_link(named, found)
                todo += parts(target)
                if not target.startswith("/"):
                    continue
                fd, named = os.open("/", _LOOK), "/"
                found = os.fstat(fd)
            os.close(self.fd)
            self.fd, where, there = fd, named, found
            if stat.S_ISDIR(found.st_mode):
                self._enter(fd, where)
            elif todo:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            else:
                self._is_file(found)
                self._permitted(fd, found, 4)

    def _enter(self, fd: int, where: str) -> stat_result:
        there = _owned(os.fstat(fd))
        self._note(folder_fault(self._path, where, there, self._trust))
        if not there.st_mode & stat.S_ISVTX:
            self._note(self._listed(fd, there, f"to the folder {where}", where))
        self._shared = there.st_uid != 0 or bool(there.st_mode & 0o022)
        self._open_to_all = bool(there.st_mode & 0o002)
        return there

    def _is_link(self, link: str, there: stat_result) -> None:
        there = _owned(there)
        self._note(link_fault(self._path, link, there, self._trust))
        self._bent = self._bent or there.st_uid != 0
        self._has_one_name(there)

    def _is_file(self, there: stat_result) -> None:
        there = _owned(there)
        self._note(file_fault(self._path, there, self._trust))
        self._note(self._listed(self.fd, there, "it", self._path))
        self._has_one_name(there)

    def _listed(self, fd: int, there: stat_result, what: str, path: str) -> Fault | None:
        """Who may write by an access list; the mode shows only that somebody might, in the bits of the group."""
        if not there.st_mode & stat.S_IWGRP:
            return None
        from impetusd.core.access import writers

        uids, gids = writers(_acl(fd))
        strangers = [f"user {uid}" for uid in uids - {0, self._trust.uid}]
        strangers += [f"the group {gid}" for gid in gids - {0, self._trust.uid, *self._trust.gids}]
        return Fault(f"{strangers[0]} can write {what}", f"setfacl -b {path}") if strangers else None

    def _has_one_name(self, there: stat_result) -> None:
        """A second name in another user's folder is equivalent to that user's link."""
        if there.st_nlink > 1 and self._shared:
            self._bent = True
            if self._open_to_all or not self._trust.uid:
                self._note(second_name(self._path))

    def _note(self, fault: Fault | None) -> None:
        self.fault = self.fault or fault

    def _permitted(self, fd: int, there: stat_result, want: int) -> None:
        """The kernel only knows what root may. Raises PermissionError."""
        if not self._bent or not self._trust.uid:
            return
        from impetusd.core.access import Inode, permits

        inode = Inode("", there.st_uid, there.st_gid, there.st_mode, _acl(fd))
        if not permits(inode, want, self._trust.uid, self._trust.gids):
            told = f"a link owned by user {self._trust.uid} points to a file that this user cannot read"
            raise PermissionError(errno.EACCES, told, self._path)


def parts(path: str) -> list[str]:
    """The names that a path consists of, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _acl(fd: int) -> bytes:
    """The access list of what an O_PATH descriptor is of; b"" where it has none."""
    try:
        return os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access")
    except OSError:
        return b""


def _owned(there: stat_result) -> stat_result:
    """Treats root as the owner of files without an owner in our user namespace: no user of this namespace may write
    them."""
    return os.stat_result((*there[:4], 0, *there[5:10])) if there.st_uid == _outside() else there


@functools.cache
def _outside() -> int:
    """The number that stands for all users outside of our user namespace; -1 where it is a user's, or nobody is outside."""
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            uid = int(file.read())
        with open("/proc/self/uid_map", encoding="ascii") as file:
            ranges = [tuple(map(int, line.split())) for line in file]
    except OSError:
        return -1
    return -1 if any(first <= uid < first + count for first, _, count in ranges) else uid
