"""The files of unix sockets that units listen on: one that somebody removes is restored.

A client finds a unix socket by the inode of its file; when its last name is removed, the socket can no longer be
reached, though the socket and its queue live on. So each has a second name, in a folder that only we may enter, and a
file that is missing gets its name back from there: the same socket, the same queue, the same processes. If the second
name is gone, too, or its folder is on another file system, which allows no links to this one, a new socket is bound,
and new processes are made for it; the old ones serve those who wait in the old queue, and leave.

While nobody can serve, the file is renamed, so that a client is refused at once and tries elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import stat
from collections.abc import Callable

from impetusd.files.folders import folder_of, open_folder
from impetusd.linux.watch import watch
from impetusd.supervisor.faults import BARE

FOLDER = "sockets"  # in run_dir, 0700
HIDDEN = ".{}.refused"  # the name of a socket's file while it is hidden
SECONDS_APART = 1.0  # of two repairs of one file: somebody may remove it again and again


class SocketFiles:
    """Called in the event loop's thread."""

    def __init__(self, run_dir: str, log: Callable[[str], None], lost: Callable[[str, str], None]) -> None:
        """`log` is for the daemon's log. `lost(unit, path)`: the socket can no longer be reached; another one must be
        bound."""
        self._folder = f"{run_dir}/{FOLDER}"
        self._log = log
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._units: dict[str, str] = {}  # path → unit
        self._hidden: set[str] = set()
        self._watched: dict[str, set[str]] = {}  # folder → the names in it that are ours, or were
        self._unwatch: list[Callable[[], None]] = []
        self._repaired: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self.faults = BARE

    def second_name(self, path: str) -> str:
        """The second name of the socket at `path`, if it has one."""
        import hashlib  # brings libcrypto: 0.6 MB, and few units have such a socket

        return f"{self._folder}/{hashlib.sha256(os.fsencode(path)).hexdigest()[:32]}"

    def follow(self, path: str, unit: str) -> None:
        """A socket of `unit` is bound at `path`, or was before our time. Said twice, it is done once."""
        if path in self._hidden:
            return
        self._units[path] = unit
        if not os.path.lexists(path):
            self._soon(path)
        else:
            self._link(path)
        folder, name = os.path.split(path)
        if folder in self._watched:
            self._watched[folder].add(name)
        else:
            self._watched[folder] = {name}
            self._unwatch.append(watch(folder, self._watched[folder], functools.partial(self._missing, folder)))

    def forget(self, path: str) -> None:
        """Nobody listens there any more."""
        self.show(path)
        if self._units.pop(path, None) is not None:
            self._remove(path)

    def hide(self, path: str, unit: str) -> bool:
        """Hide the socket of `unit` at `path` until it is to be shown. False if it was hidden or missing already."""
        self._units[path] = unit
        self._hidden.add(path)
        with contextlib.suppress(OSError), folder_of(path) as (folder, name):
            if stat.S_ISSOCK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.rename(name, HIDDEN.format(name), src_dir_fd=folder, dst_dir_fd=folder)
                return True
        return False

    def show(self, path: str) -> None:
        """Make it visible again. A file that somebody has put there meanwhile stays."""
        if path not in self._hidden:
            return
        self._hidden.remove(path)
        with contextlib.suppress(OSError), folder_of(path) as (folder, name):
            if not os.path.lexists(path):
                os.rename(HIDDEN.format(name), name, src_dir_fd=folder, dst_dir_fd=folder)
        self.follow(path, self._units[path])

    def close(self) -> None:
        """Stop watching, and remove the second names: an older version that takes over refuses a file with two
        names."""
        for path in list(self._units):
            self.forget(path)
        for end in self._unwatch:
            end()
        self._unwatch.clear()
        self._watched.clear()
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)

    def _remove(self, path: str) -> None:
        timer = self._timers.pop(path, None)
        if timer is not None:
            timer.cancel()
        with contextlib.suppress(OSError):
            os.unlink(self.second_name(path))

    def _link(self, path: str) -> None:
        """Give it a second name. In silence where that cannot be: it takes effect only when somebody removes the file."""
        second = self.second_name(path)
        with contextlib.suppress(OSError):
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            with folder_of(path) as (folder, name):
                there = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if os.path.lexists(second):
                    if os.path.samestat(os.lstat(second), there):
                        return
                    os.unlink(second)
                if stat.S_ISSOCK(there.st_mode) and there.st_nlink == 1:
                    os.link(name, second, src_dir_fd=folder, follow_symlinks=False)
            if not stat.S_ISSOCK(os.lstat(second).st_mode):  # somebody has put something else there meanwhile
                os.unlink(second)

    def _missing(self, folder: str) -> None:
        self.faults.attempt(f"sockets in {folder}", "checking them", self._look, folder)

    def _look(self, folder: str) -> None:
        with contextlib.suppress(OSError):
            os.close(open_folder(folder, make=0o755))  # run now: it must be watched again
        for path in self._units.keys() - self._hidden:
            if os.path.dirname(path) == folder:
                if os.path.lexists(path):
                    self._compare(path)
                else:
                    self._soon(path)

    def _compare(self, path: str) -> None:
        """Report a file that somebody has put in the place of the socket; it is not ours to remove."""
        with contextlib.suppress(OSError):  # there is no second name, or the file has gone just now
            if not os.path.samestat(os.lstat(path), os.lstat(self.second_name(path))):
                what = f"its socket {path} was replaced by another file"
                self._log(f"{self._units[path]}: {what}; remove that file to restore the socket")

    def _soon(self, path: str) -> None:
        if path not in self._timers:
            due = self._repaired.get(path, 0.0) + SECONDS_APART
            source, stage = self._units[path], f"restoring its socket {path}"
            self._timers[path] = self._loop.call_at(due, self.faults.attempt, source, stage, self._repair, path)

    def _repair(self, path: str) -> None:
        self._timers.pop(path, None)
        unit = self._units.get(path)
        if unit is None or path in self._hidden:
            return
        if os.path.lexists(path):
            self._compare(path)
            return
        self._repaired[path] = self._loop.time()
        try:
            with folder_of(path, make=0o755) as (folder, name):
                os.link(self.second_name(path), name, dst_dir_fd=folder, follow_symlinks=False)
        except OSError:
            self._log(f"{unit}: its socket {path} was deleted; created a new one and starting new processes for it")
            self._remove(path)
            self._lost(unit, path)
        else:
            self._log(f"{unit}: its socket {path} was deleted; restored it with its queue")
