"""The checked configuration as frozen dataclasses. Built by `core.config.parser`, read by everything else.

Durations are seconds (float), sizes bytes (int), paths absolute. A field's meaning to the operator stands in
`core.config.schema`; this file only gives it a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from enum import Enum
from typing import Any

from impetusd.core.config.location import Paths
from impetusd.core.config.problem import Problem
from impetusd.core.values import dataclass

HIGHEST_ID = 0xFFFFFFFF  # which stands for no uid or gid


class Kind(Enum):
    """The kind of unit that a section describes."""

    POOL = "pool"
    PROGRAM = "program"
    TIMER = "timer"  # a timer's job; its unit is in a Timer, not among the units
    HEALTH = "health"  # the command of a health check; its unit is in a Health


class Autorestart(Enum):
    """When an ended process is restarted automatically."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class Overlap(Enum):
    """What happens to a timer's run that is due while the previous one still runs."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"


class Action(Enum):
    """What a health check does when its target is unhealthy."""

    RESTART = "restart"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class Ready:
    """How readiness is detected for a program without the notify protocol.

    `kind` and `value`: "http" and a URL, "tcp" and HOST:PORT, "log" and a regular expression for a line of this run,
    "listen" and "" for Node, whose preload reports it.
    """

    kind: str
    value: str

    def __str__(self) -> str:
        return (
            self.kind if self.kind == "listen" else self.value if self.kind == "http" else f"{self.kind}:{self.value}"
        )


ANY_V4, ANY_V6 = "0.0.0.0", "::"  # noqa: S104 (compared, not bound)
UNIX_MODE = 0o660  # of a unix socket that nothing else is said of


@dataclass(frozen=True, slots=True)
class Listen:
    """One listening address: `host` and `port` for tcp, `path` for a unix socket (then host is '' and port 0).

    For a unix socket, `mode` is its file mode and `owner` its owner ("user", "user:group", ":group"); "": impetusd's
    own. `v6only`: whether [::] leaves IPv4 alone; None is as the host has it (net.ipv6.bindv6only).
    """

    host: str
    port: int
    path: str = ""
    mode: int = UNIX_MODE
    owner: str = ""
    v6only: bool | None = None
    more_ports: int = 0  # above `port`, of which one is taken where that is in use

    def __str__(self) -> str:
        mode = f" mode={self.mode:04o}" if self.mode != UNIX_MODE else ""
        v6only = "" if self.v6only is None else f" v6only={'yes' if self.v6only else 'no'}"
        return self._address + mode + (f" owner={self.owner}" if self.owner else "") + v6only

    @property
    def _address(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def place(self) -> str:
        """The address without mode and owner: a name for the socket. A plain [::] is IPv6 alone, as it once was."""
        both = self.host == ANY_V6 and not self.v6only
        return self._address + (f" v6only={'host' if self.v6only is None else 'no'}" if both else "")

    def clashes(self, other: Listen) -> bool:
        """True if both cannot be bound: they are equal, or one is the wildcard of the other's family."""
        if (self.path, self.port) != (other.path, other.port):
            return False
        return self.host == other.host or self._covers(other) or other._covers(self)

    def _covers(self, other: Listen) -> bool:
        """Whether it is a wildcard that covers the other's address; [::] may cover IPv4, too, unless v6only is set."""
        if self.host == ANY_V6:
            return ":" in other.host or not self.v6only
        return self.host == ANY_V4 and ":" not in other.host


