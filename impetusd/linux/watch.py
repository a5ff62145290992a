"""Reports when something disappears from a directory, in an event loop: see `linux.inotify`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from impetusd.linux import inotify


def watch(directory: str, names: set[str], missing: Callable[[], None]) -> Callable[[], None]:
    """Call `missing` whenever one of `names` is removed from `directory`, or the directory itself is; returns a
    function that ends it.

    If the kernel has no watch left, nothing is watched; the sockets are then re-made at the next restart.
    """
    loop = asyncio.get_running_loop()
    fd = -1

    def begin() -> None:
        nonlocal fd
        fd = inotify.create()
        if fd < 0:
            return
        if inotify.add(fd, directory, inotify.IN_MOVED_FROM | inotify.IN_DELETE | inotify.ITSELF) < 0:
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
            for _, mask, name in inotify.events(fd):
                itself = itself or bool(mask & inotify.ITSELF)
                gone = gone or itself or name in names
        except OSError:
            pass
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
