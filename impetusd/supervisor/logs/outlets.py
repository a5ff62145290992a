"""The files of one thread of the log writer, and which pipes go to each.

A file is made when something comes for it: most programs print nothing on one of their streams, and many on neither.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from impetusd.supervisor.logs.lines import stamp
from impetusd.supervisor.logs.logfile import LogFile
from impetusd.supervisor.logs.stream import log_file

if TYPE_CHECKING:
    from impetusd.supervisor.logs.logaccess import Rights
    from impetusd.supervisor.logs.logpipe import Pipe
    from impetusd.supervisor.logs.logthread import Shared


class Outlets:
    """Used by that thread alone. The daemon's own log is open in each."""

    def __init__(self, shared: Shared, own: str) -> None:
        self._shared = shared
        self._own = log_file(own)
        self._own.rights = shared.rights
        self._files: dict[str, LogFile] = {}  # by path, those for which something has come
        self._users: dict[str, tuple[Pipe, ...]] = {}  # by path, nearly always one; the last sets the file's options
        self.reopening: list[tuple[list[LogFile], Callable[[int], None], int]] = []  # what `settle` is to settle

    def line(self, text: str, at: float) -> None:
        """Write a line into the daemon's own log."""
        self._own.write(f"{stamp(at)} {text}\n".encode("utf-8", "backslashreplace"))

    def attach(self, pipe: Pipe, path: str) -> None:
        """What comes from the pipe goes to that file."""
        pipe.path = path
        self._users[path] = (*(each for each in self._users.get(path, ()) if each is not pipe), pipe)
        if path in self._files:
            self._files[path].options = pipe.options
        self._retune(path)

    def detach(self, pipe: Pipe) -> None:
        """And no longer; a file that no pipe goes to is closed."""
        path = pipe.path
        users = tuple(each for each in self._users[path] if each is not pipe)
        if users:
            self._users[path] = users
            self._retune(path)
            return
        del self._users[path]
        if path in self._files:
            self._files.pop(path).close()

    def file_of(self, pipe: Pipe) -> LogFile:
        """The file that the pipe goes to."""
        file = self._files.get(pipe.path)
        if file is None:
            file = self._files[pipe.path] = log_file(pipe.path, self._shared.losses.of(pipe.path))
            file.rights = self._shared.rights
            file.options = self._users[pipe.path][-1].options
        return file

    def has_alone(self, pipe: Pipe) -> bool:
        """Whether no other pipe goes to its file."""
        return len(self._users[pipe.path]) == 1

    def _retune(self, path: str) -> None:
        """Lines of several pipes must not mix: then, and where something stands before each, whole ones are written."""
        users = self._users[path]
        for pipe in users:
            pipe.by_lines = len(users) > 1 or pipe.options.by_lines

    def give(self, rights: Rights, folder: str) -> None:
        """Set these rights on each file, and let its readers enter `folder`, if given."""
        for text in rights.folder_given(folder) if folder else ():
            self._shared.line(text)
        for file in (self._own, *self._files.values()):
            for text in file.give(rights):
                self._shared.line(text)

    def reopen(self, answer: Callable[[int], None]) -> None:
        """Open every file anew, each at the end of a line; `answer` then learns how many they were."""
        now = time.monotonic()
        files = [file for file in (self._own, *self._files.values()) if file.fd >= 0]
        for file in files:
            with contextlib.suppress(OSError):  # the next write reports it
                file.reopen(now)
        self.reopening.append((files, answer, len(files)))

    def settle(self) -> None:
        """Open those whose line has ended since, or has not for too long."""
        now = time.monotonic()
        for entry in tuple(self.reopening):
            files, answer, count = entry
            for file in files:
                with contextlib.suppress(OSError):
                    file.settle(now)
            if all(file.due_since is None for file in files):
                self.reopening.remove(entry)
                answer(count)

    def flush(self, paths: list[str], answer: Callable[[list[str]], None]) -> None:
        """Empty files; `answer` learns in one sentence each what could not be."""
        problems = []
        for path in paths:
            try:
                (self._own if path == self._own.path else self._files.get(path) or log_file(path)).empty()
            except OSError as error:
                problems.append(f"cannot empty {path}: {error.strerror}")
        answer(problems)

    def close(self) -> None:
        """Let go of the files."""
        for file in (self._own, *self._files.values()):
            file.close()
