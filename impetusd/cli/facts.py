"""The facts that `impetusd doctor` judges: this host, examined without changing anything."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import resource
import shutil
import socket
import stat
import struct
import sys
import time
from importlib.util import cache_from_source
from typing import TYPE_CHECKING

from impetusd.core.access import ACL, Inode
from impetusd.core.config import envfile
from impetusd.core.config.model import user_and_group
from impetusd.core.config.problem import ConfigError
from impetusd.core.explain.doctor import Disk, Facts, Listener
from impetusd.core.trust import Trust
from impetusd.files import vetted
from impetusd.linux.host import account, gid_of, groups_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from impetusd.cli.place import Place
    from impetusd.core.config.location import Paths
    from impetusd.core.config.model import Config, Unit
    from impetusd.core.trust import Fault

CGROUPS = "/sys/fs/cgroup"
PIDFD_GETFD = 438  # a system call, of every architecture
SO_PEERPIDFD = 77
PIDFD_GET_INFO, PIDFD_INFO_EXIT = 0xC040FF0B, 8  # linux/pidfd.h: the first form of struct pidfd_info has 64 bytes
CAP_NET_BIND_SERVICE = 10
TIME_ERROR = 5  # of adjtimex(2)


def of(at: Place) -> Facts:
    """Everything, of this instance."""
    from impetusd.cli.install import systemd
    from impetusd.cli.place import parsed
    from impetusd.files import source
    from impetusd.linux.host import people

    config: Config | None = None
    problems: tuple[str, ...] = ()
    files = [at.conf]
    try:
        files = [path for path, _ in source.read(at.conf, os.environ, judged=False).texts]
        config = parsed(at.conf, os.environ, judged=False)
    except ConfigError as error:
        problems = tuple(map(str, error.problems))
    running, up = _daemon(at.paths)
    units = _units(config)
    own = _owner(at.paths)
    services = [name for user in (False, True) for name in systemd.Manager(user=user).units_of(at.conf)]
    cgroup = _cgroup(running)
    return Facts(
        conf=at.conf,
        command=at.command,
        problems=problems,
        euid=os.geteuid(),
        own=own,
        processes=sum(unit.instances_max + unit.standby + unit.preload for unit in units),
        running=running,
        nofile=resource.getrlimit(resource.RLIMIT_NOFILE)[1] if running is None else _hard_nofile(running),
        pids=_pids(cgroup),
        inotify=_both(_number("fs/inotify/max_user_instances"), _number("fs/inotify/max_user_watches")),
        watches=any(unit.watch for unit in units),
        cgroup=cgroup,
        cgroup_writable=bool(cgroup) and os.access(f"{cgroup}/cgroup.procs", os.W_OK) and os.access(cgroup, os.W_OK),
        controllers=frozenset(_text(f"{cgroup}/cgroup.controllers").split()) if cgroup else frozenset(),
        kernel=platform.release(),
        features=_features(cgroup),
        users=tuple(sorted({unit.user for unit in units if unit.user})),
        listeners=tuple(_listeners(units, running, up)),
        somaxconn=_number("net/core/somaxconn"),
        first_port=_number("net/ipv4/ip_unprivileged_port_start") or 0,
        may_bind=_may_bind(),
        disks=tuple(_disks(at.paths)),
        files=tuple(_distrusted(files, units, own)),
        code=tuple(_foreign_code(units, own)),
        folders={
            name: inode for name in ("run_dir", "state_dir", "log_dir") if (inode := _inode(getattr(at.paths, name)))
        },
        people=tuple(people(config.access)) if config else (),
        way=tuple(_way(at.paths.control_socket)),
        conf_way=tuple(_way(at.conf)),
        now=time.time(),
        synchronised=_synchronised(),
        python=sys.version_info[:3],
        executable=sys.executable,
        package=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        compiled=os.path.exists(cache_from_source(os.path.abspath(__file__))),
        systemd=os.path.isdir(systemd.BOOTED),
        services=tuple(services),
        first_process=running == 1,
    )


def _units(config: Config | None) -> list[Unit]:
    if config is None:
        return []
    return [unit for unit in config.with_jobs() if unit.enabled]


def _daemon(paths: Paths) -> tuple[int | None, set[str]]:
    """The pid of the daemon that runs on these paths, where this user may ask it, and which units have a process that is up."""
    from impetusd.client import control

    try:
        answer = control.call(paths, "status", {})
        pid, up = answer["shim"]["pid"], {row["unit"] for row in answer["units"] if row["state"] == "RUNNING"}
    except (control.ControlError, KeyError, TypeError):
        return None, set()
    return (pid, up) if isinstance(pid, int) and os.path.exists(f"/proc/{pid}") else (None, set())


def _owner(paths: Paths) -> int:
    """The user that impetusd runs as, or would: the owner of its state."""
    inode = _inode(paths.state_dir)
    return os.geteuid() if inode is None else inode.uid


# Files.


def _inode(path: str) -> Inode | None:
    try:
        there = os.stat(path)
    except OSError:
        return None
    acl = b""
    with contextlib.suppress(OSError):
        acl = os.getxattr(path, ACL)
    return Inode(path, there.st_uid, there.st_gid, stat.S_IMODE(there.st_mode) | stat.S_ISDIR(there.st_mode) << 14, acl)


def _distrusted(files: list[str], units: list[Unit], own: int) -> Iterator[tuple[str, Fault]]:
    """The INI files and env_files that others could have written."""
    judged = [(path, Trust(own)) for path in files]
    judged += [(path, trust_of(unit, own)) for unit in units for path, _ in map(envfile.named, unit.env_file)]
    for path, trust in dict.fromkeys(judged):
        if fault := _fault(path, trust):
            yield path, fault


def _foreign_code(units: list[Unit], own: int) -> Iterator[tuple[str, str, Fault]]:
    """The same of executables, interpreters, and the folders that applications are imported from."""
    for unit in units:
        paths = [unit.interpreter, unit.cwd] if unit.app else [shutil.which(unit.command[0]) or ""]
        for path in paths:
            if path.startswith("/") and (fault := _fault(path, trust_of(unit, own))):
                yield unit.name, path, fault


def trust_of(unit: Unit, own: int) -> Trust:
    """The users whose files this unit may be run from."""
    user, group = user_and_group(unit.user)
    if not user:
        return Trust(own)
    try:
        person = account(user)
        gid = gid_of(unit.group or group) if unit.group or group else person.gid
    except (KeyError, ValueError):  # which is reported as a problem of the INI file
        return Trust(own)
    return Trust(person.uid, frozenset(groups_of(person, gid)))


def _fault(path: str, trust: Trust) -> Fault | None:
    try:
        return vetted.examine(path, trust)
    except OSError:
        return None


def _way(path: str) -> Iterator[Inode]:
    """Each folder from / on, then the file; what is there of them."""
    parts = path.strip("/").split("/")
    for end in range(len(parts) + 1):
        inode = _inode("/" + "/".join(parts[:end]))
        if inode is None:
            return
        yield inode


def _disks(paths: Paths) -> Iterator[Disk]:
    seen = set()
    for path in (paths.log_dir, paths.state_dir, paths.run_dir):
        while not os.path.isdir(path):
            path = os.path.dirname(path)
        device = os.stat(path).st_dev
        if device not in seen:
            seen.add(device)
            there = os.statvfs(path)
            size = there.f_blocks * there.f_frsize
            yield Disk(path, there.f_bavail * there.f_frsize, size, there.f_favail, there.f_files)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _number(name: str) -> int | None:
    text = _text(f"/proc/sys/{name}").strip()
    return int(text) if text.isdecimal() else None


def _both(one: int | None, other: int | None) -> tuple[int, int] | None:
    return None if one is None or other is None else (one, other)


# Limits and cgroups.


def _hard_nofile(pid: int) -> int | None:
    for line in _text(f"/proc/{pid}/limits").splitlines():
        if line.startswith("Max open files"):
            hard = line.split()[4]
            return int(hard) if hard.isdecimal() else -1
    return None


def _cgroup(pid: int | None) -> str:
    """The directory of the daemon's own cgroup, or of ours; "" without a v2 tree."""
    own = next((line[3:] for line in _text(f"/proc/{pid or 'self'}/cgroup").splitlines() if line.startswith("0::")), "")
    path = f"{CGROUPS}{own}".rstrip("/")
    return path if own and os.path.exists(f"{path}/cgroup.procs") else ""


