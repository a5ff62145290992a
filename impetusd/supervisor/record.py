"""A slot as the shim keeps it for the next supervisor: one JSON string, complete and versioned."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from impetusd.core.lifecycle import Slot, State, Want
from impetusd.core.policy import Exit

VERSION = 1
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
    """The record that `dump` wrote."""
    data: dict[str, Any] = json.loads(text)
    if data.pop("version") != VERSION:
        raise ValueError("a slot was recorded by another version of impetusd")
    slot = data.pop("slot")
    slot["state"] = State[slot["state"]]
    slot["want"] = Want(slot["want"])
    slot["recent"] = tuple(slot["recent"])
    slot["last_exit"] = Exit(**slot["last_exit"]) if slot["last_exit"] else None
    return Record(slot=Slot(**slot), **data)


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


def revive(data: dict[str, Any]) -> Record:
    """The record after a reboot, of what `durable` kept. Raises KeyError, TypeError or ValueError for anything else."""
    end = Exit(**data["last_exit"]) if data["last_exit"] else None
    return Record(slot=Slot(restarts=int(data["restarts"]), last_exit=end), stopped=bool(data["stopped"]))


def dump_facts(facts: dict[str, Any]) -> str:
    """What is remembered of a unit: generation, afresh, instances."""
    return json.dumps(facts)


def load_facts(text: str) -> dict[str, Any]:
    """The facts that `dump_facts` wrote."""
    facts: dict[str, Any] = json.loads(text)
    return facts
