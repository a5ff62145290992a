"""Restart on change: a thread for each unit with `watch`, which has the kernel report changes of those paths.

The watching is done by watchfiles (the extra `watch`), imported only when something is to be watched: it takes 3 MB,
and for each unit two threads and 16 ms of CPU a minute.

A path that is missing is looked for, and one that became another (a directory that was deployed anew, a symlink that
was switched, a file that an editor has replaced) is noticed and watched as it is now: that is itself a change.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import glob
import os
import threading
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase

from impetusd.core.config.model import Unit
from impetusd.core.reasons import Reason, because
from impetusd.supervisor.faults import BARE, Faults
from impetusd.supervisor.threads import NoAnswer, Threads

ALWAYS = (".git", "__pycache__", "*.pyc", "node_modules", "*.swp", "*~")
STEP = 100  # milliseconds between two checks by watchfiles of what the kernel has reported
LOOK = 1000  # milliseconds between two looks at whether the paths are still the same
RETRY = 5.0  # seconds until watching that failed is tried again
LONGEST = 10  # watch_delays until changes are acted on although they have not come to rest

Identity = tuple[int, int] | None


class FileWatch:
    """Reports which units' files have changed, once changes have settled."""

    def __init__(
        self, changed_files: Callable[[Unit, Reason], None], log: Callable[[str], None], ours: Iterable[str]
    ) -> None:
        """`changed_files` gets the reason, as `changed: app/views.py`; `log` is the daemon's log; nothing in directories `ours` counts."""
        self._changed_files = changed_files
        self._log = log
        self._ours = tuple(ours)
        self._loop = asyncio.get_running_loop()
        self._watchers: dict[str, Watcher] = {}
        self._resting: dict[str, Resting] = {}
        self._again: asyncio.TimerHandle | None = None
        self.faults = BARE

    def watch(self, units: Iterable[Unit]) -> None:
        """Watch what these units want to be watched, and nothing else any more."""
        if self._again is not None:
            self._again.cancel()
        wanted = {unit.name: unit for unit in units if unit.watch and unit.enabled}
        for name in list(self._watchers):
            if self._watchers[name].unit is not wanted.get(name):
                self._watchers.pop(name).stop.set()
                self._resting.pop(name).cancel()
        for name, unit in wanted.items():
            if name not in self._watchers:
                resting = Resting(unit, self._changed_files, self.faults)
                try:
                    self._watchers[name] = Watcher(unit, self._ours, self._from_thread)
                except Exception as error:  # there can be no thread now
                    self._log(
                        f"{name}: cannot watch its files: {str(error) or type(error).__name__}; retrying every"
                        f" {RETRY:g} s"
                    )
                    again = list(wanted.values())
                    self._again = self._loop.call_later(
                        RETRY, self.faults.contain, "watched files", "watching them", self.watch, again
                    )
                    continue
                self._resting[name] = resting

    async def close(self) -> None:
        """Watch nothing more, and wait for the threads, which takes STEP: the interpreter must not end around them."""
        watchers = [watcher.thread for watcher in self._watchers.values()]
        self.watch(())
        for thread in watchers:
            with contextlib.suppress(NoAnswer):
                await Threads("file watch", 1).run(thread.join, 2.0)

    def _from_thread(self, watcher: Watcher, paths: list[str] | None, text: str) -> None:
        try:
            hear = functools.partial(self._hear, watcher, paths, text)
            self._loop.call_soon_threadsafe(self.faults.contain, watcher.unit.name, "handling changed files", hear)
        except RuntimeError:  # the loop has ended
            watcher.stop.set()

    def _hear(self, watcher: Watcher, paths: list[str] | None, text: str) -> None:
        if watcher.stop.is_set():
            return
        if text:
            self._log(f"{watcher.unit.name}: {text}")
        if paths is None:
            self._resting[watcher.unit.name].cancel()
        elif paths:
            self._resting[watcher.unit.name].add(paths)


