"""The writer: one thread that moves what children print from their pipes into their files.

It is a thread of its own because a disk can be slow, full or gone, and no decision may wait for that. The pipes belong
to the shim and outlive every restart, of the child and of the supervisor. What cannot be written is dropped and
counted; writing resumes by itself with the next line that can be written.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import queue
import select
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

CHUNK = 65536  # bytes a read; a pipe's default capacity
TURN = 16  # reads from one pipe before the others have theirs
TAIL = 8192  # bytes of stderr kept to explain an end
RETRY = 1.0  # seconds before a file that could not be opened is tried again


class _File:
    """A log file, opened when there is something to write."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        self.dropped = 0
        self.retry_at = 0.0
        self.users = 0

    def write(self, data: bytes) -> str:
        """Append. Returns '' or what the operator should be told: that writing stopped, or that it goes on."""
        if self.fd < 0:
            if time.monotonic() < self.retry_at:
                self.dropped += len(data)
                return ""
            try:
                os.makedirs(os.path.dirname(self.path), 0o750, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
                self.fd = os.open(self.path, flags, 0o640)
            except OSError as error:
                return self._failed("opening", error, data)
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.fd, view) :]
            except OSError as error:
                self.close()
                return self._failed("writing", error, view)
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            return f"writing to {self.path} goes on; {lost} bytes were dropped"
        return ""

    def _failed(self, what: str, error: OSError, data: bytes | memoryview) -> str:
        first = self.dropped == 0
        self.dropped += len(data)
        self.retry_at = time.monotonic() + RETRY
        return f"{what} {self.path} failed: {error.strerror}; what is printed is dropped meanwhile" if first else ""

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class _Pipe:
    """One pipe's read end, the file it goes to, and the last of what this run printed."""

    def __init__(self, name: str, fd: int, file: _File) -> None:
        self.name = name
        self.fd = fd
        self.file = file
        self.total = 0  # bytes read from it
        self.run = -1  # `total` at which the present run begins, as far as was known when it began
        self._tail = b""

    def took(self, data: bytes) -> None:
        """Remember the last of what this run printed."""
        before = self.total
        self.total += len(data)
        if self.run >= before:
            self._tail = data[self.run - before :][-TAIL:]
        else:
            self._tail = (self._tail + data)[-TAIL:]

    def tail(self) -> bytes:
        return self._tail if self.total > self.run else b""