@dataclass(frozen=True, slots=True)
class Made:
    """The origin of a unit that impetusd makes of sections like [gateway]: their settings, and the unit's own folder.

    `settings`: key → its value, and how one would write that without its secrets. The unit's processes inherit a descriptor
    over which they ask for connections to the supervisor: see `supervisor.api.inherited`.

    `closed`: what of impetusd's code its user does not get to, which is why it is not started; "" for nothing.
    """

    settings: Mapping[str, tuple[object, str]]
    folder: str
    closed: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """A section that is not a unit itself, [gateway] or [alert:NAME]: each key that it takes, with its value."""

    name: str  # "" of [gateway]
    where: str  # "file:line" of the section's header
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A unit's command, number of processes, user and policies: a `[pool:NAME]`, a `[program:NAME]`, or the one-shot
    command of a `[timer:NAME]` or `[health:NAME]`.

    A default here applies to units whose kind does not take the key; the keys' own defaults are in
    `core.config.schema`.
    """

    name: str
    kind: Kind
    where: str  # "file:line" of the section's header
    # how many lines below the header each key stands that its section sets
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    # what runs
    command: tuple[str, ...] = ()  # all but pools: argv
    type: str = "simple"  # programs: "oneshot" does its work and ends
    node: str = "no"  # programs: whether our preload is loaded into it, or "auto"; see `config.node`
    app: str = ""  # pools: "package.module:factory"
    interpreter: str = ""  # pools: the python that runs the worker runtime; "" is the daemon's own
    protocol: str = "auto"
    threads: int = 8
    root_path: str = ""
    preload: bool = False
    standby: int = 0
    listen: tuple[Listen, ...] = ()
    backlog: int = 65535
    drain_timeout: float = 0.0
    instances: int = 1
    instances_max: int = 1  # `instances`, or the end of a range like 2..8
    per_instance: frozenset[str] = frozenset()  # keys and variables with ${INSTANCE}: see `config.parse(…, instance=N)`
    increment_var: str = ""  # the variable that grows by the instance's number
    # when
    enabled: bool
    autostart: bool = False
    depends_on: tuple[str, ...] = ()
    wait_ready: bool = False
    ready: Ready | None = None  # programs: waited for as with wait_ready, which is False then
    listen_timeout: float = 30.0
    reload_parallel: int = 1
    reload_watch: float = 0.0
    # restart policy
    autorestart: Autorestart = Autorestart.NEVER
    stop_exit_codes: tuple[int, ...] = ()
    min_uptime: float = 0.0
    max_restarts: int = 0
    restart_window: float = 60.0
    restart_delay: float = 0.0
    exp_backoff_restart_delay: float = 0.0
    exp_backoff_max_delay: float = 0.0
    retry_after: float = 0.0  # of what is FATAL; 0 is never
    on_fatal: str = "refuse"  # pools: what becomes of its sockets while nobody can serve
    critical: bool = False  # its FATAL is the end of all
    # restarts of what is healthy; "", 0 and () are none
    cron_restart: str = ""
    timezone: str = ""  # of cron_restart; "" is the host's
    max_age: float = 0.0
    max_requests: int = 0  # pools
    access_log: bool = False  # pools
    header_timeout: float = 0.0  # pools; seconds, 0 is any time
    body_timeout: float = 0.0
    watch: tuple[str, ...] = ()
    watch_ignore: tuple[str, ...] = ()  # globs
    watch_delay: float = 0.5
    # what is not healthy; 0 is no limit
    max_memory_restart: int = 0
    memory_hold: float = 0.0
    max_memory_kill: int = 0
    memory_max: int = 0  # of each process's cgroup, as is cpu_max
    cpu_max: int = 0  # hundredths of a CPU
    watchdog: float = 0.0
    # stopping
    kill_signal: int = 15
    kill_timeout: float
    treekill: bool = True
    # the process's surroundings
    cwd: str
    user: str
    group: str
    no_new_privs: str = "auto"  # or "yes", "no"
    capabilities: tuple[str, ...] = ()  # as in core.capabilities; () is what `user` implies
    umask: int
    nice: int
    oom_score_adj: int = 0
    cpu_affinity: tuple[int, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()  # (name as in resource.RLIMIT_<NAME>, soft, hard); -1 is infinity
    env: Mapping[str, str]
    env_file: tuple[str, ...]
    env_pass: tuple[str, ...] = ()  # patterns of what impetusd hands on, and behind ! of what it does not
    made: Made | None = None  # None: the unit has a section of its own
    rules: int = 3  # by which its section was read, and its env_file is: see `ini.RULES`
    # logs; "" is the default file of the slot in log_dir
    out_file: str = ""
    error_file: str = ""
    merge_logs: bool = False
    time: bool = False
    log_format: str = "plain"  # or "json"
    log_max_line: int = 1 << 18  # bytes
    log_max_size: int = 0  # bytes; 0 is no limit
    log_max_age: float = 0.0  # 0 is no limit
    log_keep: int = 7
    log_compress: bool = True


def user_and_group(user: str) -> tuple[str, str]:
    """The user, and a group or "", in a value of `user`, each by name or by number; uid:gid."""
    name, _, group = user.partition(":")
    return name, group


def number_of(name: str) -> int | None:
    """The uid or gid if it is a number, which needs no name; None for a name."""
    number = int(name) if name.isascii() and name.isdecimal() and len(name) <= 10 else HIGHEST_ID
    return number if number < HIGHEST_ID else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A `[timer:NAME]`: when its job runs. Exactly one of `cron` and `every` is set."""

    name: str
    where: str  # "file:line" of the section's header
    unit: Unit  # the job: kind TIMER, never restarted by the restart policy
    enabled: bool
    cron: str
    timezone: str  # of `cron`; "" is the host's
    every: float
    timeout: float  # 0 is none
    retries: int
    retry_delay: float
    overlap: Overlap
    jitter: float  # up to so many seconds later
    catch_up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """A `[health:NAME]` section: a check of a unit, and its action. Exactly one of `http`, `tcp`, `unit` is set."""

    name: str
    where: str  # "file:line" of the section's header
    enabled: bool
    target: str  # a unit's name
    http: str  # a URL, or a path alone: of each worker of a pool, or by way of `socket`
    tcp: str  # HOST:PORT
    unit: Unit | None  # the command of an `exec` check, kind HEALTH
    status: tuple[tuple[int, int], ...]  # ranges, ends included
    body: str  # text that the answer must contain
    headers: tuple[tuple[str, str], ...]
    socket: str  # the path of a unix socket that `http` goes through
    ca_file: str  # "" is the host's own
    verify: bool
    interval: float
    timeout: float
    start_period: float
    failures: int
    successes: int
    action: Action


