"""The shim's own log on standard error. It may be a file on a disk that hangs, which must not block the shim.

So a process of its own writes into a file, and while that hangs, lines wait here. Into a pipe the shim writes by itself.
"""

from __future__ import annotations

import os
import select
import stat
import time

from impetusd.bare import deque, signal
from impetusd.linux.errors import suppress
from impetusd.linux.priority import WARNING, is_journal

NAME = b"impetusd-log"  # of a process that writes: its command is the shim's
MOST = 200  # lines that wait for a disk; after that the oldest are dropped
WITHIN = 0.05  # seconds that a line may take before nobody waits for it; measured on an idle machine: 0.001

_lines: deque[bytes] = deque(maxlen=MOST)
_writer = 0  # the pid of the process that writes, until it is reaped


def log(text: str, level: str = WARNING) -> None:
    """Write one line, or queue it. Returns within WITHIN seconds. `level`: for systemd's journal, see sd-daemon(3)."""
    stamp = level if is_journal(os.environ) else f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} "
    line = f"{stamp}shim: {text}".encode()[: select.PIPE_BUF - 1] + b"\n"
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(2).st_mode):
            _lines.append(line)
            write_waiting(WITHIN)
            return
        reader = select.poll()
        reader.register(2, select.POLLOUT)
        if reader.poll(0):  # a pipe that nobody reads must not stop us: it takes PIPE_BUF bytes at once, or is full
            os.write(2, line)


def writer() -> int:
    """The pid of the process that writes now; 0: none does."""
    return _writer


def write_waiting(patience: float = 0.0) -> None:
    """Start writing the queued lines, unless earlier ones are still being written; wait `patience` seconds for the end of it."""
    global _writer  # noqa: PLW0603 - one process has one stderr
    if not _is_free() or not _lines:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        _writer = os.fork()
        if _writer == 0:
            _write(b"".join(_lines))
        _lines.clear()
    except OSError:  # no process can be had: at the next occasion
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    end = time.monotonic() + patience
    while not _is_free() and time.monotonic() < end:
        time.sleep(0.001)


def _is_free() -> bool:
    global _writer  # noqa: PLW0603
    if _writer:
        try:
            if os.waitpid(_writer, os.WNOHANG)[0] == 0:
                return False
        except ChildProcessError:
            pass
        _writer = 0
    return True


def call_it_writer() -> None:
    """Name this process, which a shim has forked to wait for a disk, so that nobody takes it for a shim. Raises OSError."""
    with open("/proc/self/comm", "wb", buffering=0) as name:
        name.write(NAME)


def _write(text: bytes) -> None:
    """In the process that writes, called NAME. If it hangs, it must hold nothing that the shim holds: it closes all that.

    Nor may it hold the lock on the file's position, which an interpreter takes at its start (lseek): it opens the file anew.
    """
    try:
        os.closerange(3, 1 << 20)
        file = 2
        with suppress(OSError):
            call_it_writer()
            file = os.open("/proc/self/fd/2", os.O_WRONLY | os.O_APPEND)
        while text:
            text = text[os.write(file, text) :]
    finally:
        os._exit(0)
