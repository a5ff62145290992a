"""Find current and upcoming problems of a host: facts in, findings out. Pure.

A finding states a fact and, if something is wrong, why it matters and how to fix it. `FAIL` keeps impetusd or a program
from working; `WARN` will hurt one day. `JUDGES` is in the order of the report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from impetusd.core import access
from impetusd.core.access import READ, SEARCH, WRITE, Inode, Person
from impetusd.core.units import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from typing import Any

    from impetusd.core.trust import Fault

OK, WARN, FAIL = LEVELS = ("ok", "warn", "fail")
DESCRIPTORS = 8  # of the shim for each process: two pipes, a pidfd, a channel
OWN_DESCRIPTORS = 64
# Required kernel features, since when they exist, and what is lost without them; "" if impetusd cannot run without.
FEATURES = {
    "pidfd_open": ("5.3", ""),
    "P_PIDFD": ("5.4", ""),
    "pidfd_getfd": ("5.6", "sockets cannot be recovered from a surviving process"),
    "cgroup.kill": ("5.14", "process trees are killed one process at a time and may race with forks"),
    "SO_PEERPIDFD": ("6.5", "clients of the control socket are identified by user ID only"),
    "PIDFD_INFO_EXIT": ("6.15", "exit statuses are lost for processes that outlive a killed shim"),
}
LITTLE_SPACE, LITTLE_SHARE = 64 << 20, 0.10  # bytes; of the file system
BACKLOG = 4096  # the kernel's own default of net.core.somaxconn
EARLIEST = 1_750_000_000  # Unix time: when this was not yet written
UNWATCHED = 4096  # inotify watches that a folder of sources may need


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `why` and `fix` are "" when it is OK."""

    subject: str
    level: str
    what: str
    why: str = ""
    fix: str = ""

    def row(self) -> dict[str, str]:
        """As JSON."""
        return {name: getattr(self, name) for name in ("subject", "level", "what", "why")} | {"mend": self.fix}


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of one directory; sizes in bytes. `inodes` is 0 where it has no fixed number of them."""

    path: str
    free: int
    size: int
    inodes_free: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Listener:
    """An address that a unit listens on, and its current owner: "" (nobody), "impetusd", or another process as text."""

    unit: str
    address: str
    port: int
    backlog: int
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Facts about the host. A field is None if it is unknown; then nothing is reported about it."""

    conf: str
    command: str = "impetusd"  # what reaches this instance, for hints
    problems: tuple[str, ...] = ()  # of the INI file
    euid: int = 0
    own: int = 0  # the user that impetusd runs as, or would
    processes: int = 1  # slots that the INI describes
    running: int | None = None  # the shim's pid; None: nothing runs
    nofile: int | None = None  # the hard limit; -1 is infinity
    pids: tuple[int, int] | None = None  # (in use, most) where the cgroup sets a limit
    inotify: tuple[int, int] | None = None  # max_user_instances, max_user_watches
    watches: bool = False  # a unit has `watch`
    cgroup: str | None = None  # our own directory in a cgroup v2 tree; "" without one
    cgroup_writable: bool = False
    controllers: frozenset[str] = frozenset()
    kernel: str = ""
    features: Mapping[str, bool] = field(default_factory=dict)
    users: tuple[str, ...] = ()  # that units run as
    listeners: tuple[Listener, ...] = ()
    somaxconn: int | None = None
    first_port: int = 1024  # the lowest that needs no privilege
    may_bind: bool = True  # any port, all the same
    disks: tuple[Disk, ...] = ()
    files: tuple[tuple[str, Fault], ...] = ()  # files that commands are read from and others can write
    code: tuple[tuple[str, str, Fault], ...] = ()  # unit, and the same of what it runs
    folders: Mapping[str, Inode] = field(default_factory=dict)  # run_dir, state_dir, log_dir, where they are there
    people: tuple[Person, ...] = ()
    way: tuple[Inode, ...] = ()  # from / to the control socket, as far as it is there
    conf_way: tuple[Inode, ...] = ()  # from / to the INI file
    now: float = 0.0  # Unix time
    synchronised: bool | None = None
    python: tuple[int, int, int] = (3, 11, 0)
    executable: str = ""
    package: str = ""  # the folder of impetusd's own code
    compiled: bool = True
    systemd: bool = False  # it runs this host
    services: tuple[str, ...] = ()  # that start this INI file
    first_process: bool = False  # impetusd is PID 1


