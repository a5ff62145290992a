"""A slot as the shim keeps it for the next supervisor: one JSON string, complete and versioned.

It may have been written by another version: unknown fields are ignored, missing ones have their initial value. Values
of the wrong type are refused, because nothing checks them later.

The first version refuses a field that it does not know. So the record has the sentence of each reason, and the reasons
themselves are a second string, bound to the first by its checksum: one that another version has written alone is read
without.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from impetusd import bare
from impetusd.core.reasons import NONE, Reason, error, read, read_start, stage
from impetusd.core.rules.lifecycle import Slot, State, Want
from impetusd.core.rules.policy import Exit
from impetusd.core.values import dataclass

VERSION = 1
OWED = "owed:"  # what the shim keeps a slot under whose record in the ledger follows: see `observers`
FAR = 2e11  # seconds, Unix time: the year 8307
T = TypeVar("T")
SLOT = tuple(each.name for each in fields(Slot))
OWES = ("state", "want", "pid", "started", "asked", "kills")  # besides reasons, what a record of its end is made of
EXIT = tuple(each.name for each in fields(Exit) if each.name != "failed")


@dataclass(slots=True, kw_only=True)
class Record:
    """A slot's state besides its configuration."""

    slot: Slot = field(default_factory=Slot)
    process: int | None = None  # the shim's number of its process, while anything of that is left
    pipe: int | None = None  # the number of its pair of log pipes
    generation: int = 0
    gated: bool = False  # its dependencies must be ready first
    stopped: bool = False  # by the operator, by name: it stays stopped over reboots
    due: Reason = NONE  # why its process must be replaced as soon as its turn has come
    asked: bool = False  # and that was requested
    tail: tuple[str, ...] = ()  # the last stderr lines of its last failed run


# By class and field, what its annotation allows.
KINDS: dict[type, dict[str, list[str]]] = {
    kind: {each.name: str(each.type).split(" | ") for each in fields(kind)} for kind in (Slot, Exit, Record)
}
REST = tuple(each.name for each in fields(Record) if each.name != "slot")
OF_SLOT = ("reason", "failed", "due")  # its reasons
NEW = {each.name: each.default for each in fields(Record)}
NEW_SLOT = {each.name: each.default for each in fields(Slot)}
ALWAYS = frozenset({"state", "want", "recent", "last_exit"})  # of a slot: the first version needs them


def _json(value: Any) -> str:
    return "".join(bare.pieces(value, 0))


def dump_all(record: Record, before: Slot | None = None) -> tuple[str, str | None, str | None]:
    """What `dump` and `dump_reasons` make of it; and of the slot `before`, if given, what `load_owed` reads."""
    text = dump(record)
    owed = None
    if before is not None:
        owed = _json({"slot": _of_slot(before, OWES), "why": _reasons_of(before), "since": record.slot.since})
    return text, dump_reasons(record, text), owed


def dump(record: Record) -> str:
    """The record as a string, of what differs from a new one: the shim has it in memory, 0.4 kB a slot if it were whole.

    Every version reads a field that is missing as a new record's, but for those of `ALWAYS`.
    """
    rest = {name: value for name in REST if (value := getattr(record, name)) is not NEW[name]}
    if "due" in rest:
        rest["due"] = _sentence(record.due)
    told = {**_of_slot(record.slot, SLOT), "last_exit": _of_exit(record.slot.last_exit)}
    return _json({"version": VERSION, "slot": told, **rest})


def _of_slot(slot: Slot, names: Iterable[str]) -> dict[str, Any]:
    told = {name: value for name in names if (value := getattr(slot, name)) is not NEW_SLOT[name] or name in ALWAYS}
    told["state"] = slot.state.name
    told["want"] = slot.want.value
    for name in OF_SLOT:
        if name in told:
            told[name] = _sentence(told[name])
    return told


def _sentence(reason: Reason) -> str:
    return str(reason) if reason.text is None else reason.text


def dump_reasons(record: Record, text: str) -> str | None:
    """Its reasons as a string, of the record that `text` is; None where it has none."""
    found = _reasons_of(record.slot)
    if record.due.key:
        found["next"] = _data(record.due)
    if not found:
        return None
    return _json({"of": zlib.crc32(text.encode()), **found})


def _reasons_of(slot: Slot) -> dict[str, Any]:
    found = {name: _data(reason) for name in OF_SLOT if (reason := getattr(slot, name)).key}
    end = slot.last_exit
    if end is not None and end.failed.key:
        found["end"] = _data(end.failed)
    return found


def _data(reason: Reason) -> dict[str, Any]:
    """As `Reason.data`."""
    facts = {name: _data(fact) if type(fact) is Reason else fact for name, fact in reason.facts.items()}
    return {"key": reason.key, "facts": facts}


