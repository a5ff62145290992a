"""Which processes belong to a child: its cgroup if there is one, else its descendants.

Without a cgroup, descendants are followed through /proc. The shim is a subreaper, so a descendant whose parent died is
the shim's own child: a *stray*. A stray belongs to the child whose session or process group it is in, or whose
INVOCATION_ID it carries in its environment (what a daemon that forks twice and calls setsid still has). What was found
once stays the child's as long as this shim runs. One that changed all three earlier is known by its parent, as of when
that was last signalled. If that died before, it belongs to none, and ends only with the shim; a cgroup has no such gap.

Without a descriptor or memory left to look with, these functions raise OSError instead of guessing.
"""

from __future__ import annotations

import os
import time

from impetusd.bare import once, signal
from impetusd.linux import procfs
from impetusd.linux.errors import unless_blind
from impetusd.linux.procfs import fields, lines, rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CAP_SYS_PTRACE = 19
MOST_BELOW = 10_000  # descendants that are looked for


class Member:
    """A process as /proc shows it. `started` (clock ticks since boot) distinguishes it from a later process with its
    pid. `headless`: its main thread has ended, which /proc shows as the state of a zombie, and others go on."""

    __slots__ = ("group", "headless", "parent", "pid", "session", "started", "zombie")

    def __init__(
        self, pid: int, parent: int, group: int, session: int, started: int, *, zombie: bool, headless: bool = False
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.started = started
        self.zombie = zombie
        self.headless = headless


def read(pid: int) -> Member | None:
    """The process `pid`, or None when there is none."""
    stat = fields(pid)
    if not stat:
        return None
    ended = stat[0] in {b"Z", b"X", b"x"}  # its main thread
    headless = ended and int(stat[17]) > 1
    return Member(
        pid, int(stat[1]), int(stat[2]), int(stat[3]), int(stat[19]), zombie=ended and not headless, headless=headless
    )


def children() -> list[int]:
    """The pids of this process's children, zombies included."""
    fd = _children_file()
    if fd < 0:
        me = os.getpid()
        return [member.pid for member in snapshot().values() if member.parent == me]
    text = b""
    while part := os.pread(fd, 65536, len(text)):
        text += part
    return [int(pid) for pid in text.split()]


@once
def _children_file() -> int:
    """Opened once, to be there when no descriptor is left; -1 with a kernel without CONFIG_PROC_CHILDREN."""
    me = os.getpid()
    try:
        return os.open(f"/proc/{me}/task/{me}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def snapshot() -> dict[int, Member]:
    """Every process of the host, by pid: one pass over /proc."""
    found = map(read, procfs.pids())
    return {member.pid: member for member in found if member is not None}


def invocation(pid: int) -> str:
    """INVOCATION_ID in the environment that `pid` was executed with, or ''."""
    return variable(pid, "INVOCATION_ID")


def variable(pid: int, name: str) -> str:
    """A variable of the environment that `pid` was executed with, or ''."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            text = b"\0" + file.read()
    except OSError as error:
        unless_blind(error)
        return ""
    _, found, rest = text.partition(f"\0{name}=".encode())
    return rest.partition(b"\0")[0].decode("ascii", "replace") if found else ""


def command_line(pid: int) -> list[bytes]:
    """The command line of `pid`, unless it has overwritten it; [] when there is no such process, or it is a zombie."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().rstrip(b"\0").split(b"\0")
    except OSError:
        return []


def now() -> int:
    """The `started` of a process that starts now."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def is_our_equal(pid: int) -> bool:
    """Whether all its user ids are ours."""
    return {*rights(pid).split()[1:]} == {str(os.geteuid()).encode()}


def may_trace() -> bool:
    """Whether we have CAP_SYS_PTRACE."""
    found = next((line.split()[1] for line in lines(os.getpid(), "status") if line.startswith(b"CapEff:")), b"0")
    return bool(int(found, 16) >> CAP_SYS_PTRACE & 1)


def place(pid: int) -> bytes:
    """The cgroup v2 that `pid` is in, as /proc shows it; it is known of a zombie, too."""
    return next((line for line in lines(pid, "cgroup") if line.startswith(b"0::")), b"")


def descendants(roots: Iterable[int], processes: Mapping[int, Member], stop: set[int]) -> list[Member]:
    """`roots` that live, and everything below them, without zombies; a pid in `stop` and what is below it is left out."""
    below: dict[int, list[int]] = {}
    for member in processes.values():
        below.setdefault(member.parent, []).append(member.pid)
    found: list[Member] = []
    queue = list(roots)
    while queue:
        pid = queue.pop()
        if pid in stop or pid not in processes:
            continue
        if not processes[pid].zombie:
            found.append(processes[pid])
        queue += below.get(pid, [])
    return found


def below(pid: int) -> list[Member]:
    """The descendants of one process by the kernel's lists: quicker than `snapshot`, and it may miss some."""
    found: dict[int, Member] = {}
    queue = [pid]
    while queue and len(found) < MOST_BELOW:
        for child in procfs.children(queue.pop()):
            member = read(child)
            if member is not None and child not in found:
                found[child] = member
                queue.append(child)
    return list(found.values())


def lives(who: Sequence[int]) -> bool:
    """Whether the process [pid, start time] exists and is not a zombie."""
    member = read(who[0])
    return member is not None and member.started == who[1] and not member.zombie


def age(member: Member) -> float:
    """Seconds since its start."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - member.started / os.sysconf("SC_CLK_TCK")


def send(member: Member, number: int) -> None:
    """Signal exactly this process: through a pidfd, once its start time has shown that the pid was not used anew."""
    try:
        pidfd = os.pidfd_open(member.pid)
        try:
            now = read(member.pid)
            if now is not None and now.started == member.started:
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
    except OSError as error:
        unless_blind(error)


def own_line() -> set[int]:
    """This process and those that it is a descendant of."""
    line, pid = set(), os.getpid()
    while pid > 0 and (member := read(pid)) is not None:
        line.add(pid)
        pid = member.parent
    return line