def _configuration(facts: Facts) -> Iterator[Finding]:
    if facts.problems:
        more = f" and {len(facts.problems) - 1} more" if len(facts.problems) > 1 else ""
        yield Finding(
            "configuration",
            FAIL,
            f"{facts.problems[0]}{more}",
            "impetusd cannot start or apply changes with it",
            f"fix the problems listed by: {facts.command} check",
        )
    else:
        users = f"; users {', '.join(facts.users)} exist" if facts.users else ""
        yield Finding("configuration", OK, f"{facts.conf} has no mistakes{users}")


def _descriptors(facts: Facts) -> Iterator[Finding]:
    if facts.nofile is None:
        return
    need = OWN_DESCRIPTORS + DESCRIPTORS * facts.processes
    if 0 <= facts.nofile < need * 2:
        yield Finding(
            "descriptors",
            FAIL if facts.nofile < need else WARN,
            f"the hard limit (RLIMIT_NOFILE) is {facts.nofile}, but {counted(facts.processes, 'process needs', 'processes need')} about {need}",
            "without a free file descriptor, no program can be started",
            "raise it: LimitNOFILE= in the systemd unit, ulimit -Hn in a shell, --ulimit nofile for a container",
        )
    else:
        limit = "unlimited" if facts.nofile < 0 else str(facts.nofile)
        yield Finding("descriptors", OK, f"{limit}, about {need} needed")


def _processes(facts: Facts) -> Iterator[Finding]:
    if facts.pids is None:
        return
    used, most = facts.pids
    need = 8 if facts.running is not None else facts.processes + 8
    if most - used < need * 2:
        yield Finding(
            "processes",
            FAIL if most - used < need else WARN,
            f"pids.max is {most} and {used} are in use; the INI file needs {counted(facts.processes, 'process', 'processes')}, each of which"
            " may have threads",
            "programs fail in unpredictable ways when they cannot fork",
            "raise it: TasksMax= in the systemd unit, --pids-limit for a container",
        )
    else:
        yield Finding("processes", OK, f"{most - used} left until pids.max ({most})")


def _inotify(facts: Facts) -> Iterator[Finding]:
    if facts.inotify is None:
        return
    instances, watches = facts.inotify
    if instances < 16 or (facts.watches and watches < UNWATCHED):
        yield Finding(
            "inotify",
            WARN,
            f"max_user_instances is {instances}, max_user_watches {watches}",
            "a deleted control socket, and changes to files in `watch`, may go unnoticed",
            "sysctl -w fs.inotify.max_user_instances=128 fs.inotify.max_user_watches=65536, and in /etc/sysctl.d",
        )
    else:
        yield Finding("inotify", OK, f"{instances} instances, {watches} watches")


def _cgroup(facts: Facts) -> Iterator[Finding]:
    if facts.cgroup is None:
        return
    if not facts.cgroup or not facts.cgroup_writable:
        what = f"{facts.cgroup} is not writable" if facts.cgroup else "there is no cgroup v2 tree"
        fix = "run it as root, or with Delegate=yes, which the unit from `impetusd startup` sets"
        yield Finding(
            "cgroup",
            WARN,
            what,
            "leftover processes must be searched for in /proc, where a daemonized process can be missed",
            fix
            if facts.cgroup
            else "boot with systemd.unified_cgroup_hierarchy=1; for containers, use --cgroupns=private",
        )
    elif "memory" not in facts.controllers:
        yield Finding(
            "cgroup",
            WARN,
            f"{facts.cgroup} is writable, and has no memory controller",
            "out-of-memory kills can be detected only from the kernel log",
            "enable memory in cgroup.subtree_control of the parent cgroup",
        )
    else:
        yield Finding("cgroup", OK, f"v2, writable, with memory: {facts.cgroup}")