def load(text: str, reasons: str | None = None) -> Record:
    """The record that `dump` wrote, with what `dump_reasons` did. Raises KeyError, TypeError or ValueError for anything else."""
    data: dict[str, Any] = json.loads(text)
    if data["version"] != VERSION:
        raise ValueError("a slot was recorded by another version of impetusd")
    known = _reasons(reasons, text)
    if "due" in data:
        data["due"] = _reason(data["due"], known.get("next"))
    if isinstance(data.get("tail"), list):
        data["tail"] = tuple(data["tail"])
    return _made(Record, {**data, "slot": _slot(data["slot"], known)})


def load_owed(text: str) -> tuple[Slot, float]:
    """The slot before the change whose record was still owed, and `since` when it is what it became. Raises as `load`."""
    data: dict[str, Any] = json.loads(text)
    return _slot(data["slot"], data["why"]), data["since"]


def _slot(data: Mapping[str, Any], known: Mapping[str, Any]) -> Slot:
    slot = dict(data)
    slot["state"] = State[slot["state"]]
    slot["want"] = Want(slot["want"])
    slot["recent"] = tuple(slot.get("recent", ()))
    slot["last_exit"] = _exit(slot.get("last_exit"), known.get("end"))
    slot.update({name: _reason(slot[name], known.get(name)) for name in OF_SLOT if name in slot})
    return _made(Slot, slot)


def _reasons(text: str | None, of: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
        return found if found["of"] == zlib.crc32(of.encode()) else {}
    except (ValueError, TypeError, KeyError):
        return {}


def _reason(sentence: Any, data: Any) -> Reason:
    """Raises TypeError for an invalid sentence."""
    if not isinstance(sentence, str):
        raise TypeError(f"a reason is {sentence!r:.100}")
    return read(data, sentence)


def _exit(data: Any, failed: Any = None) -> Exit | None:
    if not data:
        return None
    stage, error = (data.get(name, "") for name in ("stage", "error"))
    if type(stage) is not str or type(error) is not str:
        raise TypeError(f"a stage is {stage!r:.100}, its error {error!r:.100}")
    reason = read_start(failed, stage, error) if stage else NONE
    return _made(Exit, {**data, "failed": reason})


def _made(kind: type[T], data: Mapping[str, Any]) -> T:
    """An instance of a dataclass, of those of its fields that are in `data`. Raises TypeError."""
    found = {name: data[name] for name in KINDS[kind] if name in data}
    for name, value in found.items():
        if not any(_is(value, one) for one in KINDS[kind][name]):
            raise TypeError(f"{name} is {value!r:.100}")
    return kind(**found)


def _is(value: Any, kind: str) -> bool:
    """Whether a value matches an annotation and can be displayed: a time is within the calendar's range."""
    match kind:
        case "None":
            return value is None
        case "float":
            return type(value) in {int, float} and abs(value) < FAR
        case "int":
            return type(value) is int and abs(value) < 1 << 63
        case "tuple[float, ...]":
            return all(_is(each, "float") for each in value)
        case "tuple[str, ...]":
            return isinstance(value, tuple) and all(isinstance(each, str) for each in value)
        case _:
            return type(value).__name__ == kind


def durable(record: Record) -> dict[str, Any]:
    """What survives a reboot: counters and ends, and that the operator has stopped it. No clock, no pid."""
    slot = record.slot
    return {
        "stopped": record.stopped,
        "restarts": slot.restarts,
        "last_exit": _of_exit(slot.last_exit),
        **({"failed": slot.last_exit.failed.data()} if slot.last_exit is not None and slot.last_exit.failed else {}),
    }


def _of_exit(end: Exit | None) -> dict[str, Any] | None:
    """As `dataclasses.asdict`, which copies each value: 40 µs, at each change of each slot."""
    if end is None:
        return None
    told = {name: getattr(end, name) for name in EXIT}
    failed = end.failed
    return {**told, "stage": stage(failed) if failed.key else "", "error": error(failed) if failed.key else ""}


def revive(data: Mapping[str, Any]) -> Record:
    """The record after a reboot, of what `durable` kept. Raises KeyError, TypeError or ValueError for anything else."""
    slot = _made(Slot, {"restarts": data["restarts"], "last_exit": _exit(data["last_exit"], data.get("failed"))})
    return _made(Record, {"slot": slot, "stopped": data["stopped"]})


def sound(saved: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The valid parts of a state file, and what is wrong with the rest: `slots` as `durable` kept them, texts of
    `timers`."""
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
        raise TypeError(f"{entry!r:.50} is not a string")


def dump_facts(facts: dict[str, Any]) -> str:
    """The state kept of a unit: generation, afresh, instances."""
    return json.dumps(facts)


def load_facts(text: str) -> dict[str, Any]:
    """The facts that `dump_facts` wrote. Raises TypeError or ValueError for anything else."""
    facts: dict[str, Any] = json.loads(text)
    for name, kind in (("instances", "int"), ("generation", "int"), ("afresh", "bool"), ("scaled", "str")):
        if name in facts and not _is(facts[name], kind):
            raise TypeError(f"{name} is {facts[name]!r:.50}")
    return facts