@dataclass(frozen=True, slots=True)
class Group:
    """A `[group:NAME]`: a name for several units, in the order in which the section names them."""

    name: str
    where: str  # "file:line" of the section's header
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who has which role besides root and the daemon's own user: users by name or number, groups prefixed with @."""

    viewers: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    admins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogAccess:
    """Who may read log files. `log_mode`: None leaves files as they are, and makes new ones 0640. `log_owner`: "user",
    "user:group" or ":group", each by name or by number; "" leaves them as they are.
    """

    log_mode: int | None = None
    log_owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A complete configuration, in the file's order. Disabled units are included, with `enabled` False."""

    paths: Paths
    access: Access = Access()
    logs: LogAccess = LogAccess()
    units: Mapping[str, Unit]
    timers: Mapping[str, Timer] = field(default_factory=dict)
    health: Mapping[str, Health] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    gateway: Settings | None = None
    alerts: Mapping[str, Settings] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()  # valid, but more often a mistake
    profile: str = ""  # its [env:NAME@PROFILE] override [env:NAME]; "" is none

    def with_jobs(self) -> list[Unit]:
        """Everything that has processes unless it is switched off: units, and the commands of timers and health checks."""
        jobs = [timer.unit for timer in self.timers.values()]
        jobs += [check.unit for check in self.health.values() if check.unit is not None]
        return [*self.units.values(), *jobs]


@dataclass(frozen=True, slots=True)
class Host:
    """The facts about the machine that checking a configuration needs; tests pass their own."""

    euid: int
    cpus: int
    user_exists: Callable[[str], bool]
    group_exists: Callable[[str], bool]
    has_watch: bool = True  # whether the package watchfiles is there
    closed: str = ""  # the folder or file of impetusd's own code that other users do not get to; "" for none
