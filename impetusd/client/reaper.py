"""Ends processes left by a daemon that is gone: for systemd when a service is stopped, and for an operator.

A process started by a killed daemon is in the table that the daemon wrote (`shim.table`), in the cgroup of one that is,
or has the mark in its environment (which a program may write over); without the table the last two are looked for
(`shim.leftovers`). Their descendants are included. Under systemd everything in the service's own cgroup is ended as
well, as systemd itself would, were it not told to spare programs when impetusd is killed (KillMode=process).

Processes of a living daemon are never touched: the instance's lock is taken first, and kept meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections import namedtuple
from typing import TYPE_CHECKING

from impetusd.files.folders import notify_folders, remove_sockets
from impetusd.linux import proc
from impetusd.linux.cgroup import Cgroups, cgroup_mount, own_cgroup
from impetusd.shim import leftovers, orphans, table, tableline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from impetusd.core.config.location import Paths

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
UNKILLABLE = 5.0  # seconds after SIGKILL until what is still there is given up
FREE_WITHIN = 3.0  # seconds in which a dead shim's supervisor lets go of the lock
_LOOK_AGAIN = 0.02


class Held(Exception):
    """A daemon runs: what there is belongs to it."""


class Left(namedtuple("Left", ("members", "why"))):  # noqa: PYI024  # typing
    """The processes left by a killed daemon. `why`: why the next one cannot take them over, "" if it can."""

    __slots__ = ()
    members: list[proc.Member]
    why: str


class Reaped(namedtuple("Reaped", ("ended", "stuck"))):  # noqa: PYI024  # typing
    """The pids of stopped processes, in the order they were found, and of those that survive SIGKILL."""

    __slots__ = ()
    ended: list[int]
    stuck: list[proc.Member]


def left_behind(paths: Paths) -> Left:
    """Processes that live on after impetusd was killed, as far as this user may see them. For when no daemon runs."""
    if not os.path.isdir(paths.state_dir):
        return Left([], "")
    found = table.examine(paths.run_dir, paths.state_dir)
    if found.saved is None:
        left = orphans.forgotten(found, paths.state_dir)
        return Left(left, (found.fault or "its table is missing") if left else "")
    left = orphans.of_table(found.saved, proc.snapshot())
    lost = orphans.overlooked(found, orphans.unknown(found.saved, paths.state_dir))
    left += [member for member in lost if member.pid not in {each.pid for each in left}]
    return Left(left, "its table does not list all of them" if lost else "")


def reap(paths: Paths, cgroup: str = "") -> Reaped:
    """End all of it, and what is in the service's `cgroup`, with SIGTERM first. Raises Held if a daemon runs."""
    with _lock(paths):
        first = left = _all(paths, cgroup)
        groups = {leftovers.group_of(member.pid, leftovers.group_name(paths.state_dir), {}) for member in first} - {""}
        for member in first:
            proc.send(member, signal.SIGTERM)
            proc.send(member, signal.SIGCONT)
        end = time.monotonic() + GRACE
        while left := _all(paths, cgroup):
            now = time.monotonic()
            if now >= end + UNKILLABLE:
                break
            if now >= end:
                for member in left:
                    proc.send(member, signal.SIGKILL)
            time.sleep(_LOOK_AGAIN)
        if not left:
            _clear(paths)
            for group in groups:
                Cgroups.remove(group)
        gone = {member.pid for member in first} - {member.pid for member in left}
        return Reaped([member.pid for member in first if member.pid in gone], left)


def _all(paths: Paths, cgroup: str) -> list[proc.Member]:
    found = {member.pid for member in left_behind(paths).members}
    if cgroup:
        found.update(Cgroups.members(cgroup))
    return leftovers.family(found, proc.snapshot()) if found else []


def _clear(paths: Paths) -> None:
    """Nothing is left: remove the records of it, and its sockets."""
    found = table.examine(paths.run_dir, paths.state_dir)
    children = found.saved["children"].values() if found.saved else ()
    for cgroup in {os.path.dirname(child["cgroup"]) for child in children} - {""}:
        Cgroups.remove(cgroup)
    if found.other is not None and proc.lives(found.other["shim"]):
        return
    if found.fault:
        table.set_aside(tableline.path_in(paths.run_dir))
    with contextlib.suppress(OSError):
        os.unlink(tableline.path_in(paths.run_dir))
    with contextlib.suppress(OSError):
        leftovers.write(paths.state_dir, found.saved["life"] if found.saved else "", over=True)
    with contextlib.suppress(OSError):
        os.unlink(paths.control_socket)  # nobody answers on it
    for folder in notify_folders(paths.run_dir, paths.state_dir):
        with contextlib.suppress(OSError):
            remove_sockets(folder)


@contextlib.contextmanager
def _lock(paths: Paths) -> Iterator[None]:
    """The instance's lock, so that no daemon is started meanwhile. What a dead shim's supervisor has of it is waited for."""
    try:
        fd = os.open(paths.state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield  # it has never run
        return
    try:
        end = time.monotonic() + FREE_WITHIN
        while not _taken(fd):
            told = table.read(paths.run_dir, paths.state_dir)
            if told is not None and proc.lives(told["shim"]):
                raise Held(f"impetusd (pid {told['shim'][0]}) is running in {paths.state_dir}")
            if time.monotonic() >= end:
                raise Held(f"impetusd is running in {paths.state_dir}, which is locked")
            if told is not None:
                orphans.evict_stale_supervisor(told)
            time.sleep(_LOOK_AGAIN)
        yield
    finally:
        os.close(fd)


def counted(number: int) -> str:
    """As "1 process"."""
    return leftovers.counted(number)


def named(members: Sequence[proc.Member]) -> str:
    """The processes as an operator knows them."""
    return leftovers.named(members)


def service_cgroup() -> str:
    """The cgroup of the service that this process is started for: what systemd runs besides the main process is below it."""
    return own_cgroup().removesuffix("/.control")


def cgroup_at(path: str) -> str:
    """The directory of the cgroup that systemd calls `path`; "" of ""."""
    return f"{cgroup_mount()[1]}{path}" if path else ""


def _taken(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