def _kernel(facts: Facts) -> Iterator[Finding]:
    missing = [name for name, there in facts.features.items() if not there]
    for name in missing:
        since, lost = FEATURES[name]
        yield Finding(
            "kernel",
            WARN if lost else FAIL,
            f"Linux {facts.kernel} has no {name}, which needs Linux {since}",
            lost or "impetusd cannot run without it",
            "use a newer kernel, or allow it in the container's seccomp profile",
        )
    if not missing:
        yield Finding("kernel", OK, f"Linux {facts.kernel} has {', '.join(facts.features)}")


def _ports(facts: Facts) -> Iterator[Finding]:
    taken = 0
    for each in facts.listeners:
        if each.owner not in {"", "impetusd"}:
            taken += 1
            yield Finding(
                "ports",
                FAIL,
                f"{each.unit} listens on {each.address}, which is in use by {each.owner}",
                "it cannot be started",
                f"change the address of {each.unit} or of that process; to find it: ss -ltnp 'sport = :{each.port}'",
            )
        elif each.port and each.port < facts.first_port and not facts.may_bind and not each.owner:
            taken += 1
            yield Finding(
                "ports",
                FAIL,
                f"{each.unit} listens on {each.address}, below {facts.first_port}",
                "this needs root or CAP_NET_BIND_SERVICE",
                f"sysctl -w net.ipv4.ip_unprivileged_port_start={each.port}, or use another port",
            )
    if facts.listeners and not taken:
        yield Finding("ports", OK, ", ".join(dict.fromkeys(f"{each.unit}: {each.address}" for each in facts.listeners)))
    wanted = min([BACKLOG, *(each.backlog for each in facts.listeners)])
    if facts.listeners and facts.somaxconn is not None and facts.somaxconn < wanted:
        yield Finding(
            "backlog",
            WARN,
            f"net.core.somaxconn is {facts.somaxconn}, less than the backlog that units request",
            "under a burst of load, connections beyond it are dropped before they can be accepted",
            f"sysctl -w net.core.somaxconn={BACKLOG}, and in /etc/sysctl.d",
        )


def _disk(facts: Facts) -> Iterator[Finding]:
    fine = True
    for disk in facts.disks:
        for what, free, size, least in (
            (f"{_size(disk.free)} free", disk.free, disk.size, LITTLE_SPACE),
            (f"{disk.inodes_free} inodes free", disk.inodes_free, disk.inodes, 1000),
        ):
            if size and (free < least or free < size * LITTLE_SHARE):
                fine = False
                full = free < least and free < size * LITTLE_SHARE
                yield Finding(
                    "disk",
                    FAIL if full else WARN,
                    f"{disk.path}: {what}, {free * 100 // size}%",
                    "while it is full, program output is dropped (and counted), and state is kept only in memory",
                    "free some space; log_max_size and log_keep limit a unit's logs",
                )
    if facts.disks and fine:
        worst = min(facts.disks, key=lambda disk: disk.free)
        yield Finding("disk", OK, f"{_size(worst.free)} free in {worst.path}")


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GB" if count >= 1 << 30 else f"{count >> 20} MB"


def _files(facts: Facts) -> Iterator[Finding]:
    bad = 0
    for path, fault in facts.files:
        bad += 1
        why = "anyone who can change it can run programs as the user that runs impetusd"
        yield Finding("permissions", FAIL, f"{path}: {fault.what}", why, fault.fix)
    for unit, path, fault in facts.code:
        bad += 1
        why = f"anyone who can change it can run code as the user of {unit}"
        fix = f"give {unit} its own user (user = NAME), or run: {fault.command}"
        yield Finding("permissions", WARN, f"{unit} runs {path}: {fault.what}", why, fix)
    for name, inode in facts.folders.items():
        world = inode.mode & 0o002 and not inode.mode & 0o1000
        if world or inode.uid not in {0, facts.own} or (name == "state_dir" and inode.mode & 0o022):
            bad += 1
            who = f"belongs to user {inode.uid}" if inode.uid not in {0, facts.own} else "is writable by others"
            yield Finding(
                "permissions",
                WARN if name == "log_dir" else FAIL,
                f"{name} {inode.path} {who}",
                "they can remove files in it (links they create are not followed)",
                f"chown {'root' if facts.own == 0 else facts.own} and chmod go-w {inode.path}",
            )
    if not bad:
        yield Finding("permissions", OK, "only the owner can change the INI file and impetusd's data")


