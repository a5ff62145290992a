"""Tells when something disappears from a directory: inotify(7), so that nothing has to look for it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable

IN_MOVED_FROM, IN_DELETE, IN_DELETE_SELF, IN_MOVE_SELF = 0x40, 0x200, 0x400, 0x800
IN_CLOEXEC, IN_NONBLOCK = 0o2000000, 0o4000
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name


def watch(directory: str, names: set[str], missing: Callable[[], None]) -> Callable[[], None]:
    """Call `missing` whenever one of `names` is removed from `directory`, or the directory itself is; returns what ends it.

    Where the kernel has no watch left to give, nothing is watched; the sockets are then re-made at the next restart.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    loop = asyncio.get_running_loop()
    fd = -1

    def begin() -> None:
        nonlocal fd
        fd = libc.inotify_init1(IN_CLOEXEC | IN_NONBLOCK)
        if fd < 0:
            return
        mask = IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
        if libc.inotify_add_watch(fd, os.fsencode(directory), mask) < 0:
            os.close(fd)
            fd = -1
        else:
            loop.add_reader(fd, readable)

    def end() -> None:
        nonlocal fd
        if fd >= 0:
            loop.remove_reader(fd)
            os.close(fd)
        fd = -1

    def readable() -> None:
        gone, itself = False, False
        try:
            data = os.read(fd, 65536)
        except OSError:
            data = b""
        while data:
            _, event, _, length = EVENT.unpack_from(data)
            name = os.fsdecode(data[EVENT.size : EVENT.size + length].rstrip(b"\0"))
            data = data[EVENT.size + length :]
            itself = itself or bool(event & (IN_DELETE_SELF | IN_MOVE_SELF))
            gone = gone or itself or name in names
        if itself:  # the watch went with the directory
            end()
        try:
            if gone:
                missing()
        finally:
            if itself:
                begin()

    begin()
    return end
