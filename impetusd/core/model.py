"""What an INI file means: frozen, complete, checked. Built by `core.config`, read by everyone else.

Durations are seconds (float), sizes bytes (int), paths absolute. A field's meaning to the operator stands in
`core.schema`; this file only gives it a type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a section describes."""

    POOL = "pool"
    PROGRAM = "program"


class Autorestart(Enum):
    """When an ended process is started again without being asked."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Listen:
    """One listening address: `host` and `port` for tcp, `path` for a unix socket (then host is '' and port 0)."""

    host: str
    port: int
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A `[pool:NAME]` or `[program:NAME]`: what may be started, how often, as whom, under which policy."""

    name: str
    kind: Kind
    where: str  # "file:line" of the section's header
    # what runs
    command: tuple[str, ...]  # programs: argv; pools: ()
    app: str  # pools: "package.module:factory"; programs: ""
    interpreter: str  # pools: the python that runs the worker runtime; "" is the daemon's own
    preload: bool
    standby: int
    listen: tuple[Listen, ...]
    backlog: int
    drain_timeout: float
    # when
    enabled: bool
    autostart: bool
    instances: int
    depends_on: tuple[str, ...]
    wait_ready: bool
    listen_timeout: float
    # restart policy
    autorestart: Autorestart
    stop_exit_codes: tuple[int, ...]
    min_uptime: float
    max_restarts: int
    restart_window: float
    restart_delay: float
    exp_backoff_restart_delay: float
    exp_backoff_max_delay: float
    # stopping
    kill_signal: int
    kill_timeout: float
    treekill: bool
    # the process's surroundings
    cwd: str
    user: str
    group: str
    umask: int
    nice: int
    oom_score_adj: int
    cpu_affinity: tuple[int, ...]
    rlimits: tuple[tuple[str, int, int], ...]  # (name as in resource.RLIMIT_<NAME>, soft, hard); -1 is infinity
    env: Mapping[str, str]
    env_file: tuple[str, ...]
    # logs; "" is the default file of the slot in log_dir
    out_file: str
    error_file: str
    merge_logs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where an instance of impetusd lives. `state_dir` identifies it: one manager per state directory."""

    conf: str  # the INI file
    base_dir: str
    run_dir: str
    state_dir: str
    log_dir: str

    @property
    def control_socket(self) -> str:
        return f"{self.run_dir}/control.sock"

    @property
    def notify_socket(self) -> str:
        return f"{self.run_dir}/notify.sock"

    @property
    def log_file(self) -> str:
        """impetusd's own log."""
        return f"{self.log_dir}/impetusd.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One whole configuration. `units` is in the file's order; disabled ones are in it, with `enabled` False."""

    paths: Paths
    units: Mapping[str, Unit]


@dataclass(frozen=True, slots=True)
class Host:
    """What checking a configuration needs to know of the machine; tests pass another one."""

    euid: int
    cpus: int
    user_exists: Callable[[str], bool]
    group_exists: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in an INI file, as the operator reads it."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


class ConfigError(Exception):
    """The configuration has problems; `problems` holds every one of them, in the file's order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