def _pids(cgroup: str) -> tuple[int, int] | None:
    """(in use, most) of the cgroup with the least left, from here up to the root."""
    found: list[tuple[int, int]] = []
    while cgroup.startswith(f"{CGROUPS}/"):
        most, used = (_text(f"{cgroup}/pids.{name}").strip() for name in ("max", "current"))
        if most.isdecimal() and used.isdecimal():
            found.append((int(used), int(most)))
        cgroup = os.path.dirname(cgroup)
    return min(found, key=lambda each: each[1] - each[0], default=None)


# The kernel.


def _features(cgroup: str) -> dict[str, bool]:
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        os._exit(0)
    features = {"pidfd_open": False, "P_PIDFD": False, "pidfd_getfd": False}
    pidfd = -1
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(child)
        features["pidfd_open"] = True
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        features["P_PIDFD"] = True
    os.waitpid(child, 0)
    has_exit_info = False
    if pidfd >= 0:
        info = bytearray(struct.pack("Q56x", PIDFD_INFO_EXIT))
        with contextlib.suppress(OSError):
            fcntl.ioctl(pidfd, PIDFD_GET_INFO, info)
            has_exit_info = bool(struct.unpack_from("Q", info)[0] & PIDFD_INFO_EXIT)
        os.close(pidfd)
        own = os.pidfd_open(os.getpid())
        copy = libc.syscall(PIDFD_GETFD, own, own, 0)
        features["pidfd_getfd"] = copy >= 0
        if copy >= 0:
            os.close(copy)
        os.close(own)
    if cgroup and cgroup != CGROUPS:
        features["cgroup.kill"] = os.path.exists(f"{cgroup}/cgroup.kill")
    with contextlib.suppress(OSError):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            features["SO_PEERPIDFD"] = _peer_pidfd(ours)
    features["PIDFD_INFO_EXIT"] = has_exit_info
    return features


