"""Compare configurations: the changes by unit and key, with the action that each one needs."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING

from impetusd.core import units
from impetusd.core.config import describe, schema
from impetusd.core.config.model import Unit
from impetusd.core.rules.policy import SETTLING, settling
from impetusd.core.rules.reload import overlaps
from impetusd.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, TypeVar

    from impetusd.core.config.model import Config, Health, Timer

    T = TypeVar("T", Unit, Timer, Health)
    Described = dict[str, tuple[Any, str]]  # key -> its value, and that as it is shown


class Effect(Enum):
    """The action a change needs to take effect, from the least to the most."""

    LIVE = "live"  # nothing is touched: from now on another rule holds
    RELOAD = "reload"  # new processes take over from the old ones, once they have proved themselves
    RESTART = "restart"  # new processes
    ADDED = "added"
    REMOVED = "removed"


# Keys that a process is started with; of all others it knows nothing.
PROCESS_KEYS = frozenset({
    "command", "app", "protocol", "threads", "root_path", "interpreter", "preload", "listen", "node", "backlog", "drain_timeout", "wait_ready", "watchdog", "max_requests", "access_log",
    "header_timeout", "body_timeout",
    "cwd", "user", "group", "no_new_privs", "capabilities", "umask", "nice", "oom_score_adj", "cpu_affinity", "rlimits", "memory_max", "cpu_max", "env", "env_file", "env_pass",
    "increment_var", "made",
})  # fmt: skip
# Where the instance lives: nothing of it can change while it runs.
OF_THE_INSTANCE = ("run_dir", "state_dir", "log_dir", "base_dir")


@dataclass(frozen=True, slots=True)
class Key:
    """One key that differs; `old` and `new` as one would write them, and of a variable its name alone."""

    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one section."""

    kind: str  # pool, program, timer, health or group; impetusd for its own section, which has no name
    name: str
    effect: Effect
    keys: tuple[Key, ...] = ()

    def row(self) -> dict[str, Any]:
        """As JSON."""
        keys = [{"key": key.name, "from": key.old, "to": key.new} for key in self.keys]
        return {"kind": self.kind, "name": self.name, "effect": self.effect.value, "keys": keys}


def plan(old: Callable[[int], Config], new: Callable[[int], Config], instances: Callable[[str], int]) -> list[Change]:
    """Everything that differs, in the new file's order; what goes comes last.

    `old` and `new` give a configuration as an instance sees it; `instances` how many of a unit there are.
    """
    before, after = old(0), new(0)

    def of_unit(was: Unit, unit: Unit) -> list[Key]:
        keys = _differing(_described(was), _described(unit))
        if was.per_instance or unit.per_instance:
            for index in range(1, instances(unit.name)):
                one, other = old(index).units.get(unit.name), new(index).units.get(unit.name)
                if one is not None and other is not None:
                    more = _differing(_described(one), _described(other))
                    keys += [key for key in more if key.name not in {each.name for each in keys}]
        return keys

    def of_job(was: Timer | Health, job: Timer | Health) -> list[Key]:
        return _differing(_described(was), _described(job))

    whole = _differing(_of_the_whole(before), _of_the_whole(after))
    changes = [
        *([Change("impetusd", "", Effect.LIVE, tuple(whole))] if whole else []),
        *_groups(before, after),
        *_changes(before.units, after.units, lambda unit: unit.kind.value, of_unit, _effect),
        # These start a new process for each run, so every change is live.
        *_changes(before.timers, after.timers, lambda _: "timer", of_job),
        *_changes(before.health, after.health, lambda _: "health", of_job),
    ]
    return sorted(changes, key=lambda change: change.effect is Effect.REMOVED)


def _groups(before: Config, after: Config) -> Iterator[Change]:
    """Changes in groups' members: they affect no process."""
    was = {name: ", ".join(group.members) for name, group in before.groups.items()}
    now = {name: ", ".join(group.members) for name, group in after.groups.items()}
    for name in dict.fromkeys([*now, *was]):
        if now.get(name) != was.get(name):
            yield Change("group", name, Effect.LIVE, (Key("members", was.get(name, ""), now.get(name, "")),))


