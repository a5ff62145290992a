"""What is wrong with a host, or soon will be, for an impetusd: facts in, findings out. Pure.

A finding states a fact and, if something is wrong, why it matters and how to fix it. `FAIL` keeps impetusd or a program
from working; `WARN` will hurt one day. `JUDGES` is in the order of the report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from impetusd.core import access
from impetusd.core.access import READ, SEARCH, WRITE, Inode, Person

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
    "pidfd_getfd": ("5.6", "descriptors cannot be taken back from a process that survives"),
    "cgroup.kill": ("5.14", "a tree of processes is ended one by one, racing with its forks"),
    "SO_PEERPIDFD": ("6.5", "who asks on the control socket is known by number alone"),
    "PIDFD_INFO_EXIT": ("6.15", "the exit status of what outlived a killed shim is not known"),
}
LITTLE_SPACE, LITTLE_SHARE = 64 << 20, 0.10  # bytes; of the file system
BACKLOG = 4096  # the kernel's own default of net.core.somaxconn
EARLIEST = 1_750_000_000  # Unix time: when this was not yet written
UNWATCHED = 4096  # inotify watches that a folder of sources may need


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `why` and `mend` are "" when it is OK."""

    subject: str
    level: str
    what: str
    why: str = ""
    mend: str = ""

    def row(self) -> dict[str, str]:
        """As JSON."""
        return {name: getattr(self, name) for name in ("subject", "level", "what", "why", "mend")}


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
    """An address that a unit listens on, and who has it now: "" nobody, "impetusd", or another process as text."""

    unit: str
    address: str
    port: int
    backlog: int
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found; None: it could not be found out, and nothing is reported."""

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
            "nothing can be started with it, and no change applied",
            f"fix what this reports: {facts.command} check",
        )
    else:
        users = f"; users {', '.join(facts.users)} are known" if facts.users else ""
        yield Finding("configuration", OK, f"{facts.conf} has no mistake{users}")


def _descriptors(facts: Facts) -> Iterator[Finding]:
    if facts.nofile is None:
        return
    need = OWN_DESCRIPTORS + DESCRIPTORS * facts.processes
    if 0 <= facts.nofile < need * 2:
        yield Finding(
            "descriptors",
            FAIL if facts.nofile < need else WARN,
            f"the hard limit (RLIMIT_NOFILE) is {facts.nofile}; {facts.processes} processes take about {need}",
            "without a spare one no program can be started",
            "raise it: LimitNOFILE= in the unit of systemd, ulimit -Hn in a shell, --ulimit nofile of a container",
        )
    else:
        limit = "unlimited" if facts.nofile < 0 else str(facts.nofile)
        yield Finding("descriptors", OK, f"{limit} for about {need}")


def _processes(facts: Facts) -> Iterator[Finding]:
    if facts.pids is None:
        return
    used, most = facts.pids
    need = 8 if facts.running is not None else facts.processes + 8
    if most - used < need * 2:
        yield Finding(
            "processes",
            FAIL if most - used < need else WARN,
            f"pids.max is {most} and {used} are in use; the INI file wants {facts.processes}, and each may have threads",
            "a program that cannot fork fails in ways of its own",
            "raise it: TasksMax= in the unit of systemd, --pids-limit of a container",
        )
    else:
        yield Finding("processes", OK, f"{most - used} more before pids.max ({most})")


def _inotify(facts: Facts) -> Iterator[Finding]:
    if facts.inotify is None:
        return
    instances, watches = facts.inotify
    if instances < 16 or (facts.watches and watches < UNWATCHED):
        yield Finding(
            "inotify",
            WARN,
            f"max_user_instances is {instances}, max_user_watches {watches}",
            "a removed control socket, and changes in what `watch` names, may go unnoticed",
            "sysctl -w fs.inotify.max_user_instances=128 fs.inotify.max_user_watches=65536, and in /etc/sysctl.d",
        )
    else:
        yield Finding("inotify", OK, f"{instances} instances, {watches} watches")


def _cgroup(facts: Facts) -> Iterator[Finding]:
    if facts.cgroup is None:
        return
    if not facts.cgroup or not facts.cgroup_writable:
        what = f"{facts.cgroup} is not writable" if facts.cgroup else "there is no cgroup v2 tree"
        mend = "run it as root, or with Delegate=yes, which the unit of `impetusd startup` has"
        yield Finding(
            "cgroup",
            WARN,
            what,
            "what a program leaves behind is looked for in /proc, where a daemon can hide, and not ended at once",
            mend if facts.cgroup else "boot with systemd.unified_cgroup_hierarchy=1; containers: --cgroupns=private",
        )
    elif "memory" not in facts.controllers:
        yield Finding(
            "cgroup",
            WARN,
            f"{facts.cgroup} is writable, and has no memory controller",
            "whom the kernel killed for memory is known from its log only",
            "have memory in cgroup.subtree_control of the cgroup above it",
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
            f"Linux {facts.kernel} has no {name}, which is in {since}",
            lost or "impetusd cannot run without it",
            "use a newer kernel, or let the container's seccomp profile permit it",
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
                f"{each.unit} listens on {each.address}, which {each.owner} has",
                "it cannot be started",
                f"give {each.unit} another address, or that process; who it is: ss -ltnp 'sport = :{each.port}'",
            )
        elif each.port and each.port < facts.first_port and not facts.may_bind and not each.owner:
            taken += 1
            yield Finding(
                "ports",
                FAIL,
                f"{each.unit} listens on {each.address}, below {facts.first_port}",
                "only root, or who has CAP_NET_BIND_SERVICE, may do so",
                f"sysctl -w net.ipv4.ip_unprivileged_port_start={each.port}, or another port",
            )
    if facts.listeners and not taken:
        yield Finding("ports", OK, ", ".join(dict.fromkeys(f"{each.unit}: {each.address}" for each in facts.listeners)))
    wanted = min([BACKLOG, *(each.backlog for each in facts.listeners)])
    if facts.listeners and facts.somaxconn is not None and facts.somaxconn < wanted:
        yield Finding(
            "backlog",
            WARN,
            f"net.core.somaxconn is {facts.somaxconn}, less than the backlog that units ask for",
            "in a rush, connections beyond it are dropped before anybody could accept them",
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
                    "what programs print is dropped, and counted, while it is full; state is kept in memory only",
                    "make room; log_max_size and log_keep bound what a unit writes",
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
        why = "whoever can change it can have programs run as the user that runs impetusd"
        yield Finding("permissions", FAIL, f"{path}: {fault.what}", why, fault.fix)
    for unit, path, fault in facts.code:
        bad += 1
        why = f"whoever can change it has code run as the user of {unit}"
        mend = f"give {unit} a user of its own (user = NAME), or {fault.command}"
        yield Finding("permissions", WARN, f"{unit} runs {path}: {fault.what}", why, mend)
    for name, inode in facts.folders.items():
        world = inode.mode & 0o002 and not inode.mode & 0o1000
        if world or inode.uid not in {0, facts.own} or (name == "state_dir" and inode.mode & 0o022):
            bad += 1
            who = f"belongs to user {inode.uid}" if inode.uid not in {0, facts.own} else "can be written to by others"
            yield Finding(
                "permissions",
                WARN if name == "log_dir" else FAIL,
                f"{name} {inode.path} {who}",
                "they can remove what is in it; links that they plant are not followed",
                f"chown {'root' if facts.own == 0 else facts.own} and chmod go-w {inode.path}",
            )
    if not bad:
        yield Finding("permissions", OK, "only its owner can change the INI file, and what impetusd keeps")


def _clock(facts: Facts) -> Iterator[Finding]:
    if facts.now < EARLIEST:
        yield Finding(
            "clock",
            FAIL,
            "it is years behind",
            "timers run at the wrong time, logs are dated wrongly, certificates are refused",
            "set it, and have it kept: systemctl enable --now systemd-timesyncd, or chrony",
        )
    elif facts.synchronised is False:
        yield Finding(
            "clock",
            WARN,
            "the kernel does not have it as synchronised",
            "it drifts: timers run too early or late, and logs of two hosts do not match",
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
            f"{version}, and impetusd is not compiled",
            "each command, and each start of a worker, compiles it again: a tenth of a second and more",
            f"as the user that has installed it: {facts.executable} -m compileall -q {facts.package}",
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
            f"{person.role} {person.said} does not reach the control socket: {inode.path} ({inode.mode & 0o7777:04o})"
            " is in the way",
            "the role is of no use",
            f"chmod o+x {inode.path}" if inode.mode & 0o40000 else f"{facts.command} apply; the daemon's log says more",
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
            "the command line finds the control socket by the INI file",
            "let them read it, with passwords in an env_file that they may not read",
        )
        for person, inode in unread
    )
    if facts.people and not out and not unread:
        names = dict.fromkeys(f"{person.said} ({person.role})" for person in facts.people)
        yield Finding("roles", OK, f"the control socket is open to {', '.join(names)}")


def _boot(facts: Facts) -> Iterator[Finding]:
    if facts.first_process:
        yield Finding("boot", OK, "impetusd is PID 1: what runs the container starts it")
    elif facts.services:
        yield Finding("boot", OK, f"{facts.services[0]}.service starts it")
    elif facts.systemd:
        yield Finding(
            "boot",
            WARN,
            f"no service of systemd starts {facts.conf}",
            "after a reboot, nothing of it runs",
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