def _clock(facts: Facts) -> Iterator[Finding]:
    if facts.now < EARLIEST:
        yield Finding(
            "clock",
            FAIL,
            "the clock is years behind",
            "timers run at the wrong time, log timestamps are wrong, certificates are rejected",
            "set it, and keep it synchronized: systemctl enable --now systemd-timesyncd, or chrony",
        )
    elif facts.synchronised is False:
        yield Finding(
            "clock",
            WARN,
            "the kernel reports the clock as unsynchronized",
            "the clock drifts: timers run too early or too late, and logs from different hosts do not line up",
            "systemctl enable --now systemd-timesyncd, or chrony",
        )
    else:
        yield Finding("clock", OK, "synchronised" if facts.synchronised else "plausible")


def _python(facts: Facts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    if facts.python < (3, 11):
        yield Finding("python", FAIL, f"{version}", "impetusd needs 3.11 or newer", "install it with a newer Python")
    elif not facts.compiled:
        yield Finding(
            "python",
            WARN,
            f"{version}, but impetusd's bytecode is not compiled",
            "every command and every worker start compiles it again, which takes a tenth of a second or more",
            f"run as the user that installed it: {facts.executable} -m compileall -q {facts.package}",
        )
    else:
        yield Finding("python", OK, f"{version}, {facts.executable}")


def _roles(facts: Facts) -> Iterator[Finding]:
    ends = [(inode, SEARCH) for inode in facts.way[:-1]]
    if facts.way:
        is_socket = facts.way[-1].path.endswith("/control.sock")
        ends.append((facts.way[-1], WRITE if is_socket else SEARCH))
    out = access.kept_out(facts.people, ends)
    yield from (
        Finding(
            "roles",
            FAIL,
            f"{person.role} {person.said} cannot reach the control socket because of {inode.path} (mode"
            f" {inode.mode & 0o7777:04o})",
            "the role has no effect",
            f"chmod o+x {inode.path}"
            if inode.mode & 0o40000
            else f"{facts.command} apply; if that fails, see the daemon's log",
        )
        for person, inode in out
    )
    conf = [(inode, SEARCH) for inode in facts.conf_way[:-1]] + [(inode, READ) for inode in facts.conf_way[-1:]]
    unread = access.kept_out((each for each in facts.people if each not in {person for person, _ in out}), conf)
    yield from (
        Finding(
            "roles",
            WARN,
            f"{person.role} {person.said} may not read {inode.path}",
            "commands read the INI file to find the control socket",
            "make it readable for them, and keep passwords in an env_file that is not",
        )
        for person, inode in unread
    )
    if facts.people and not out and not unread:
        names = dict.fromkeys(f"{person.said} ({person.role})" for person in facts.people)
        yield Finding("roles", OK, f"the control socket is open to {', '.join(names)}")


def _boot(facts: Facts) -> Iterator[Finding]:
    if facts.first_process:
        yield Finding("boot", OK, "impetusd is PID 1: the container runtime starts it")
    elif facts.services:
        yield Finding("boot", OK, f"{facts.services[0]}.service starts it")
    elif facts.systemd:
        yield Finding(
            "boot",
            WARN,
            f"no systemd service starts {facts.conf}",
            "after a reboot, none of its programs run",
            f"{facts.command} startup{'' if facts.own == 0 else ' --user'}",
        )


JUDGES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    *(_configuration, _files, _roles, _ports, _disk, _descriptors, _processes, _inotify, _cgroup, _kernel, _clock),
    *(_python, _boot),
)


def examine(facts: Facts) -> list[Finding]:
    """Every finding, by subject."""
    return [finding for judge in JUDGES for finding in judge(facts)]


def worst(findings: Collection[Finding]) -> str:
    """The worst level among them."""
    return max((finding.level for finding in findings), key=LEVELS.index, default=OK)


def report(findings: Collection[Finding]) -> dict[str, Any]:
    """As JSON."""
    return {"level": worst(findings), "findings": [finding.row() for finding in findings]}
