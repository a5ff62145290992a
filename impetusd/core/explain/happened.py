"""Recent events that count as problems for a while: ledger records → problems. Pure; times are Unix time in seconds.

Rows show what stands. What a rule, the kernel or a restart has put right again they show no more: a memory limit that acted,
a watchdog, a unit that ends again and again, a supervisor that died. Records show that, and it is over when nothing like it
has happened for a while, or somebody starts it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from impetusd.core.explain import incidents, ledger
from impetusd.core.explain.finding import STARTS_UP
from impetusd.core.explain.incidents import IMPETUSD, Problem, Rows
from impetusd.core.reasons import because

RESTARTS, RESTART_WINDOW = 3, 600.0  # so many unplanned ends of a unit's processes within that are a problem
LASTS = {"restarts": 120.0, "memory": 900.0, "unhealthy": 300.0, "daemon": 300.0}  # seconds after the last record of it
LONGEST = max(RESTART_WINDOW, *LASTS.values())  # seconds of the past that matter
MEMORY = frozenset({"max_memory_restart", "max_memory_kill", "memory_max"})


@dataclass(slots=True)
class Mark:
    """A problem that records show, and until when without another one."""

    problem: dict[str, Any]
    until: float


@dataclass(slots=True, kw_only=True)
class Past:
    """State kept from records. `record`: the number of the last one processed."""

    record: int | None = None
    handing: bool = False  # the supervisor hands over: the next one is no surprise
    marks: dict[str, Mark] = field(default_factory=dict)
    exits: dict[str, list[float]] = field(default_factory=dict)  # by unit


def take(past: Past, record: ledger.Record) -> bool:
    """Process a record of the ledger; False if it was processed before."""
    if past.record is not None and record["n"] <= past.record:
        return False
    past.record = record["n"]
    taken = _TAKEN.get(record["kind"])
    if taken is not None:
        taken(past, record)
    return True


def problems(past: Past, rows: Rows, now: float, known: Collection[str] = ()) -> dict[str, Problem]:
    """Everything that is wrong by their keys: what records show, and what the rows show (`known` as of `incidents.standing`)."""
    past.marks = {key: mark for key, mark in past.marks.items() if mark.until > now}
    found = {key: incidents.problem_of(mark.problem) for key, mark in past.marks.items()}
    return merged(found, incidents.standing(rows, known))


def merged(found: dict[str, Problem], more: Iterable[Problem]) -> dict[str, Problem]:
    """With these, too, which come first; of a unit that was given up it is no news that it was restarted often."""
    for problem in more:
        before = found.get(problem.key)
        found[problem.key] = replace(problem, lines=problem.lines or (before.lines if before is not None else ()))
    return {key: each for key, each in found.items() if each.event != "restarts" or f"fatal {each.name}" not in found}


def matches(patterns: Iterable[str], names: Iterable[str]) -> bool:
    """Whether one of the names is one of these, or like one."""
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _daemon(past: Past, record: ledger.Record) -> None:
    what = record.get("what")
    if what == "began":
        past.marks.clear()
        past.exits.clear()
    elif what == "took over" and not past.handing:
        _mark(past, record["at"], Problem("daemon", IMPETUSD, because("supervisor_replaced"), record["at"]))
    past.handing = what == "handing over"


def _exit(past: Past, record: ledger.Record) -> None:
    unit, slot, at, end = record["unit"], record["slot"], record["at"], ledger.end_reason(record)
    if record.get("oom"):
        _mark(past, at, Problem("memory", unit, end, at, (slot,)))
    if record.get("asked") or "decision" not in record:  # of a timer's job nothing is decided here
        return
    ends = past.exits[unit] = [each for each in past.exits.get(unit, ()) if at - each < RESTART_WINDOW] + [at]
    del ends[:-100]
    if len(ends) >= RESTARTS:
        cause = because("restarted_often", end=end, count=len(ends), window_s=RESTART_WINDOW)
        _mark(past, at, Problem("restarts", unit, cause, ends[0], (slot,)))


def _stderr(past: Past, record: ledger.Record) -> None:
    for event in ("restarts", "memory", "unhealthy"):
        mark = past.marks.get(f"{event} {record['unit']}")
        if mark is not None:
            mark.problem["lines"] = incidents.last_words(map(str, record.get("lines", ())))


def _rule(past: Past, record: ledger.Record) -> None:
    event = "memory" if record["rule"] in MEMORY else "unhealthy" if record["rule"] == "watchdog" else ""
    if event:
        cause = ledger.reason(record)
        _mark(past, record["at"], Problem(event, record["unit"], cause, record["at"], (record["slot"],)))


def _command(past: Past, record: ledger.Record) -> None:
    names = record.get("names", ())
    if record["outcome"] == "refused":
        return
    if record["method"] in STARTS_UP:  # what was before is forgiven
        units = [str(name).partition(":")[0] for name in names]
        began = ledger.began(record)
        for key, mark in list(past.marks.items()):
            name = mark.problem["name"]
            if mark.until - LASTS[mark.problem["event"]] <= began and (not units or matches(units, [name])):
                del past.marks[key]
        for unit, ends in past.exits.items():
            if not units or matches(units, [unit]):
                ends[:] = [at for at in ends if at > began]


_TAKEN: Mapping[str, Callable[[Past, ledger.Record], None]] = {
    "daemon": _daemon,
    "exit": _exit,
    "stderr": _stderr,
    "rule": _rule,
    "command": _command,
}


def _mark(past: Past, at: float, problem: Problem) -> None:
    before = past.marks.get(problem.key)
    data = incidents.problem_data(problem)
    if before is not None:
        data["since"] = before.problem["since"]
        data["slots"] = sorted({*before.problem["slots"], *problem.slots})
        data["lines"] = data["lines"] or before.problem["lines"]
    past.marks[problem.key] = Mark(data, at + LASTS[problem.event])
