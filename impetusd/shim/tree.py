"""Who belongs to a child: its cgroup where there is one, else its descendants.

Without a cgroup, descendants are followed through /proc. The shim is a subreaper, so a descendant whose parent died is
the shim's own child: a *stray*. A stray belongs to the child whose session or process group it is in, or whose
INVOCATION_ID it carries in its environment (what a daemon that forks twice and calls setsid still has). One that
changed all three before its parent died cannot be told from a stranger; a cgroup has no such hole.

Whoever looks here with no descriptor or memory left to look with gets an OSError, and no answer that is a guess.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CAP_SYS_PTRACE = 19


def _unless_blind(error: OSError) -> None:
    """What is not there any more is an answer; that nothing can be seen is none."""
    if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
        raise error


class Member:
    """A process as /proc shows it. `started` (clock ticks since boot) tells it from a later one with its pid."""

    __slots__ = ("group", "parent", "pid", "session", "started", "zombie")

    def __init__(self, pid: int, parent: int, group: int, session: int, started: int, *, zombie: bool) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.started = started
        self.zombie = zombie


def read(pid: int) -> Member | None:
    """The process `pid`, or None when there is none."""
    told = fields(pid)
    if not told:
        return None
    zombie = told[0] in {b"Z", b"X", b"x"}
    return Member(pid, int(told[1]), int(told[2]), int(told[3]), int(told[19]), zombie=zombie)


def fields(pid: int) -> list[bytes]:
    """/proc/PID/stat from the state on, which is field 3 of proc(5); [] when there is no such process."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError as error:
        _unless_blind(error)
        return []
    return text[text.rindex(b")") + 2 :].split()  # the name may hold blanks and brackets


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


@functools.cache
def _children_file() -> int:
    """Opened once, to be there when no descriptor is left; -1 with a kernel without CONFIG_PROC_CHILDREN."""
    me = os.getpid()
    try:
        return os.open(f"/proc/{me}/task/{me}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def snapshot() -> dict[int, Member]:
    """Every process of the host, by pid: one pass over /proc."""
    found = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())
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
        _unless_blind(error)
        return ""
    _, found, rest = text.partition(f"\0{name}=".encode())
    return rest.partition(b"\0")[0].decode("ascii", "replace") if found else ""


def now() -> int:
    """What `started` is of a process that starts now."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def rights(pid: int) -> bytes:
    """The user ids that `pid` has, as /proc shows them; b"" when there is no such process."""
    return next((line for line in _lines(pid, "status") if line.startswith(b"Uid:")), b"")


def may_trace() -> bool:
    """Whether we have CAP_SYS_PTRACE."""
    told = next((line.split()[1] for line in _lines(os.getpid(), "status") if line.startswith(b"CapEff:")), b"0")
    return bool(int(told, 16) >> CAP_SYS_PTRACE & 1)


def place(pid: int) -> bytes:
    """The cgroup v2 that `pid` is in, as /proc shows it; it is known of a zombie, too."""
    return next((line for line in _lines(pid, "cgroup") if line.startswith(b"0::")), b"")


def _lines(pid: int, name: str) -> list[bytes]:
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read(65536).splitlines()
    except OSError as error:
        _unless_blind(error)
        return []


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


def lives(who: Sequence[int]) -> bool:
    """Whether the process [pid, start time] is there, and is no zombie."""
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
        _unless_blind(error)


class Cgroups:
    """One directory of a cgroup v2 tree, with one cgroup a child below it. Without a writable tree, `root` is ''."""

    def __init__(self, name: str) -> None:
        self.root = ""
        own = own_cgroup()
        if own:
            path = f"{own}/{name}"
            with contextlib.suppress(OSError):
                os.makedirs(path, exist_ok=True)
                if os.path.exists(f"{path}/cgroup.kill") and os.access(f"{own}/cgroup.procs", os.W_OK):
                    self.root = path
                    # Refused where a cgroup that is not the root of all has processes of its own.
                    for folder in (own, path):
                        with open(f"{folder}/cgroup.subtree_control", "w", encoding="ascii") as control:
                            control.write("+memory")
                else:
                    os.rmdir(path)

    def make(self, name: str) -> str:
        """The path of a new cgroup, or '' when there cannot be one."""
        if not self.root or not name or "/" in name or name.startswith("."):
            return ""
        path = f"{self.root}/{name}"
        for number in range(100):
            new = f"{path}.{number}" if number else path
            for _ in range(2):
                try:
                    os.makedirs(new)
                except FileExistsError:  # left over, or somebody is in it whom a shim with another memory had started
                    with contextlib.suppress(OSError):
                        os.rmdir(new)
                except OSError:
                    return ""
                else:
                    return new
        return ""

    @staticmethod
    def add(path: str, pid: int) -> None:
        """Move `pid` into the cgroup, unless it has ended. Takes 10 ms: see `shim.clone`."""
        with contextlib.suppress(OSError), open(f"{path}/cgroup.procs", "w", encoding="ascii") as procs:
            procs.write(str(pid))

    @staticmethod
    def populated(path: str) -> bool:
        """Whether anything lives in the cgroup or below it: one look for what `members` takes one a directory."""
        try:
            fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return b"populated 0" not in os.read(fd, 4096)
            finally:
                os.close(fd)
        except OSError as error:
            _unless_blind(error)
            return False

    @staticmethod
    def members(path: str) -> list[int]:
        """The pids in the cgroup and in those that its programs made below it."""
        found: list[int] = []
        try:
            with open(f"{path}/cgroup.procs", "rb", buffering=0) as procs:
                found = [int(pid) for pid in procs.read().split()]
            with os.scandir(path) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            _unless_blind(error)
            return found
        for folder in below:
            found += Cgroups.members(folder)
        return found

    @staticmethod
    def kill(path: str) -> bool:
        """SIGKILL everything in the cgroup at once (Linux 5.14)."""
        try:
            with open(f"{path}/cgroup.kill", "w", encoding="ascii") as file:
                file.write("1")
        except OSError:
            return False
        return True

    @staticmethod
    def oom_kills(path: str) -> int:
        """How many processes in the cgroup and below it the kernel has killed for memory; 0 where it does not count."""
        try:
            with open(f"{path}/memory.events", encoding="ascii") as file:
                return sum(int(line[9:]) for line in file if line.startswith("oom_kill "))
        except (OSError, ValueError):
            return 0

    @staticmethod
    def remove(path: str) -> None:
        """Remove the cgroup and those below it, as far as they are empty."""
        for folder, _, _ in os.walk(path, topdown=False, onerror=_unless_blind):
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def own_cgroup() -> str:
    """The directory of this process's cgroup v2, or ''."""
    return cgroup_of(os.getpid())


def cgroup_of(pid: int) -> str:
    """The directory of a process's cgroup v2, or ''. The mount point is looked up: hybrid hosts have it elsewhere."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    except OSError as error:
        _unless_blind(error)
        return ""
    root, point = cgroup_mount()
    if path is None or not point:
        return ""
    if root != "/" and path.startswith(root):
        path = path[len(root) :]
    return f"{point}{path}".rstrip("/")


@functools.cache
def cgroup_mount() -> tuple[str, str]:
    """What of the cgroup v2 tree is mounted, and where; two empty strings where none is."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split() for line in file if " - cgroup2 " in line]
    return (mounts[0][3], mounts[0][4]) if mounts else ("", "")


def own_line() -> set[int]:
    """This process and those that it is a descendant of."""
    line, pid = set(), os.getpid()
    while pid > 0 and (member := read(pid)) is not None:
        line.add(pid)
        pid = member.parent
    return line
