"""Ending what a daemon that is gone has left: for systemd when a service is stopped, and for an operator.

Whoever was started by a daemon that was killed is in the table that it wrote (`shim.table`), in the cgroup of one that is, or
bears the mark in its environment (`shim.orphans`, which a program may write over); and so are their descendants. Under
systemd everything in the service's own cgroup is ended as well, as systemd itself would, were it not told to spare programs
when impetusd is killed (KillMode=process).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

from impetusd.folders import notify_folders, remove_sockets
from impetusd.shim import orphans, table, tree

if TYPE_CHECKING:
    from impetusd.core.location import Paths

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_LOOK_AGAIN = 0.02


def leftovers(paths: Paths, *, service: bool) -> list[tree.Member]:
    """What is left. `service`: this process was started by systemd for the service that is being stopped."""
    told = table.read(paths.run_dir)
    processes = tree.snapshot()
    found = set(tree.Cgroups.members(_service_cgroup())) if service else set()
    if told is not None:
        for child in told["children"].values():
            member = processes.get(child["pid"])
            if member is not None and member.started == child["started"]:
                found.add(member.pid)
            found.update(tree.Cgroups.members(child["cgroup"]) if child["cgroup"] else ())
        found |= {pid for pid in processes if orphans.marked(pid, told["life"])}
    left = {member.pid: member for member in tree.descendants(found, processes, _own_line())}
    return list(left.values())


def left_behind(paths: Paths) -> int:
    """How many processes live on after impetusd was killed; 0 where there is no table of it that this user may read."""
    return len(leftovers(paths, service=False)) if os.path.exists(f"{paths.run_dir}/{table.NAME}") else 0


def reap(paths: Paths, *, service: bool) -> list[int]:
    """End all of it, with SIGTERM first. Returns the pids, in the order in which they were found."""
    first = leftovers(paths, service=service)
    for member in first:
        tree.send(member, signal.SIGTERM)
        tree.send(member, signal.SIGCONT)
    end = time.monotonic() + GRACE
    while left := leftovers(paths, service=service):
        if time.monotonic() >= end:
            for member in left:
                tree.send(member, signal.SIGKILL)
        time.sleep(_LOOK_AGAIN)
    told = table.read(paths.run_dir)
    for cgroup in {os.path.dirname(child["cgroup"]) for child in told["children"].values()} - {""} if told else ():
        tree.Cgroups.remove(cgroup)
    table.Table(paths.run_dir).remove()
    with contextlib.suppress(OSError):
        os.unlink(paths.control_socket)  # nobody answers on it
    for folder in notify_folders(paths.run_dir, paths.state_dir):
        with contextlib.suppress(OSError):
            remove_sockets(folder)
    return [member.pid for member in first]


def _service_cgroup() -> str:
    """The service's cgroup; systemd runs what it starts besides the main process in a cgroup `.control` below it."""
    own = tree.own_cgroup()
    return own.removesuffix("/.control")


def _own_line() -> set[int]:
    """This process and those that it is a descendant of."""
    line, pid = set(), os.getpid()
    while pid > 0 and (member := tree.read(pid)) is not None:
        line.add(pid)
        pid = member.parent
    return line
