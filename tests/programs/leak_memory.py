"""leak_memory.py [--cgroup PROCS] [--from MB] [--to MB] [--once FILE] [--in-child | --astray] RATE: holds FROM MB, then RATE MB more a second, up to TO.

Joins the cgroup first. --once: waits for FILE, and removes it, before it leaks. --in-child: a child does it, and this process only waits; --astray: a grandchild whose parent has
ended. At TO it holds on. Prints what it is.
"""

from __future__ import annotations

import argparse
import mmap
import os
import time

import behave

MB = 1024 * 1024
STEP = 0.02  # seconds

parser = argparse.ArgumentParser()
parser.add_argument("--cgroup", default="")
parser.add_argument("--from", dest="base", type=float, default=0.0)
parser.add_argument("--to", type=float, default=4096.0)
parser.add_argument("--once", default="")
parser.add_argument("--in-child", action="store_true")
parser.add_argument("--astray", action="store_true")
parser.add_argument("rate", type=float)
given = parser.parse_args()

if given.cgroup:
    with open(given.cgroup, "w", encoding="ascii") as file:
        file.write(str(os.getpid()))
behave.notify("READY=1")
if (given.in_child or given.astray) and os.fork():
    behave.hold()
if given.astray and os.fork():
    os._exit(0)

area = mmap.mmap(-1, int((given.to + 1) * MB), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held = 0


def hold_up_to(size: float) -> None:
    """Touch the pages up to `size` MB."""
    global held  # noqa: PLW0603
    while held < min(size, given.to) * MB:
        area[held] = 1
        held += mmap.PAGESIZE


hold_up_to(given.base)
print(f"pid {os.getpid()} holds {given.base:g} MB", flush=True)
if given.once:
    behave.until(lambda: os.path.exists(given.once))
    os.remove(given.once)
began = time.monotonic()
while given.rate and held < given.to * MB:
    time.sleep(STEP)
    hold_up_to(given.base + given.rate * (time.monotonic() - began))
print(f"pid {os.getpid()} holds {held / MB:g} MB", flush=True)
behave.hold()
