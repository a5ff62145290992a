"""leak_share.py MB CHILDREN: shares MB of memory, which all have touched, with so many children; prints their pids."""

from __future__ import annotations

import mmap
import os
import sys

import behave

size = int(sys.argv[1]) * 1024 * 1024
area = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(0, size, mmap.PAGESIZE):
    area[page] = 1
children = []
for _ in range(int(sys.argv[2])):
    told, tell = os.pipe()
    pid = os.fork()
    if not pid:
        seen = sum(area[page] for page in range(0, size, mmap.PAGESIZE))
        os.write(tell, b"." if seen else b"")
        behave.hold()
    os.read(told, 1)
    children.append(pid)
behave.notify("READY=1")
print("pids", *children, flush=True)
behave.hold()
