"""A slot as the shim keeps it for the next supervisor: one JSON string, complete and versioned.

It may have been written by another version: what that says besides means nothing, what it does not say is as at first. What
is not of its kind is refused, for nobody looks at it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from impetusd.core.rules.lifecycle import Slot, State, Want
from impetusd.core.rules.policy import Exit

VERSION = 1
FAR = 2e11  # seconds, Unix time: the year 8307
T = TypeVar("T")
SLOT = tuple(each.name for each in fields(Slot))
EXIT = tuple(each.name for each in fields(Exit))


@dataclass(slots=True, kw_only=True)
class Record:
    """What is remembered of a slot besides its configuration."""

    slot: Slot = field(default_factory=Slot)
    process: int | None = None  # the shim's number of its process, while anything of that is left
    pipe: int | None = None  # the number of its pair of log pipes
    generation: int = 0
    gated: bool = False  # its dependencies are to be ready first
    stopped: bool = False  # by the operator, by name: it stays stopped over reboots
    due: str = ""  # why its process is to be replaced, as soon as its turn has come
    asked: bool = False  # and that was asked for
    tail: list[str] = field(default_factory=list)  # the last stderr lines of its last failed run


# By class and field, what its annotation allows.
KINDS: dict[type, dict[str, list[str]]] = {
    kind: {each.name: str(each.type).split(" | ") for each in fields(kind)} for kind in (Slot, Exit, Record)
}
REST = tuple(each.name for each in fields(Record) if each.name != "slot")


def dump(record: Record) -> str:
    """The record as a string."""
    slot = {name: getattr(record.slot, name) for name in SLOT}
    slot["state"] = record.slot.state.name
    slot["want"] = record.slot.want.value
    slot["last_exit"] = _of_exit(record.slot.last_exit)
    rest = {name: getattr(record, name) for name in REST}
    return json.dumps({"version": VERSION, "slot": slot, **rest}, separators=(",", ":"))


def load(text: str) -> Record:
    """The record that `dump` wrote. Raises KeyError, TypeError or ValueError for anything else."""
    data: dict[str, Any] = json.loads(text)
    if data["version"] != VERSION:
        raise ValueError("a slot was recorded by another version of impetusd")
    slot = dict(data["slot"])
    slot["state"] = State[slot["state"]]
    slot["want"] = Want(slot["want"])
    slot["recent"] = tuple(slot.get("recent", ()))
    slot["last_exit"] = _exit(slot.get("last_exit"))
    return _made(Record, {**data, "slot": _made(Slot, slot)})


def _exit(data: Any) -> Exit | None:
    return _made(Exit, data) if data else None


def _made(kind: type[T], data: Mapping[str, Any]) -> T:
    """An instance of a dataclass, of those of its fields that are in `data`. Raises TypeError."""
    found = {name: data[name] for name in KINDS[kind] if name in data}
    for name, value in found.items():
        if not any(_is(value, one) for one in KINDS[kind][name]):
            raise TypeError(f"{name} is {value!r:.100}")
    return kind(**found)


def _is(value: Any, kind: str) -> bool:
    """Whether a value is what an annotation says, and such that it can be shown: a time is not beyond all calendars."""
    match kind:
        case "None":
            return value is None
        case "float":
            return type(value) in {int, float} and abs(value) < FAR
        case "int":
            return type(value) is int and abs(value) < 1 << 63
        case "tuple[float, ...]":
            return all(_is(each, "float") for each in value)
        case "list[str]":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case _:
            return type(value).__name__ == kind


def durable(record: Record) -> dict[str, Any]:
    """What is to survive a reboot: counters and ends, and that the operator has stopped it. No clock, no pid."""
    slot = record.slot
    return {
        "stopped": record.stopped,
        "restarts": slot.restarts,
        "last_exit": _of_exit(slot.last_exit),
    }


def _of_exit(end: Exit | None) -> dict[str, Any] | None:
    """As `dataclasses.asdict`, which copies each value: 40 µs, at each change of each slot."""
    return None if end is None else {name: getattr(end, name) for name in EXIT}


def revive(data: Mapping[str, Any]) -> Record:
    """The record after a reboot, of what `durable` kept. Raises KeyError, TypeError or ValueError for anything else."""
    slot = _made(Slot, {"restarts": data["restarts"], "last_exit": _exit(data["last_exit"])})
    return _made(Record, {"slot": slot, "stopped": data["stopped"]})


def sound(saved: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What of a state file can be used, and what is wrong with the rest: `slots` as `durable` kept them, texts of `timers`."""
    found: dict[str, Any] = {**saved, "slots": {}, "timers": {}}
    faults = []
    for part, check in (("slots", revive), ("timers", _text)):
        entries = saved.get(part, {})
        if not isinstance(entries, dict):
            faults.append(f"{part} is {entries!r:.50}")
            continue
        for name, entry in entries.items():
            try:
                check(entry)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                faults.append(f"{name} in {part}: {error!r:.150}")
            else:
                found[part][name] = entry
    return found, faults


def _text(entry: Any) -> None:
    if not isinstance(entry, str):
        raise TypeError(f"{entry!r:.50} is no string")


def dump_facts(facts: dict[str, Any]) -> str:
    """What is remembered of a unit: generation, afresh, instances."""
    return json.dumps(facts)


def load_facts(text: str) -> dict[str, Any]:
    """The facts that `dump_facts` wrote. Raises TypeError or ValueError for anything else."""
    facts: dict[str, Any] = json.loads(text)
    for name, kind in (("instances", "int"), ("generation", "int"), ("afresh", "bool"), ("scaled", "str")):
        if name in facts and not _is(facts[name], kind):
            raise TypeError(f"{name} is {facts[name]!r:.50}")
    return facts