def _peer_pidfd(sock: socket.socket) -> bool:
    try:
        os.close(sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
    except OSError:
        return False
    return True


def _may_bind() -> bool:
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_NET_BIND_SERVICE & 1)
    return os.geteuid() == 0


def _synchronised() -> bool | None:
    buffer = ctypes.create_string_buffer(512)  # struct timex, all of it 0: it is only read
    state = ctypes.CDLL(None).adjtimex(buffer)
    return None if state < 0 else bool(state != TIME_ERROR)


# Ports.


def _listeners(units: list[Unit], running: int | None, up: set[str]) -> Iterator[Listener]:
    taken = _listening()
    for unit in units:
        for address in unit.listen:
            if address.port:
                owner = ""
                for pid in taken.get(address.port, []):
                    owner = _owner_of(pid, running, address.port, up=unit.name in up) or owner
                yield Listener(unit.name, str(address), address.port, unit.backlog, owner)


def _listening() -> dict[int, list[int | None]]:
    """The listener on each port; None for one that this user may not see."""
    import psutil

    found: dict[int, list[int | None]] = {}
    try:
        connections: list[Any] = psutil.net_connections("tcp")
    except psutil.Error:
        return found
    for each in connections:
        if each.status == psutil.CONN_LISTEN:
            found.setdefault(each.laddr.port, []).append(each.pid)
    return found


def _owner_of(pid: int | None, running: int | None, port: int, *, up: bool) -> str:
    """Impetusd, for a process of this daemon; also for one that cannot be seen if the unit with the port is `up`."""
    import psutil

    from impetusd.client import ports

    if pid is None:
        return "impetusd" if up else ports.holder(port) or "another process"
    try:
        process = psutil.Process(pid)
        if running in {pid, *(parent.pid for parent in process.parents())}:
            return "impetusd"
        return f"{process.name()} (pid {pid})"
    except psutil.Error:
        return ""
