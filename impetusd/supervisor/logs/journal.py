"""Data between the pipe and the file survives the supervisor: it is in memory that the shim holds, with what to do with
it.

A process can be killed between any two instructions, so each step leaves a witness. Bytes are read from a pipe straight
into this memory: if the 16 random bytes that stood there are gone, the read took place (of fewer than 16 bytes, as many
are compared), and how many there were is noted before. Before they are written, the file and its size are noted: what
the file has grown by when a successor looks is what was written. The kernel does either call whole, or says how much of
it; so nothing is written twice and nothing is forgotten. Costs a microsecond for each 64 KiB, no system call more than
a plain read and write but for the two that ask for the sizes.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import struct
import threading
from typing import NamedTuple

from impetusd.linux import procfs

CHUNK = 65536  # bytes a read; a pipe's default capacity
FIONREAD = 0x541B  # of asm-generic/ioctls.h; for one number the module termios, with 300, need not be imported
_EMPTY, _READING, _READ, _MARKED, _MARKED_TOO = range(5)
_STATE = struct.Struct("Q")  # stored last, in one instruction
# Bytes, when (time.time()), the random bytes, the length of the pipe's name, and when once more: 0.1.0 does not write that,
# and of a chunk that it has taken an unfinished line is all that there will be.
_TAKEN = struct.Struct("Qd16sHd")
_MARK = struct.Struct("QQQQ")  # device, inode, size, bytes of the output that went elsewhere before
_OWNER = struct.Struct("QQ")  # the thread that uses it: its number, and when it was started (clock ticks since boot)
_AT_OWNER = 8
_AT_TAKEN, _AT_MARKS, _AT_NAME, _DATA = 64, 128, 256, 4096


class Pending(NamedTuple):
    """A chunk that a killed supervisor had taken from `pipe`, and how far its output had got."""

    pipe: str
    at: float
    data: bytes
    device: int
    inode: int  # 0: writing had not begun
    size: int
    before: int
    ended: bool  # its last line is written as it is: nothing follows


class Journal:
    """One chunk at a time. `fd` is the memory; give it to a successor."""

    def __init__(self, fd: int | None = None) -> None:
        """Begin with the memory of a predecessor, or with new memory."""
        self.fd = os.memfd_create("impetusd-journal") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, _DATA + CHUNK)
        self._map = mmap.mmap(self.fd, _DATA + CHUNK)
        self._view = memoryview(self._map)
        self._nonce = os.urandom(16)
        self._waiting = array.array("i", [0])
        _, at, _, _, again = _TAKEN.unpack_from(self._map, _AT_TAKEN)
        self.foreign = at != again  # an older version has used it last
        self._state = _STATE.unpack_from(self._map)[0]

    def own(self) -> None:
        """The calling thread uses it from now on."""
        tid = threading.get_native_id()
        _OWNER.pack_into(self._map, _AT_OWNER, tid, _started(tid) or 0)

    def is_in_use(self) -> bool:
        """Whether its thread lives: one of a killed supervisor, stuck in the kernel. What it writes is here."""
        tid, started = _OWNER.unpack_from(self._map, _AT_OWNER)
        return bool(tid) and _started(tid) == started

    def pending(self) -> Pending | None:
        """What the predecessor left unfinished."""
        state = _STATE.unpack_from(self._map)[0]
        if state == _EMPTY:
            return None
        count, at, nonce, length, _ = _TAKEN.unpack_from(self._map, _AT_TAKEN)
        data = bytes(self._view[_DATA : _DATA + count])
        if state == _READING and data[:16] == nonce[:count]:
            return None
        name = bytes(self._view[_AT_NAME : _AT_NAME + length]).decode()
        mark = (0, 0, 0, 0)
        if state >= _MARKED:
            mark = _MARK.unpack_from(self._map, _AT_MARKS + (state - _MARKED) * _MARK.size)
        return Pending(name, at, data, *mark, ended=self.foreign or not data)

    def take(self, fd: int, pipe: bytes, at: float, limit: int = CHUNK) -> memoryview:
        """Read what is in the pipe, `limit` bytes at most. Empty at its end; BlockingIOError when nothing is there."""
        fcntl.ioctl(fd, FIONREAD, self._waiting)
        count = min(self._waiting[0], limit) or 1
        self._view[_DATA : _DATA + 16] = self._nonce
        self._name(count, at, pipe)
        _STATE.pack_into(self._map, 0, _READING)
        try:
            got = os.readv(fd, [self._view[_DATA : _DATA + count]])
        except BaseException:
            self.done()
            raise
        if not got:
            self.done()
            return self._view[:0]
        if got != count:  # somebody else reads from it, too
            self._name(got, at, pipe)
        self._state = _READ
        _STATE.pack_into(self._map, 0, _READ)
        return self._view[_DATA : _DATA + got]

    def end(self, pipe: bytes, at: float) -> None:
        """Take nothing: what is held of the pipe's last line is all of it, and is about to be written."""
        self._name(0, at, pipe)
        self._state = _READ
        _STATE.pack_into(self._map, 0, _READ)

    def _name(self, count: int, at: float, pipe: bytes) -> None:
        self._view[_AT_NAME : _AT_NAME + len(pipe)] = pipe
        _TAKEN.pack_into(self._map, _AT_TAKEN, count, at, self._nonce, len(pipe), at)

    def mark(self, device: int, inode: int, size: int, before: int) -> None:
        """All but the first `before` bytes of the output is about to be added to a file of `size` bytes."""
        self._state = _MARKED_TOO if self._state == _MARKED else _MARKED
        _MARK.pack_into(self._map, _AT_MARKS + (self._state - _MARKED) * _MARK.size, device, inode, size, before)
        _STATE.pack_into(self._map, 0, self._state)

    def done(self) -> None:
        """The chunk is where it belongs."""
        self.claim()
        self._state = _EMPTY
        _STATE.pack_into(self._map, 0, _EMPTY)

    def claim(self) -> None:
        """No older version's chunk is in it any more."""
        if self.foreign:
            _TAKEN.pack_into(self._map, _AT_TAKEN, 0, 0.0, b"", 0, 0.0)
            self.foreign = False

    def close(self) -> None:
        """Let go of the memory."""
        self._view.release()
        self._map.close()
        os.close(self.fd)


def _started(tid: int) -> int | None:
    """When the thread was started; None if there is none with work left."""
    try:
        fields = procfs.fields(tid)
    except OSError:
        return None
    return None if not fields or fields[0] in {b"Z", b"X", b"x"} else int(fields[19])
