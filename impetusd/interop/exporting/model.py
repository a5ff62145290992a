"""What stands between an INI file and what another engine reads: workloads, each a container that runs one unit.

A container runs `impetusd run` with an INI of this unit alone (`Workload.ini`), so that most keys mean there what they mean
here; what is left says what the engine has to do. No value of a variable that may be secret is in any of it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from impetusd.interop.importing.model import Fate, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from impetusd.interop.importing.model import Rule

APP = "/app"  # base_dir in the container
DATA = "/data"  # what ${STATE_DIR} is to a unit there
TMP = "/tmp"  # noqa: S108  # in memory, the container's own; each image has it, with the mode that lets every user write
HOME = f"{TMP}/impetusd"  # impetusd's own folders
CONF = "/etc/impetusd/impetusd.ini"
SECRETS = "/run/secrets"
UID = 10001  # whom the image runs as
OVERHEAD = 96 << 20  # bytes: impetusd and a pool's template
PRE_STOP = 5  # seconds in which a load balancer learns that a pod is to go
LONGEST_NAME = 50  # a CronJob's may have 52 characters, and its pods' names are longer


class Target(Enum):
    """For whom it is written."""

    COMPOSE = "compose"
    KUBERNETES = "kubernetes"


class Role(Enum):
    """What a workload is to the engine."""

    SERVICE = "service"  # it runs all the time
    ONCE = "once"  # it does its work at each deployment, and ends
    CRON = "cron"  # the engine starts it at its times


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. `name`: of all of it, for labels and the image; `per_container`: instances."""

    target: Target
    name: str
    image: str
    per_container: int = 1
    before: bool = False  # Kubernetes: oneshots and waiting in initContainers of who depends on them
    dnsrr: bool = False  # compose: without Swarm's virtual addresses


@dataclass(frozen=True, slots=True)
class Port:
    """A TCP port that the unit listens on. `published`: also to others than the containers."""

    number: int
    published: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """How an engine asks. `kind`: "http", "tcp" or "exec"; seconds."""

    kind: str
    port: int = 0
    path: str = ""
    scheme: str = "HTTP"
    headers: tuple[tuple[str, str], ...] = ()
    argv: tuple[str, ...] = ()
    every: int = 10
    timeout: int = 5
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a CRON workload runs. `late`: seconds after which a run is missed; 0 for never."""

    cron: str
    timezone: str
    replace: bool
    late: int
    timeout: int
    retries: int


@dataclass(slots=True, kw_only=True)
class Workload:
    """One kind of container. `unit` is its name in the INI, `name` a host's name made of that.

    `needs`: variables that the container must be given → whether it can do without; `secret`: variables whose values the INI
    has, which are left out; `env_files`: the files it reads there, likewise.
    """

    unit: str
    name: str
    role: Role = Role.SERVICE
    ini: str = ""
    argv: tuple[str, ...] = ("run",)
    replicas: int = 1
    replicas_max: int = 1
    ports: tuple[Port, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, bool] = field(default_factory=dict)
    secret: tuple[str, ...] = ()
    env_files: tuple[str, ...] = ()
    memory: int = 0  # bytes that it is expected to need, 0 if the INI does not say
    memory_max: int = 0
    cpu_max: int = 0  # hundredths of a CPU
    startup: Probe | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    start_period: int = 30  # seconds in which it may become ready
    grace: int = 10  # seconds from being asked to stop to being killed
    parallel: int = 1  # how many are replaced at a time
    settle: int = 0  # seconds for which a new one must be well
    tries: int = 0  # of a ONCE workload, how often it is tried again
    timeout: int = 0  # ... and the seconds that it has, 0 for any
    timer: bool = False  # a SERVICE in which impetusd runs a timer
    data: bool = False  # it has the volume
    uid: int = UID
    gid: int = UID
    capabilities: tuple[str, ...] = ()
    privileges: bool = False  # it may gain some by executing a program
    log_size: int = 0  # bytes
    log_keep: int = 0
    log_compress: bool = False
    schedule: Schedule | None = None
    depends_on: tuple[str, ...] = ()  # names of workloads
    waits: tuple[tuple[str, int], ...] = ()  # name and port of those that must answer before
    before: list[Workload] = field(default_factory=list)  # what is done before, in the same pod

    @property
    def digest(self) -> str:
        """Of the INI: another text has another."""
        return hashlib.sha256(self.ini.encode()).hexdigest()[:10]

    @property
    def env_file(self) -> str:
        """The name of its file of secret variables."""
        return f"{self.name}.env"

    @property
    def secret_name(self) -> str:
        """Kubernetes: of the Secret that its variables are from."""
        return f"{self.name}-secret"

    @property
    def file_secret_name(self) -> str:
        """Kubernetes: of the Secret that its file of variables is from."""
        return f"{self.name}-env-file"

    @property
    def is_alone(self) -> bool:
        """Whether two of them must not run at once: both would write the same files, or run the same timer."""
        return self.timer or (self.has_volume and self.replicas_max == 1)

    @property
    def has_volume(self) -> bool:
        """Whether it, or what is done before in its pod, uses the volume."""
        return any(each.data for each in (*self.before, self))


@dataclass(slots=True)
class Exported:
    """All of it, and what became of each key. `differs`: what changes though no key says so; `todo`: what is left to do."""

    options: Options
    workloads: list[Workload] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)
    todo: list[str] = field(default_factory=list)

    def row(self, file: str, line: int, section: str, key: str, old: str, rule: Rule, new: str = "") -> None:  # noqa: PLR0917
        """Note what became of a key."""
        new = new or (rule.ours if rule.fate is Fate.TRANSLATED else "")
        self.rows.append(Row(file, line, section, key, old, rule.fate, new, rule.why))

    def differ(self, text: str) -> None:
        """Note, once, what changes."""
        if text not in self.differs:
            self.differs.append(text)

    def do(self, text: str) -> None:
        """Note, once, what is left to do."""
        if text not in self.todo:
            self.todo.append(text)

    def with_data(self) -> Iterator[Workload]:
        """Those whose containers have the volume."""
        return (each for each in self.workloads if each.has_volume)

    def containers(self) -> Iterable[Workload]:
        """Each workload once, also those that are done before others."""
        return {each.name: each for top in self.workloads for each in (*top.before, top)}.values()


def host_name(wanted: str, taken: Collection[str] = ()) -> str:
    """A name that a host, a Service and a CronJob may have (RFC 1035), made of `wanted` and not among `taken`."""
    name = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    name = name if name[:1].isalpha() else f"unit-{name}".rstrip("-")
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 9].rstrip('-')}-{hashlib.sha256(wanted.encode()).hexdigest()[:8]}"
    found, number = name, 1
    while found in taken:
        number += 1
        suffix = f"-{number}"
        found = name[: LONGEST_NAME - len(suffix)].rstrip("-") + suffix
    return found
