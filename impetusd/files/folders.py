"""Files in folders that somebody else may write to: a program's own user, say, where its logs are.

Root writes there, and the folder's owner can replace its contents: a link to another file, a second name of
one, a link in the place of the folder. So folders are opened step by step, files relative to them, and links made by
another user are not followed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from impetusd.files.vetted import MOST_LINKS, parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def open_folder(path: str, make: int | None = None) -> int:
    """A descriptor (O_PATH) of the folder at the absolute `path`; where it is missing it is made, with the mode `make`.

    Raises OSError, ELOOP for a link that neither root nor this user has made.
    """
    return _walk(path, make)[0]


def _walk(path: str, make: int | None) -> tuple[int, bool]:
    """The same, and whether nobody else can put anything in the place of what is on the way."""
    links, alone = 0, True
    todo = parts(path)
    at, fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), -1
    try:
        while todo:
            name = todo.pop()
            fd = _step(name, at, make if not todo or make is None else 0o755)
            there = os.fstat(fd)
            if stat.S_ISLNK(there.st_mode):
                target = os.readlink("", dir_fd=fd)
                os.close(fd)
                fd = -1
                links += 1
                if not _trusted(there.st_uid) or links > MOST_LINKS:
                    raise OSError(
                        errno.ELOOP, f"{name} in its path is a symbolic link owned by user {there.st_uid}", path
                    )
                todo += parts(target)
                if not target.startswith("/"):
                    continue
                fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            elif not stat.S_ISDIR(there.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            else:
                alone = alone and _trusted(there.st_uid) and there.st_mode & (0o022 | stat.S_ISVTX) in _OURS
            os.close(at)
            at, fd = fd, -1
    except BaseException:
        for each in (at, fd):
            if each >= 0:
                os.close(each)
        raise
    return at, alone


# The bit of a folder's mode that keeps others from renaming files that are not theirs.
_OURS = {0, *(bits | stat.S_ISVTX for bits in (0, 0o020, 0o002, 0o022))}


def _step(name: str, at: int, make: int | None) -> int:
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=at)
    except FileNotFoundError:
        if make is None:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, make, dir_fd=at)
    return os.open(name, flags, dir_fd=at)


def _trusted(uid: int) -> bool:
    return uid in {0, os.geteuid()}


@contextlib.contextmanager
def folder_of(path: str, make: int | None = None) -> Iterator[tuple[int, str]]:
    """The folder that the file at `path` is in, as a descriptor, and the file's name in it. Raises OSError."""
    folder, name = os.path.split(path)
    fd = open_folder(folder, make)
    try:
        yield fd, name
    finally:
        os.close(fd)


@contextlib.contextmanager
def address_of(path: str, make: int | None = None) -> Iterator[str]:
    """The name to use for the unix socket at `path`: `path` itself if nobody else can alter it, else one by its folder.

    This is the only bind(2) relative to a descriptor, and `ss` shows the name that was bound. Raises OSError.
    """
    folder, name = os.path.split(path)
    fd, alone = _walk(folder, make)
    try:
        yield path if alone else f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def is_shared(folder: int) -> bool:
    """Whether somebody besides root and us may put files into it."""
    there = os.fstat(folder)
    return not _trusted(there.st_uid) or bool(there.st_mode & 0o022)


def open_file(path: str, flags: int, mode: int = 0o640, make: int | None = None) -> int:
    """As os.open, of a file that is really at `path`. Raises OSError.

    If others may create files in the folder, a file with a second name is refused: it may be one of ours elsewhere.
    """
    with folder_of(path, make) as (folder, name):
        try:
            fd = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed there", path) from None
            raise
        try:
            there = os.fstat(fd)
            if stat.S_ISREG(there.st_mode) and there.st_nlink > 1 and is_shared(folder):
                text = "it has a second hard link, which another user may have created; remove one"
                raise OSError(errno.EMLINK, text, path)
        except BaseException:
            os.close(fd)
            raise
    return fd


def followed(path: str) -> str:
    """Where the file at `path` is: follows a link that root or this user has made where nobody else can make one."""
    for _ in range(MOST_LINKS):
        with contextlib.suppress(FileNotFoundError), folder_of(path) as (folder, name):
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(there.st_mode) and _trusted(there.st_uid) and not is_shared(folder):
                path = os.path.join(os.path.dirname(path), os.readlink(name, dir_fd=folder))
                continue
        break
    return path


def refusal(path: str) -> str:
    """Why `open_file` would refuse what is at `path` now, without opening it; "" if it would not, or nothing is there."""
    try:
        with folder_of(followed(path)) as (folder, name):
            there = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(there.st_mode):
                return f"it is a symbolic link owned by user {there.st_uid}, which is not followed there"
            if stat.S_ISDIR(there.st_mode):
                return "it is a folder"
            if stat.S_ISREG(there.st_mode) and there.st_nlink > 1 and is_shared(folder):
                return "it has a second hard link, which another user may have created"
    except (FileNotFoundError, PermissionError):  # it may be created, or we cannot judge it
        pass
    except OSError as error:
        return error.strerror or str(error)
    return ""


def unlink_socket(path: str) -> None:
    """Remove a unix socket, and nothing that is not a socket. Raises OSError."""
    with folder_of(path) as (folder, name):
        if not stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            raise FileExistsError(errno.EEXIST, "a file that is not a socket is in the way; remove it", path)
        os.unlink(name, dir_fd=folder)


def notify_folders(run_dir: str, state_dir: str) -> list[str]:
    """The folders of notify sockets: for users who can reach run_dir, and, if root makes it, for all others."""
    folders = [f"{run_dir}/notify"]
    with contextlib.suppress(OSError):
        there = os.stat(state_dir)
        folders.append(f"/run/impetusd-{there.st_dev:x}-{there.st_ino:x}")
    return folders


def remove_sockets(folder: str) -> None:
    """Remove a folder with the sockets and links in it; with anything else it stays. Raises OSError."""
    fd = open_folder(folder)
    try:
        for name in os.listdir(f"/proc/self/fd/{fd}"):
            mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISSOCK(mode) or stat.S_ISLNK(mode):
                os.unlink(name, dir_fd=fd)
    finally:
        os.close(fd)
    with folder_of(folder) as (parent, name):
        os.rmdir(name, dir_fd=parent)
