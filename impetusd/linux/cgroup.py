"""Version 2 cgroups: their members, and one for each child if the tree is writable."""

from __future__ import annotations

import errno
import os

from impetusd.bare import once
from impetusd.linux import procfs
from impetusd.linux.errors import suppress, unless_blind

LEAF = ".main"  # how the name of the cgroup ends that the shim may have made for itself


class Cgroups:
    """One directory of a cgroup v2 tree, with one cgroup a child below it. Without a writable tree, `root` is ''."""

    def __init__(self, name: str) -> None:
        self.root = ""
        self._leaf = f"{name}{LEAF}"  # of this process itself, once it had to leave the one that it was started in
        self._own = own = own_cgroup().removesuffix(f"/{self._leaf}")
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
                    _make(new)
                except FileExistsError:  # left over, or in use by a process of another shim
                    with suppress(OSError):
                        os.rmdir(new)
                except OSError:
                    return ""
                else:
                    return new
        return ""

    def limit(self, path: str, file: str, value: str) -> None:
        """Write `value` into a file like "memory.max" of the cgroup `path`, which `make` has returned.

        Raises LookupError with the name of a controller that is not there, and OSError.
        """
        controller = file.partition(".")[0]
        if not os.path.exists(f"{path}/{controller}.max"):
            self._enable(controller)
        _write(f"{path}/{file}", value)

    def _enable(self, controller: str) -> None:
        with open(f"{self._own}/cgroup.controllers", encoding="ascii") as there:
            if controller not in there.read().split():
                raise LookupError(controller)
        for folder in (self._own, self.root):
            try:
                _write(f"{folder}/cgroup.subtree_control", f"+{controller}")
            except OSError as error:
                if error.errno != errno.EBUSY or folder != self._own:
                    raise
                self._move_ourselves()
                _write(f"{folder}/cgroup.subtree_control", f"+{controller}")

    def _move_ourselves(self) -> None:
        """A cgroup that shares out memory may have no processes itself: go into one beside those of the children.

        Only as a container's PID 1: elsewhere a service manager starts the next of us in the same cgroup, which the kernel
        would refuse while programs live on in it. Raises OSError (EBUSY), also if others than our children are in it.
        """
        here = _pids(self._own)
        if not _is_init() or any(os.getpid() not in {pid, _parent_of(pid)} for pid in here):
            raise OSError(errno.EBUSY, f"{self._own} itself has processes, so it cannot distribute memory")
        os.makedirs(f"{self._own}/{self._leaf}", exist_ok=True)
        for pid in here:
            with suppress(ProcessLookupError):
                _write(f"{self._own}/{self._leaf}/cgroup.procs", str(pid))

    def close(self) -> None:
        """Remove what was made; nothing lives in it any more. This process goes back to where it was started."""
        self.remove(self.root)
        leaf = f"{self._own}/{self._leaf}"
        if self._own and os.path.exists(leaf):
            for each in ("cpu", "memory"):
                with suppress(OSError):
                    _write(f"{self._own}/cgroup.subtree_control", f"-{each}")
            with suppress(OSError):
                _write(f"{self._own}/cgroup.procs", "0")
                os.rmdir(leaf)

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
            found = _pids(path)
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
        return _counted(path, "oom_kill")

    @staticmethod
    def over_limit(path: str) -> int:
        """How often the cgroup, or one below it, had no more room within its own limit of memory."""
        return _counted(path, "oom")

    @staticmethod
    def remove(path: str) -> None:
        """Remove the cgroup and those below it, as far as they are empty."""
        for folder, _, _ in os.walk(path, topdown=False, onerror=unless_blind):
            with suppress(OSError):
                os.rmdir(folder)


def _counted(path: str, what: str) -> int:
    """A number of memory.events."""
    try:
        fd = os.open(f"{path}/memory.events", os.O_RDONLY | os.O_CLOEXEC)  # raw: this is on the way of each restart
        try:
            lines = os.read(fd, 4096).decode("ascii").splitlines()
        finally:
            os.close(fd)
        return sum(int(number) for name, number in map(str.split, lines) if name == what)
    except (OSError, ValueError):
        return 0


def _write(path: str, text: str) -> None:
    """One write, which is how the kernel wants it; a cgroup's file is never made. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _pids(path: str) -> list[int]:
    with open(f"{path}/cgroup.procs", "rb", buffering=0) as procs:
        return [int(pid) for pid in procs.read().split()]


def _parent_of(pid: int) -> int:
    """0 of one that has ended."""
    fields = procfs.fields(pid, 2)
    return int(fields[1]) if fields else 0


def _is_init() -> bool:
    return os.getpid() == 1


def offered() -> frozenset[str]:
    """The controllers that a daemon started here can use for its children; none below the root of the tree, see
    `Cgroups`."""
    own = own_cgroup()
    if own.endswith(LEAF):
        own = os.path.dirname(own)
    if not own or own != cgroup_mount()[1].rstrip("/") or not os.access(f"{own}/cgroup.procs", os.W_OK):
        return frozenset()
    with suppress(OSError), open(f"{own}/cgroup.controllers", encoding="ascii") as file:
        return frozenset(file.read().split())
    return frozenset()


def _make(path: str) -> None:
    """As os.makedirs, whose look at each parent first is on the way of each start. Raises OSError."""
    try:
        os.mkdir(path)
    except FileNotFoundError:
        os.makedirs(path)


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


@once
def cgroup_mount() -> tuple[str, str]:
    """The part of the cgroup v2 tree that is mounted, and where; two empty strings if none is."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mounts = [line.split() for line in file if " - cgroup2 " in line]
    return (mounts[0][3], mounts[0][4]) if mounts else ("", "")
