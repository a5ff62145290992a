"""A slot as the supervisor holds it: its configuration, its record, its timer, its names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from enum import Enum

from impetusd.core.lifecycle import Slot, State
from impetusd.core.model import Autorestart, Config, Kind, Unit
from impetusd.core.policy import EX_CONFIG, Policy, policy_of
from impetusd.supervisor.record import Record

IDLE = frozenset({State.STOPPED, State.EXITED, State.FATAL})


class Role(Enum):
    """What a slot is in its unit."""

    PROGRAM = "program"
    TEMPLATE = "template"
    WORKER = "worker"
    STANDBY = "standby"
    LEAVING = "leaving"  # a worker that another has taken over from; it drains, and its slot goes with it
    JOB = "timer"  # the process of a timer
    CHECK = "health"  # the process of a health check


SERVING = frozenset({Role.PROGRAM, Role.WORKER})
FORKED = frozenset({Role.WORKER, Role.STANDBY})
ONE_SHOT = frozenset({Role.JOB, Role.CHECK})


class Entry:
    """A slot with its configuration, its record and its timer."""

    __slots__ = (
        *("dismissed", "extra", "index", "name", "policy", "rec", "role", "tail_due", "timer", "unit", "waits"),
    )

    def __init__(self, unit: Unit, role: Role, index: int) -> None:
        self.unit = unit
        self.role = role
        self.index = index
        self.name = slot_name(unit, role, index)
        self.policy = policy_for(unit, role)
        self.rec = Record()
        self.timer: asyncio.TimerHandle | None = None
        self.waits: Callable[[], str] | None = None  # what its start waits for
        self.tail_due = False  # the writer was asked for the tail of the last run
        self.dismissed = False  # scaled away: forgotten once it is stopped
        self.extra = False  # a standby made for one replacement only

    @property
    def slot(self) -> Slot:
        """The machine's part."""
        return self.rec.slot


def slot_name(unit: Unit, role: Role, index: int) -> str:
    """web:0, web:template, web:standby, web:standby:1, web:0:leaving."""
    match role:
        case Role.TEMPLATE:
            return f"{unit.name}:template"
        case Role.STANDBY:
            return f"{unit.name}:standby" if index == 0 else f"{unit.name}:standby:{index}"
        case Role.LEAVING:
            return f"{unit.name}:{index}:leaving"
        case Role.JOB | Role.CHECK:
            return unit.name
        case _:
            return f"{unit.name}:{index}"


def policy_for(unit: Unit, role: Role) -> Policy:
    """A pool's slots tell when they are ready, and exit with EX_CONFIG when the application cannot be imported.

    A template has no event loop that a watchdog could watch; a worker that leaves is not replaced: that it has been.
    """
    match role:
        case Role.WORKER | Role.STANDBY:
            return policy_of(unit, fatal_exit_codes=(EX_CONFIG,))
        case Role.TEMPLATE:
            return replace(policy_of(unit, fatal_exit_codes=(EX_CONFIG,)), watchdog=0.0)
        case Role.LEAVING:
            return replace(policy_of(unit), autorestart=Autorestart.NEVER, retry_after=0.0)
        case _:
            return policy_of(unit)


def differ(unit: Unit) -> bool:
    """Whether a process is made for one place, since each instance has values of its own."""
    return bool(unit.per_instance or unit.increment_var)


def with_jobs(config: Config) -> list[Unit]:
    """Everything that has slots unless it is switched off: units, and the commands of timers and health checks."""
    jobs = [timer.unit for timer in config.timers.values()]
    jobs += [check.unit for check in config.health.values() if check.unit is not None]
    return [*config.units.values(), *jobs]


def roles(unit: Unit, instances: int) -> list[tuple[Role, int]]:
    """The slots that a unit has, in the order in which they are shown."""
    match unit.kind:
        case Kind.PROGRAM:
            return [(Role.PROGRAM, index) for index in range(instances)]
        case Kind.TIMER:
            return [(Role.JOB, 0)]
        case Kind.HEALTH:
            return [(Role.CHECK, 0)]
    template = [(Role.TEMPLATE, 0)] if unit.preload else []
    workers = [(Role.WORKER, index) for index in range(instances)]
    return template + workers + [(Role.STANDBY, index) for index in range(unit.standby)]


def log_files(unit: Unit, role: Role, index: int, instances: int, log_dir: str) -> tuple[str, str]:
    """Where a slot's stdout and stderr go: out_file and error_file, one a slot unless merge_logs."""
    single = role in ONE_SHOT or (role is Role.PROGRAM and instances == 1)
    role = Role.WORKER if role is Role.LEAVING else role  # it goes on writing where it wrote
    suffix = "" if single or unit.merge_logs else "-" + slot_name(unit, role, index).partition(":")[2].replace(":", "-")

    def path(key: str, given: str, stream: str) -> str:
        if given and key in unit.per_instance:
            return given
        if not given:
            return f"{log_dir}/{unit.name.replace(':', '-')}{suffix}-{stream}.log"
        base, extension = os.path.splitext(given)
        return f"{base}{suffix}{extension}"

    return path("out_file", unit.out_file, "out"), path("error_file", unit.error_file, "error")
