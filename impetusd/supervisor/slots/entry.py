"""A slot as the supervisor holds it: its configuration, its record, its timer, its names."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum

from impetusd.core.config.logpaths import log_file
from impetusd.core.config.model import Autorestart, Kind, Unit
from impetusd.core.reasons import Reason
from impetusd.core.rules.lifecycle import Slot, State
from impetusd.core.rules.policy import EX_CONFIG, Policy, policy_of
from impetusd.core.rules.reload import Part
from impetusd.supervisor.slots.record import Record


class Role(Enum):
    """A slot's role in its unit."""

    PROGRAM = "program"
    TEMPLATE = "template"
    NEXT_TEMPLATE = "next template"  # of the version that a reload brings
    WORKER = "worker"
    NEXT = "next"  # serves, and is to take the place of a worker or of a program
    STANDBY = "standby"
    LEAVING = "leaving"  # another has taken over from it; it drains, and its slot goes with it
    JOB = "timer"  # the process of a timer
    CHECK = "health"  # the process of a health check


SERVING = frozenset({Role.PROGRAM, Role.WORKER})
FORKING = frozenset({Role.TEMPLATE, Role.NEXT_TEMPLATE})
ONE_SHOT = frozenset({Role.JOB, Role.CHECK})
PASSING = frozenset({Role.NEXT_TEMPLATE, Role.NEXT, Role.LEAVING})  # no configuration asks for them

# Each role, in the terms of the rules for replacing processes.
PARTS = {
    Role.TEMPLATE: Part.TEMPLATE,
    Role.NEXT_TEMPLATE: Part.NEXT_TEMPLATE,
    Role.WORKER: Part.SERVING,
    Role.PROGRAM: Part.SERVING,
    Role.NEXT: Part.NEXT,
    Role.STANDBY: Part.PARKED,
    Role.LEAVING: Part.LEAVING,
}


UNLIMITED: Mapping[str, Reason] = {}  # one for all slots of which every limit is in force


class Entry:
    """A slot with its configuration, its record and its timer."""

    __slots__ = (
        *(
            "armed",
            "dismissed",
            "explained",
            "index",
            "name",
            "policy",
            "rec",
            "role",
            "secrets",
            "serves",
            "tail_due",
            "tail_of",
            "timer",
            "unit",
            "unlimited",
            "waits",
            "works",
        ),
    )

    def __init__(self, unit: Unit, role: Role, index: int) -> None:
        self.unit = unit
        self.role = role
        self.index = index
        self.name = slot_name(unit, role, index)
        self.policy = policy_for(unit, role)
        self.rec = Record()
        self.timer: asyncio.TimerHandle | None = None
        self.armed: float | None = None  # the deadline for which that was set
        self.waits: Callable[[], Reason] | None = None  # what its start waits for
        # Whether it is a worker, serving or parked: with a command channel, and forked if the pool has a template.
        self.works = unit.kind is Kind.POOL and role in {Role.WORKER, Role.NEXT, Role.STANDBY}
        # Whether its worker accepts requests as soon as it has started up.
        self.serves = unit.kind is Kind.POOL and role in {Role.WORKER, Role.NEXT}
        self.secrets: tuple[str, ...] = ()  # of the env_files that its process was given, if this supervisor started it
        self.explained = False  # the shim has the reasons of its record
        self.unlimited = UNLIMITED  # by key, why it is not in force for its process
        self.tail_due = False  # the tail of the last run was requested from the writer
        self.tail_of = 0  # the pid of that run
        self.dismissed = False  # scaled away: forgotten once it is stopped

    @property
    def slot(self) -> Slot:
        """The machine's part."""
        return self.rec.slot

    @property
    def is_up(self) -> bool:
        """Whether its dependents need not wait: it runs, or has done its work."""
        done = self.unit.type == "oneshot" and self.slot.state is State.EXITED
        return done or self.slot.state is State.RUNNING


def slot_name(unit: Unit, role: Role, index: int) -> str:
    """web:0, web:template, web:template:next, web:0:next, web:standby, web:standby:1, web:0:leaving."""
    match role:
        case Role.TEMPLATE:
            return f"{unit.name}:template"
        case Role.NEXT_TEMPLATE:
            return f"{unit.name}:template:next"
        case Role.NEXT:
            return f"{unit.name}:{index}:next"
        case Role.STANDBY:
            return f"{unit.name}:standby" if index == 0 else f"{unit.name}:standby:{index}"
        case Role.LEAVING:
            return f"{unit.name}:{index}:leaving"
        case Role.JOB | Role.CHECK:
            return unit.name
        case _:
            return f"{unit.name}:{index}"


def policy_for(unit: Unit, role: Role) -> Policy:
    """A pool's slots report readiness, and exit with EX_CONFIG when the application cannot be imported.

    A template has no event loop that a watchdog could watch. A leaving process is not replaced, because it already has
    been; neither is one on trial.
    """
    once = functools.partial(replace, autorestart=Autorestart.NEVER, retry_after=0.0)
    match role:
        case Role.NEXT:
            return once(policy_of(unit))
        case Role.NEXT_TEMPLATE:
            return once(policy_of(unit), watchdog=0.0)
        case Role.WORKER | Role.STANDBY:
            return policy_of(unit, fatal_exit_codes=(EX_CONFIG,))
        case Role.TEMPLATE:
            return replace(policy_of(unit, fatal_exit_codes=(EX_CONFIG,)), watchdog=0.0)
        case Role.LEAVING:
            return once(policy_of(unit))
        case _:
            return policy_of(unit)


def serving(unit: Unit) -> Role:
    """The role of those of its slots that serve."""
    return Role.WORKER if unit.kind is Kind.POOL else Role.PROGRAM


def differ(unit: Unit) -> bool:
    """Whether a process is made for one place, because each instance has its own values."""
    return bool(unit.per_instance or unit.increment_var)


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
    """Where a slot's stdout and stderr go: out_file and error_file, one per slot unless merge_logs is set."""
    if role is Role.NEXT_TEMPLATE:
        role = Role.TEMPLATE
    elif role in PASSING:  # where the slot writes whose place it has or will have
        role = serving(unit)
    single = role in ONE_SHOT or (role is Role.PROGRAM and instances == 1)
    suffix = "" if single or unit.merge_logs else "-" + slot_name(unit, role, index).partition(":")[2].replace(":", "-")
    return log_file(unit, "out", suffix, log_dir), log_file(unit, "error", suffix, log_dir)
