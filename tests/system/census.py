"""Who belongs to an instance under test, as /proc and the cgroup tree tell it: independent of what impetusd says.

Every process of an instance carries `TMPDIR=<the instance's folder>`: the harness sets it in the environment of each
command, the daemon hands it on to its children, and no fork or setsid gets rid of it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One line of the process table."""

    pid: int
    parent: int
    state: str  # R, S, D, T (stopped), Z …
    started: int  # clock ticks since boot: with the pid, this is one process for ever
    command: str

    @property
    def zombie(self) -> bool:
        return self.state in {"Z", "X"}


def read(pid: int) -> Process | None:
    """The process `pid`, or None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(pid, int(fields[1]), fields[0], int(fields[19]), command)


def thread_states(pid: int) -> list[str]:
    """The state of each thread of `pid`, as in Process."""
    found = []
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.append(stat.read_text(encoding="utf-8", errors="replace").rpartition(") ")[2][0])
        except (OSError, IndexError):
            continue  # it has ended
    return found


def members(root: Path) -> list[Process]:
    """The living processes that were started with TMPDIR=`root`, or below the instance's cgroup."""
    mark = b"\0TMPDIR=" + os.fsencode(root) + b"\0"
    pids = [pid for pid, environ in _of_everyone("environ") if mark in b"\0" + environ]
    pids += [pid for cgroup in cgroups(root) for pid in cgroup_members(cgroup)]
    found = {pid: process for pid in pids if (process := read(pid)) is not None}
    return [process for process in found.values() if not process.zombie]


def children(pid: int) -> list[Process]:
    """The children of `pid`, zombies included."""
    parent = b"%d" % pid
    pids = [child for child, stat in _of_everyone("stat") if stat.rpartition(b") ")[2].split(b" ", 2)[1] == parent]
    return [process for process in map(read, pids) if process is not None and process.parent == pid]


def _of_everyone(name: str) -> Iterator[tuple[int, bytes]]:
    """The file /proc/PID/`name` of every process of the host. Tests look often: 3 ms with 170 processes."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/{name}", "rb", buffering=0) as file:
                    yield int(entry), file.readall()
            except OSError:
                continue  # it has ended


def links(pid: int) -> dict[str, str]:
    """What each open descriptor of `pid` is, without those that it closes meanwhile."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def descriptors(pid: int) -> list[str]:
    """The same, sorted, without the numbers that differ from run to run."""
    targets = [target.partition(":[")[0] for target in links(pid).values()]
    return sorted(re.sub(r"/proc/\d+/task/\d+/", "/proc/self/task/self/", target) for target in targets)


def difference(now: list[str], before: list[str]) -> list[str]:
    """What is there now and was not before."""
    left = list(now)
    for each in before:
        if each in left:
            left.remove(each)
    return left


def cgroups(root: Path) -> list[Path]:
    """The instance's cgroup directories, the top one first; [] where there is no writable cgroup v2."""
    try:
        state = (root / "var" / "lib").stat()
        name = f"impetusd-{state.st_dev}-{state.st_ino}"
    except OSError:
        return []
    # Walked, not globbed: cgroups go while one looks, and os.walk passes over what is gone.
    return [Path(folder) for base in _cgroup_roots() for folder, _, _ in os.walk(base / name)]


def cgroup_members(path: Path) -> list[int]:
    """The pids in one cgroup."""
    try:
        return [int(pid) for pid in (path / "cgroup.procs").read_text().split()]
    except OSError:
        return []


@functools.cache
def _cgroup_roots() -> list[Path]:
    """Where cgroup v2 is mounted, and this process's own place in it."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return [Path(fields[4] + own[0].rstrip("/")) for fields in mounts[:1] if own]
