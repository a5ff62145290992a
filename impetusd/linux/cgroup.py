"""Version 2 cgroups: their members, and one for each child if the tree is writable."""

from __future__ import annotations

import functools
import os

from impetusd.linux.errors import suppress, unless_blind


class Cgroups:
    """One directory of a cgroup v2 tree, with one cgroup a child below it. Without a writable tree, `root` is ''."""

    def __init__(self, name: str) -> None:
        self.root = ""
        own = own_cgroup()
        if own:
            path = f"{own}/{name}"
            with suppress(OSError):
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
                except FileExistsError:  # left over, or in use by a process of another shim
                    with suppress(OSError):
                        os.rmdir(new)
                except OSError:
                    return ""
                else:
                    return new
        return ""

    @staticmethod
    def add(path: str, pid: int) -> None:
        """Move `pid` into the cgroup, unless it has ended. Takes 10 ms: see `linux.clone`."""
        with suppress(OSError), open(f"{path}/cgroup.procs", "w", encoding="ascii") as procs:
            procs.write(str(pid))

    @staticmethod
    def populated(path: str) -> bool:
        """Whether anything lives in the cgroup or below it: reads one file, where `members` reads one a directory."""
        try:
            fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
            try:
                return b"populated 0" not in os.read(fd, 4096)
            finally:
                os.close(fd)
        except OSError as error:
            unless_blind(error)
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
            unless_blind(error)
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
        """How many processes in the cgroup and below it the kernel has killed for memory; 0 if it does not count
        them."""
        try:
            with open(f"{path}/memory.events", encoding="ascii") as file:
                return sum(int(line[9:]) for line in file if line.startswith("oom_kill "))
        except (OSError, ValueError):
            return 0

    @staticmethod
    def remove(path: str) -> None:
        """Remove the cgroup and those below it, as far as they are empty."""
        for folder, _, _ in os.walk(path, topdown=False, onerror=unless_blind):
            with suppress(OSError):
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
        unless_blind(error)
        return ""
    root, point = cgroup_mount()
    if path is None or not point:
        return ""
    if root != "/" and path.startswith(root):
        path = path[len(root) :]
    return f"{point}{path}".rstrip("/")


@functools.cache
def cgroup_mount() -> tuple[str, str]:
    """The part of the cgroup v2 tree that is mounted, and where; two empty strings if none is."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split() for line in file if " - cgroup2 " in line]
    return (mounts[0][3], mounts[0][4]) if mounts else ("", "")
