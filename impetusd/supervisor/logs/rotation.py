"""Rotation of our own: app.log, app.log.1, app.log.2.gz, the highest number the oldest.

Renames happen in the writer's thread, compression in another one with the lowest priority: one of each a folder, so
that a disk that does not answer holds up nobody else's logs. A kill at any moment leaves each byte in a file with a
number: a compressed file gets its name only when it is complete and on the disk, and where both app.log.2 and
app.log.2.gz are found, the latter is whole and the former goes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import struct
import threading

from impetusd.files.folders import folder_of, open_file
from impetusd.linux import libc

_AT_EMPTY_PATH, _STATX_BTIME = 0x1000, 0x800
_guard = threading.Lock()  # of the two below; never held over a system call that a disk answers
_locks: dict[str, threading.Lock] = {}  # by folder: numbers change under it; held for renames, not while data is copied
_waiting: dict[str, list[str]] = {}  # by folder: the logs that its compressor, which runs, has yet to look at


def numbered(path: str) -> dict[int, list[str]]:
    """The rotated files of `path`, by number: one each, or the plain and the compressed one after a kill between the two."""
    with folder_of(path) as (folder, base):
        found = _numbered(folder, base)
    return {number: [os.path.join(os.path.dirname(path), name) for name in found[number]] for number in found}


def _numbered(folder: int, base: str) -> dict[int, list[str]]:
    pattern = re.compile(re.escape(base) + r"\.([1-9][0-9]*)(\.gz)?")
    found: dict[int, list[str]] = {}
    listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        for name in os.listdir(listed):
            match = pattern.fullmatch(name)
            if match is not None:
                found.setdefault(int(match[1]), []).append(name)
    finally:
        os.close(listed)
    return {number: sorted(found[number]) for number in sorted(found)}


def rotate(path: str, keep: int, *, compress: bool) -> None:
    """Make `path` number 1 and every other one older; those beyond `keep` are removed. OSError leaves `path` as it is."""
    with _numbers_of(path), folder_of(path) as (folder, base):
        files = _tidy(folder, base)
        keep = max(keep, 1)
        free = next(number for number in range(1, len(files) + 2) if number not in files)
        for number in sorted(files, reverse=True):
            for each in files[number]:
                if number > keep or number == keep < free:
                    os.unlink(each, dir_fd=folder)
                elif number < free:
                    _rename(folder, each, _name(base, number + 1, each))
        _rename(folder, base, f"{base}.1")
    if compress:
        compress_soon(path)


def _tidy(folder: int, base: str) -> dict[int, list[str]]:
    """Clear away what a kill left half done; gives the rotated files that remain."""
    files = _numbered(folder, base)
    for number, pair in files.items():
        if len(pair) == 2:
            os.unlink(pair[0], dir_fd=folder)
            files[number] = pair[1:]
    return files


def _rename(folder: int, old: str, new: str) -> None:
    os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)


def _numbers_of(path: str) -> threading.Lock:
    with _guard:
        return _locks.setdefault(os.path.dirname(path), threading.Lock())


def compress_soon(path: str) -> None:
    """Compress the rotated files of `path` but the first, in the folder's other thread."""
    folder = os.path.dirname(path)
    with _guard:
        if folder in _waiting:
            if path not in _waiting[folder]:
                _waiting[folder].append(path)
            return
        _waiting[folder] = [path]
        try:
            threading.Thread(target=_work, args=(folder,), name="log compressor", daemon=True).start()
        except Exception:  # there can be no thread now: the next rotation tries again
            del _waiting[folder]


def _work(folder: str) -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    while True:
        with _guard:
            if not _waiting[folder]:
                del _waiting[folder]
                return
            path = _waiting[folder].pop(0)
        # A file that cannot be compressed stays as it is and is retried at the next rotation.
        with contextlib.suppress(Exception):
            compress_all(path)


def compress_all(path: str) -> None:
    """Compress every rotated file of `path` but the first. OSError, a full disk above all, leaves the rest as it is."""
    with folder_of(path) as (folder, base):
        with _numbers_of(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{base}.gz.tmp", dir_fd=folder)
            _tidy(folder, base)
        while (name := _next_plain(path, folder, base)) is not None:
            try:
                source = open_file(os.path.join(os.path.dirname(path), name), os.O_RDONLY | os.O_NONBLOCK)
            except FileNotFoundError:  # it has another number by now
                continue
            try:
                if not stat.S_ISREG(os.fstat(source).st_mode):
                    raise OSError(errno.EINVAL, "it is not a file", name)
                _compress(path, folder, base, source)
            finally:
                os.close(source)


def _next_plain(path: str, folder: int, base: str) -> str | None:
    with _numbers_of(path):
        for number, (first, *_) in sorted(_numbered(folder, base).items(), reverse=True):
            if number > 1 and not first.endswith(".gz"):
                return first
    return None


def _compress(path: str, folder: int, base: str, source: int) -> None:
    import gzip
    import shutil  # 0.6 MB with the compressors that it brings

    temporary = f"{base}.gz.tmp"
    before = os.fstat(source)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, before.st_mode & 0o777, dir_fd=folder), "wb") as raw:
            with gzip.GzipFile("", "wb", 6, raw, before.st_mtime) as packed, open(source, "rb", closefd=False) as plain:
                shutil.copyfileobj(plain, packed, 1 << 18)
            with contextlib.suppress(PermissionError):
                os.fchown(raw.fileno(), before.st_uid, before.st_gid)
            raw.flush()
            os.fsync(raw.fileno())
            os.utime(raw.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))
        with _numbers_of(path):  # by now it may bear another number, or be gone
            for number, (first, *_) in _numbered(folder, base).items():
                if os.stat(first, dir_fd=folder, follow_symlinks=False).st_ino == before.st_ino:
                    _rename(folder, temporary, f"{base}.{number}.gz")
                    os.unlink(first, dir_fd=folder)
                    return
        os.unlink(temporary, dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise


def _name(path: str, number: int, old: str) -> str:
    return f"{path}.{number}.gz" if old.endswith(".gz") else f"{path}.{number}"


def birth(fd: int) -> float:
    """When the open file was made, in seconds of time.time(): it survives every restart. Its last change if unknown."""
    buffer = (libc.c_uint32 * 64)()
    if libc.function("statx")(fd, b"", _AT_EMPTY_PATH, _STATX_BTIME, buffer) == 0:
        (mask,) = struct.unpack_from("I", buffer)
        seconds, nanoseconds = struct.unpack_from("qI", buffer, 80)
        if mask & _STATX_BTIME:
            return float(seconds + nanoseconds / 1e9)
    return os.fstat(fd).st_mtime