class Resting:
    """The changes of a unit until none has come for watch_delay."""

    def __init__(self, unit: Unit, changed_files: Callable[[Unit, Reason], None], faults: Faults = BARE) -> None:
        self._unit = unit
        self._faults = faults
        self._changed_files = changed_files
        self._loop = asyncio.get_running_loop()
        self._paths: dict[str, None] = {}
        self._latest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, paths: Iterable[str]) -> None:
        """More has changed."""
        now = self._loop.time()
        if not self._paths:
            self._latest = now + LONGEST * self._unit.watch_delay
        self._paths.update(dict.fromkeys(paths))
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(
            min(now + self._unit.watch_delay, self._latest),
            self._faults.attempt,
            self._unit.name,
            "replacing it after a file change",
            self._over,
        )

    def cancel(self) -> None:
        """Act on nothing that has changed so far."""
        self._paths.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _over(self) -> None:
        paths = list(self._paths)
        if paths:
            path = shown(paths[0], self._unit.cwd)
            self._changed_files(self._unit, because("watch", path=path, more=len(paths) - 1))
            self._paths.clear()


class Watcher:
    """A unit's thread. `hear` is called in it, with this watcher, the paths that changed and messages to log.

    None instead of paths: a watched one is gone, and a healthy process is left alone until it is back.
    """

    def __init__(self, unit: Unit, ours: Iterable[str], hear: Callable[[Watcher, list[str] | None, str], None]) -> None:
        self.unit = unit
        self.stop = threading.Event()
        self._roots = tuple(map(os.path.normpath, unit.watch))
        self._ours = (*(f"{glob.escape(each)}/*" for each in ours), *map(log_glob, (unit.out_file, unit.error_file)))
        self._hear = hear
        self._told = ""
        self._seen: dict[str, Identity] | None = None  # None before the first look
        self.thread = threading.Thread(target=self._run, name=f"watch {unit.name}", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.stop.is_set():
            try:
                self._watch()
            except ImportError:
                self._say("watch needs the package watchfiles: pip install 'impetusd[watch]'")
                return
            except Exception as error:
                self._say(f"cannot watch {', '.join(self._roots)}: {error}; retrying every {RETRY:g} s")
                self.stop.wait(RETRY)

    def _say(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._hear(self, [], text)

    def _watch(self) -> None:
        """Watch the paths as they are now; returns when one of them has become another."""
        from watchfiles import Change, watch

        now = {path: identity(path) for path in self._roots}
        missing = [path for path, what in now.items() if what is None]
        if missing:
            self._say(f"cannot watch {' and '.join(missing)}, which does not exist; checking every {LOOK / 1000:g} s")
        present = [path for path, what in now.items() if what is not None]
        changes = watch(
            *present,
            watch_filter=lambda _, path: not ignored(path, self._roots, self.unit.watch_ignore, self._ours),
            step=STEP,
            debounce=2 * STEP,
            rust_timeout=LOOK,
            yield_on_timeout=True,
            stop_event=self.stop,
            raise_interrupt=False,
            ignore_permission_denied=True,
        )
        if self._seen is not None:
            came = [path for path in present if now[path] != self._seen[path]]
            self._hear(self, None if missing and not came else came, "")
        self._seen = now
        for found in changes:
            if not missing:
                self._told = ""  # it works: what comes from now on is news
            lost = [path for change, path in found if change is Change.deleted and path in now]
            now.update(dict.fromkeys(lost))  # not to be known again by its inode, which may be used anew at once
            if lost or any(identity(path) != now[path] for path in now):
                return
            if found:
                self._hear(self, sorted(path for _, path in found), "")


def identity(path: str) -> Identity:
    """The identity of `path`, following symlinks; None if it does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def ignored(path: str, roots: Iterable[str], globs: Iterable[str], ours: Iterable[str]) -> bool:
    """Whether to ignore a change of `path`: a glob matches a part of it below the watched root, or all of that.

    `ours` are globs of whole paths.
    """
    if any(fnmatchcase(path, each) for each in ours):
        return True
    root = max((each for each in roots if path == each or path.startswith(f"{each}/")), key=len, default="")
    below = path[len(root) :].strip("/")
    parts = [*below.split("/"), below]
    return any(fnmatchcase(part, pattern) for pattern in (*ALWAYS, *globs) for part in parts if part)


def log_glob(path: str) -> str:
    """Globs for a log file, those of single slots (app-0.log) and rotated ones; a unit's output does not count as a
    change."""
    base, extension = os.path.splitext(glob.escape(path))
    return f"{base}*{extension}*" if extension else path


def shown(path: str, cwd: str) -> str:
    """`path` as seen from `cwd`, if it is below."""
    return path[len(cwd) + 1 :] if path.startswith(f"{cwd}/") else path
