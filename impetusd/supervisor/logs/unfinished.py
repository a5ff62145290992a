"""The beginnings of lines whose ends have not come yet, in memory that the shim holds: they outlive the supervisor.

A pipe must always be emptied, because a program blocks when it is full. So the beginning of a line that is to be
written whole waits here. Each pipe that had one has a place, which is found by the pipe's inode. What is held, and
which chunk of the journal (`journal`) is accounted for by it, changes in one instruction: a kill leaves what was before
it or what is after.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time

MOST = 1 << 20  # bytes that are held for one pipe
_HEAD = struct.Struct("QQ")  # which half counts, the pipe's inode (0: the place is free)
_HALF = struct.Struct("QQd")  # area, bytes in it, the chunk
_FIRST = 1 << 16  # where the large areas begin: a multiple of every page size
# Offset and size of the areas: what replaces something goes into another. Short lines need no more than the first page.
_AREAS = ((64, 1984), (2048, 2048), (_FIRST, MOST), (_FIRST + MOST, MOST))
_PLACE = _FIRST + 2 * MOST  # bytes of address space for one pipe; what is not used costs nothing
_BLOCK = 32  # places in one mapping: each mapping takes a descriptor
_MUCH = 1 << 16  # bytes that are given back to the system as soon as they are not needed any more


class Beginning:
    """What is held for one pipe: used by one thread. `chunk`: the time at which the last chunk was read that is in it."""

    __slots__ = ("_area", "_at", "_half", "_map", "_size", "chunk")

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._map = memory
        self._at = at
        self._half = _HEAD.unpack_from(memory, at)[0]
        self._size: int
        self._area, self._size, self.chunk = _HALF.unpack_from(memory, at + _HEAD.size + self._half * _HALF.size)

    def __len__(self) -> int:
        return self._size

    def data(self) -> bytes:
        """All of it."""
        at = self._at + _AREAS[self._area][0]
        return self._map[at : at + self._size]

    def add(self, data: bytes | memoryview, chunk: float) -> None:
        """Hold `data` as well, behind what is there."""
        at, room = _AREAS[self._area]
        size = self._size + len(data)
        if size > room:
            self.replace(self.data() + bytes(data), chunk)
        else:
            at += self._at
            self._map[at + self._size : at + size] = bytes(data)
            self._put(self._area, size, chunk)

    def replace(self, data: bytes, chunk: float) -> None:
        """Hold `data` instead."""
        old, much = self._area, self._size >= _MUCH
        area = old
        if data:
            area = next(n for n, (_, room) in enumerate(_AREAS) if n != old and len(data) <= room)
            at = self._at + _AREAS[area][0]
            self._map[at : at + len(data)] = data
        self._put(area, len(data), chunk)
        if much:
            at, room = _AREAS[old]
            self._map.madvise(mmap.MADV_REMOVE, self._at + at, room)

    def _put(self, area: int, size: int, chunk: float) -> None:
        half = 1 - self._half
        _HALF.pack_into(self._map, self._at + _HEAD.size + half * _HALF.size, area, size, chunk)
        struct.pack_into("Q", self._map, self._at, half)
        self._half, self._area, self._size, self.chunk = half, area, size, chunk


class Unfinished:
    """What is held for all pipes. `fd` is the memory; give it to a successor. Its methods may be called from any
    thread."""

    def __init__(self, fd: int | None = None, patience: float = 0.0) -> None:
        """Begin with the memory of a predecessor, or with new memory.

        Places of the predecessor's that no pipe has come for within `patience` seconds are free.
        """
        self.fd = os.memfd_create("impetusd-lines") if fd is None else fd
        self._lock = threading.Lock()
        self._blocks = [self._map(number) for number in range(os.fstat(self.fd).st_size // (_PLACE * _BLOCK))]
        places = range(0, len(self._blocks) * _BLOCK * _PLACE, _PLACE)
        self._inodes = [_HEAD.unpack(os.pread(self.fd, _HEAD.size, at))[1] for at in places]
        self._left = set(self._inodes) - {0}  # those that no pipe has come for
        self._left_until = time.monotonic() + patience

    def find(self, inode: int) -> Beginning | None:
        """What a predecessor held for this pipe."""
        with self._lock:
            if inode not in self._left:
                return None
            self._left.discard(inode)
            return Beginning(*self._place(self._inodes.index(inode)))

    def make(self, inode: int) -> Beginning:
        """A place for this pipe, which has none. Raises OSError."""
        with self._lock:
            if self._left and time.monotonic() >= self._left_until:
                self._inodes = [0 if each in self._left else each for each in self._inodes]
                self._left = set()
            if 0 not in self._inodes:
                os.ftruncate(self.fd, (len(self._blocks) + 1) * _PLACE * _BLOCK)
                self._blocks.append(self._map(len(self._blocks)))
                self._inodes += [0] * _BLOCK
            number = self._inodes.index(0)
            memory, at = self._place(number)
            beginning = Beginning(memory, at)
            beginning.replace(b"", 0.0)
            _HEAD.pack_into(memory, at, _HEAD.unpack_from(memory, at)[0], inode)
            self._inodes[number] = inode
            return beginning

    def free(self, inode: int) -> None:
        """The pipe is gone."""
        with self._lock:
            number = self._inodes.index(inode)
            memory, at = self._place(number)
            beginning = Beginning(memory, at)
            beginning.replace(b"", 0.0)
            _HEAD.pack_into(memory, at, _HEAD.unpack_from(memory, at)[0], 0)
            self._inodes[number] = 0

    def forget(self) -> None:
        """What a predecessor held is not true any more."""
        for inode in tuple(self._left):
            self._left.discard(inode)
            self.free(inode)

    def close(self) -> None:
        """Let go of the memory."""
        for block in self._blocks:
            block.close()
        os.close(self.fd)

    def _place(self, number: int) -> tuple[mmap.mmap, int]:
        return self._blocks[number // _BLOCK], number % _BLOCK * _PLACE

    def _map(self, number: int) -> mmap.mmap:
        return mmap.mmap(self.fd, _PLACE * _BLOCK, offset=number * _PLACE * _BLOCK)