def _changes(
    before: Mapping[str, T],
    after: Mapping[str, T],
    kind: Callable[[T], str],
    differing: Callable[[T, T], list[Key]],
    effect: Callable[[T, T, set[str]], Effect] = lambda _, __, ___: Effect.LIVE,
) -> Iterator[Change]:
    """The changes of sections of one kind; disabled ones count as missing."""
    was = {name: each for name, each in before.items() if each.enabled}
    now = {name: each for name, each in after.items() if each.enabled}
    for name, each in now.items():
        if name not in was:
            yield Change(kind(each), name, Effect.ADDED)
        elif keys := differing(was[name], each):
            yield Change(kind(each), name, effect(was[name], each, {key.name for key in keys}), tuple(keys))
    for name, each in was.items():
        if name not in now:
            yield Change(kind(each), name, Effect.REMOVED)


def as_run(present: Unit, former: Unit) -> Unit:
    """`present` as far as no process is concerned, and what processes are started with as `former` has it."""
    process_keys = {key: getattr(former, key) for key in PROCESS_KEYS}
    return replace(present, **process_keys, per_instance=former.per_instance | present.per_instance)


def refusal(old: Config, new: Config) -> str:
    """Why the configuration cannot be applied, as a sentence; "" if it can."""
    for name in OF_THE_INSTANCE:
        was, is_now = getattr(old.paths, name), getattr(new.paths, name)
        if was != is_now:
            told = f"changing {name} from {was} to {is_now} requires stopping and starting impetusd"
            return f"{told}; to keep the old value, write in [impetusd]: {name} = {was}"
    for name, unit in _all_units(old).items():
        other = _all_units(new).get(name)
        if other is not None and other.kind is not unit.kind and unit.enabled:
            kinds = f"a running {unit.kind.value}, but a {other.kind.value} in the INI file"
            return f"{name} is {kinds}; use another name, or stop and start impetusd"
    return ""


def _all_units(whole: Config) -> dict[str, Unit]:
    return {**whole.units, **{name: timer.unit for name, timer in whole.timers.items()}}


def _effect(was: Unit, unit: Unit, keys: set[str]) -> Effect:
    """An old and a new process side by side need both to be able to, and no address in the way of another."""
    keys = {"env" if key.startswith("env ") else key for key in keys}
    if unit.made is None and not keys & PROCESS_KEYS:
        return Effect.LIVE
    clash = any(old.place != new.place and old.clashes(new) for old in was.listen for new in unit.listen)
    return Effect.RELOAD if overlaps(was) and overlaps(unit) and not clash else Effect.RESTART


def _of_the_whole(whole: Config) -> Described:
    """[impetusd]'s keys about access, readers of logs, and the profile."""
    access = {name: getattr(whole.access, name) for name in ("viewers", "operators", "admins")}
    mode, owner = whole.logs.log_mode, whole.logs.log_owner
    return {
        **{name: (who, ", ".join(who)) for name, who in access.items()},
        "log_owner": (owner, owner),
        "log_mode": (mode, "" if mode is None else schema.LOG_MODE.show(mode)),
        "profile": (whole.profile, whole.profile),
    }


def _described(each: Unit | Timer | Health) -> Described:
    """Its keys, with each variable as a key of its own: compared, never shown."""
    unit = each if isinstance(each, Unit) else each.unit  # a timer or a health check has its command's
    env = unit.env if unit is not None and unit.made is None else {}
    told = describe.keys(each)
    if isinstance(each, Unit) and settling(each) > SETTLING and not (each.wait_ready or each.ready):
        told["ready"] = settling(each), f"after {units.show_duration(settling(each))}"  # by former rules
    return {**told, **{f"env {name}": (value, "(set)") for name, value in env.items()}}


def _differing(old: Described, new: Described) -> list[Key]:
    nothing = "", ""
    return [
        Key(name, old.get(name, nothing)[1], new.get(name, nothing)[1])
        for name in [*new, *(name for name in old if name not in new)]
        if old.get(name, nothing)[0] != new.get(name, nothing)[0]
    ]