class Writer:
    """Moves bytes from pipes to files. Every method may be called from any thread and returns at once.

    A pipe is named by the caller; its descriptor stays the caller's, and must stay open until `forget` has answered.
    """

    def __init__(self, path: str, soon: Callable[[Callable[[], object]], object] | None = None) -> None:
        """`path` is the daemon's own log, where this thread tells of its troubles.

        `soon` puts off waking the thread until the caller's present work is done: each wake costs it the interpreter's
        lock, half a millisecond in the middle of a restart.
        """
        self._soon = soon or (lambda call: call())
        self._woken = False
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._wake, select.EPOLLIN)
        self._pipes: dict[str, _Pipe] = {}
        self._by_fd: dict[int, _Pipe] = {}
        self._files: dict[str, _File] = {}
        self._own = _File(path)
        self._running = True
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    # What others ask of it.

    def line(self, text: str) -> None:
        """Write a line into the daemon's own log."""
        self._call(self._line, text, time.time())

    def add(self, pipe: str, fd: int, path: str) -> None:
        """Move what comes from `fd` into the file `path` from now on."""
        self._call(self._add, pipe, fd, path)

    def redirect(self, routes: dict[str, str]) -> None:
        """Send each pipe to the path given, after all that is in it now has gone where it belonged."""
        self._call(self._redirect, routes)

    def forget(self, pipe: str, done: Callable[[], object]) -> None:
        """Write what is left in the pipe, let go of it, then call `done` (in the writer's thread)."""
        self._call(self._forget, pipe, done)

    def begin_run(self, pipe: str) -> None:
        """A new process is about to write into `pipe`: its tail begins after what was read and what lies in the pipe.

        Said without the thread, for the process may print before that has had its turn. A read that is under way in
        the thread is not counted: then a bit of the run before is in the tail too, and nothing is missing.
        """
        known = self._pipes.get(pipe)
        if known is not None:
            waiting = array.array("i", [0])
            total = known.total
            fcntl.ioctl(known.fd, termios.FIONREAD, waiting)
            known.run = total + waiting[0]

    def tail(self, pipe: str, answer: Callable[[bytes], None]) -> None:
        """Call `answer` (in the writer's thread) with the last bytes of this run, all of them read."""
        self._call(self._tail, pipe, answer)

    def close(self) -> None:
        """Write everything that has been printed, then end. Blocks until that is done, 5 seconds at most."""
        self._call(self._close)
        self._rouse()  # whoever waits for the thread cannot do so soon
        self._thread.join(5.0)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        self._calls.put((function, arguments))
        if not self._woken:
            self._woken = True
            self._soon(self._rouse)

    def _rouse(self) -> None:
        self._woken = False
        os.eventfd_write(self._wake, 1)

    # The thread.

    def _run(self) -> None:
        while self._running:
            for fd, _ in self._epoll.poll():
                if fd == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
                elif (pipe := self._by_fd.get(fd)) is not None:
                    self._drain(pipe, TURN)
            while not self._calls.empty():
                function, arguments = self._calls.get()
                try:
                    function(*arguments)
                except Exception as error:  # the thread must outlive any one call
                    self._line(f"log writer: {error!r}", time.time())

    def _drain(self, pipe: _Pipe, turns: int) -> None:
        for _ in range(turns):
            try:
                data = os.read(pipe.fd, CHUNK)
            except BlockingIOError:
                return
            if not data:  # every write end is closed: never while the shim holds one
                self._epoll.unregister(pipe.fd)
                return
            told = pipe.file.write(data)
            pipe.took(data)
            if told:
                self._line(told, time.time())
            if len(data) < CHUNK:
                return

    def _line(self, text: str, at: float) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"
        stamp += time.strftime("%z", time.localtime(at))
        self._own.write(f"{stamp} {text}\n".encode("utf-8", "backslashreplace"))

    def _file(self, path: str) -> _File:
        file = self._files.setdefault(path, _File(path))
        file.users += 1
        return file

    def _release(self, file: _File) -> None:
        file.users -= 1
        if file.users == 0:
            file.close()
            del self._files[file.path]

    def _add(self, name: str, fd: int, path: str) -> None:
        os.set_blocking(fd, False)
        pipe = self._pipes[name] = self._by_fd[fd] = _Pipe(name, fd, self._file(path))
        self._epoll.register(pipe.fd, select.EPOLLIN)

    def _redirect(self, routes: dict[str, str]) -> None:
        for name in routes:
            self._empty(self._pipes[name])
        for name, path in routes.items():
            pipe = self._pipes[name]
            if pipe.file.path != path:
                self._release(pipe.file)
                pipe.file = self._file(path)

    def _empty(self, pipe: _Pipe) -> None:
        """Read all that is in the pipe now, and no more: a flood must not hold the thread."""
        self._drain(pipe, 1 << 20 // CHUNK)

    def _forget(self, name: str, done: Callable[[], object]) -> None:
        pipe = self._pipes.pop(name, None)
        if pipe is not None:
            self._empty(pipe)
            with contextlib.suppress(OSError):
                self._epoll.unregister(pipe.fd)
            del self._by_fd[pipe.fd]
            self._release(pipe.file)
        done()

    def _tail(self, name: str, answer: Callable[[bytes], None]) -> None:
        pipe = self._pipes.get(name)
        if pipe is not None:
            self._empty(pipe)
        answer(pipe.tail() if pipe is not None else b"")

    def _close(self) -> None:
        for pipe in self._pipes.values():
            self._empty(pipe)
        self._running = False
