"""Current problems, grouped by cause: rows of `watch` → problems → incidents. Pure.

A problem is one thing that is wrong with one name (a unit, a timer, impetusd itself). Problems that follow from each
other are one incident: its root is the unit at the far end of `depends_on` that does not serve, so the database comes
before what needs it. Units whose last words name the same trouble outside (a refused connection, a name that is not
found, a full disk) are one incident, too, although no dependency is declared.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeAlias

from impetusd.core import stream
from impetusd.core.explain import causes
from impetusd.core.protocol import as_wanted
from impetusd.core.reasons import NONE, SKIPPED, Reason, alike, because, errno_of, mentions, of_record, read, waited_for
from impetusd.core.rules import quarantine

Rows: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by kind and key, as of `stream.Mirror`
Needs: TypeAlias = Mapping[str, Collection[str]]  # unit or timer -> units that it depends on

# The worst first. What stands in WARNINGS goes on working.
EVENTS = ("fatal", "unhealthy", "timer", "deploy", "daemon", "disk", "memory", "restarts")
LINES = 10  # of stderr
WARNINGS = frozenset({"memory", "restarts"})
IMPETUSD = "impetusd"  # the name of problems of the daemon itself
CONFIGURATION = "configuration"  # of those of the INI file
_OF_DISKS = frozenset({"ledger_lost", "logs_lost"})
_NO_RESULT = (SKIPPED - {"skipped_missed"}) | {"stopped", "stopped_before", "stopped_for_next"}  # of a timer's run
_AGAIN = frozenset({"STARTING", "BACKOFF", "STOPPING"})  # states of a unit that was given up, and is tried again


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `since`: Unix time, 0.0 if unknown; `lines`: the last lines of output."""

    event: str
    name: str
    cause: Reason
    since: float = 0.0
    slots: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The problem's identity for as long as it lasts; impetusd itself may have several troubles at once."""
        return f"{self.event} {self.name}" + (f" {self.cause.key}" if self.event == "daemon" else "")


@dataclass(frozen=True, slots=True)
class Incident:
    """The problems that follow from one root. `problems`: the root's own first, else the worst first.

    `state` is the root's where it has no problem of its own, as a database that was stopped; `waiting`: units whose start
    waits for it.
    """

    root: str
    problems: tuple[Problem, ...]
    state: str = ""
    waiting: tuple[str, ...] = ()

    @property
    def error(self) -> bool:
        """True for an error, False for a warning."""
        return any(problem.event not in WARNINGS for problem in self.problems)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of everything that it concerns, the root first."""
        return tuple(dict.fromkeys([self.root, *(problem.name for problem in self.problems), *self.waiting]))


@dataclass(slots=True)
class _Unit:
    states: set[str] = field(default_factory=set)  # of its slots that are not as wanted, or are wanted down
    waits: set[str] = field(default_factory=set)


def standing(rows: Rows, known: Collection[str] = ()) -> list[Problem]:
    """The problems that the rows themselves show. `known`: keys of earlier problems.

    Whatever is being retried keeps its problem until the outcome is known: a unit that is starting, a check that has
    not probed yet, a timer whose job runs.
    """
    return [*_fatal(rows, known), *_unhealthy(rows, known), *_timers(rows, known), *_instance(rows)]


def group(problems: Iterable[Problem], rows: Rows, needs: Needs) -> list[Incident]:
    """The incidents that these problems make, the worst first."""
    units = _units(rows)
    found = list(problems)
    down = {name for name, unit in units.items() if unit.states}
    down |= {problem.name for problem in found if problem.event in {"fatal", "unhealthy", "restarts"}}
    edges = {name: [*needs.get(name, ()), *sorted(unit.waits)] for name, unit in units.items()}
    edges.update({name: list(each) for name, each in needs.items() if name not in edges})
    members: dict[str, list[Problem]] = {}  # in their order: the worst first
    same: dict[str, str] = {}  # trouble outside -> the root that it was met at first
    for problem in sorted(found, key=_rank):
        # A failed reload was that of another version: starting what it needs does not repeat it, so it is its own root.
        root = problem.name if problem.event == "deploy" else _root(problem.name, edges, down)
        if root == problem.name and problem.event != "deploy" and (outside := _outside(problem)):
            root = same.setdefault(outside, root)
        members.setdefault(root, []).append(problem)
    of = {name: root for root, each in members.items() for name in (root, *(problem.name for problem in each))}
    serves_not = down | of.keys()
    waiting: dict[str, list[str]] = {}
    for name, unit in units.items():
        if unit.waits and name not in of and (root := of.get(_root(name, edges, serves_not), "")):
            waiting.setdefault(root, []).append(name)
    incidents = []
    for root, each in members.items():
        own = [problem for problem in each if problem.name == root]
        ordered = (*own, *(problem for problem in each if problem.name != root))
        state = "" if own or root not in units else "/".join(sorted(units[root].states))
        incidents.append(Incident(root, ordered, state, tuple(sorted(waiting.get(root, ())))))
    return sorted(incidents, key=lambda incident: min(map(_rank, incident.problems)))


def _rank(problem: Problem) -> tuple[int, str]:
    return EVENTS.index(problem.event), problem.name


def _root(name: str, edges: Mapping[str, Collection[str]], down: Collection[str]) -> str:
    """The unit at the far end of what `name` needs that does not serve; `name` itself if all of that does."""

    seen = {name}
    walk = [(name, iter(edges.get(name, ())))]
    while walk:
        at, rest = walk[-1]
        need = next((each for each in rest if each not in seen), None)
        if need is not None:
            seen.add(need)
            walk.append((need, iter(edges.get(need, ()))))
            continue
        walk.pop()
        if at in down:
            return at
    return name


def _outside(problem: Problem) -> str:
    """The external cause that it names; "" if there is none that two units could share."""
    line = _known_line(problem.lines)
    if errno_of(problem.cause) == errno.ENOSPC or "no space left on device" in line.lower():
        return "a full disk"
    if line:
        return line
    inward = problem.cause.find("bad_answer") is not None  # it is the unit itself that was asked
    return repr(alike(problem.cause)) if errno_of(problem.cause) and not inward else ""


@lru_cache(maxsize=1000)  # the same lines are looked at again whenever anything changes
def _known_line(lines: tuple[str, ...]) -> str:
    """The line that names the error, if it is one that everybody meets."""
    said = causes.error_line(lines)
    return said if said and causes.advice([said]).hint else ""


def _units(rows: Rows) -> dict[str, _Unit]:
    units: dict[str, _Unit] = {}
    for row in rows.get(stream.UNIT, {}).values():
        unit = units.setdefault(row["unit"], _Unit())
        if row["want"] != "up" or not as_wanted(row):
            unit.states.add(str(row["state"]))
            if waits := waited_for(row):
                unit.waits.add(waits.partition(":")[0])
    return units


def _fatal(rows: Rows, known: Collection[str]) -> Iterable[Problem]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.get(stream.UNIT, {}).values():
        failed = row["state"] == "FATAL" or (row["state"] in _AGAIN and f"fatal {row['unit']}" in known)
        if row["want"] == "up" and (failed or row.get("held")):
            found.setdefault(row["unit"], []).append(row)
    for unit, each in found.items():
        first = min(each, key=_ended)
        held = first.get("held")
        cause = quarantine.reason(held) if held else of_record(first)
        since = held["at"] if held else _ended(first)
        slots = tuple(str(row["name"]) for row in each)
        yield Problem("fatal", unit, cause, since, slots, tuple(first.get("tail") or ()))


def _ended(row: Mapping[str, Any]) -> float:
    return _time((row.get("last_exit") or {}).get("at"))


def _unhealthy(rows: Rows, known: Collection[str]) -> Iterable[Problem]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.get(stream.CHECK, {}).values():
        unit = str(row["target"]).partition(":")[0]
        if row["state"] == "unhealthy" or (row["state"] == "starting" and f"unhealthy {unit}" in known):
            found.setdefault(unit, []).append(row)
    for unit, each in found.items():
        slots = [row for row in rows.get(stream.UNIT, {}).values() if row["unit"] == unit]
        lines = next((tuple(row["tail"]) for row in slots if row.get("tail")), ())
        targets = tuple(dict.fromkeys(str(row["target"]) for row in each))
        yield Problem("unhealthy", unit, of_record(each[0]), 0.0, targets, lines)


def _timers(rows: Rows, known: Collection[str]) -> Iterable[Problem]:
    for row in rows.get(stream.TIMER, {}).values():
        last = next((run for run in row["runs"] if _key(run) not in _NO_RESULT), None)
        if last is not None and not last.get("ok"):
            ended = _time(last.get("at")) + (last.get("duration_s") or 0.0)
            problem = Problem("timer", row["name"], of_record(last, "result"), ended)
            if row["state"] == "waiting" or problem.key in known:
                yield problem


def _key(run: Mapping[str, Any]) -> str:
    return str((run.get("cause") or {}).get("key", ""))


def _instance(rows: Rows) -> Iterable[Problem]:
    row = rows.get(stream.DAEMON, {}).get("", {})
    if row.get("held"):
        yield Problem("daemon", IMPETUSD, quarantine.reason(row["held"]), row["held"]["at"])
    for notice in row.get("notices", ()):
        cause = read(notice, str(notice.get("text", "")))
        if cause.key in _OF_DISKS:
            yield Problem("disk", str(cause.facts.get("path") or cause.facts.get("where") or "logs"), cause)
        elif cause.key == "shim":
            yield Problem("disk", str(cause.facts["what"]), cause)
        elif cause.key == "not_reloaded":
            unit = str(cause.facts["unit"])
            lines = rows.get(stream.RELOAD, {}).get(unit, {}).get("lines") or ()
            yield Problem("deploy", unit, cause, lines=tuple(map(str, lines))[-LINES:])
        elif cause.key == "ini_refused":
            yield Problem("deploy", CONFIGURATION, cause)
        elif cause.key == "mistake":
            yield Problem("daemon", str(cause.facts["source"]), cause)


def _time(iso: object) -> float:
    try:
        return datetime.fromisoformat(str(iso)).timestamp()
    except ValueError:
        return 0.0


def text(problem: Problem) -> str:
    """The cause, and what the process said of it."""
    cause, words = str(problem.cause), said(problem)
    return f"{cause}: {words}" if words and not mentions(problem.cause, words) else cause


def said(problem: Problem) -> str:
    """What the process said of the cause in one line, of one that hung: where; "" for nothing."""
    hung = problem.cause.find("watchdog") is not None
    return causes.hang_location(problem.lines) if hung else causes.error_line(problem.lines)


def last_words(lines: Iterable[str], most: int = LINES) -> list[str]:
    """The lines that say most of why it ended: the stack of a thread that hung, else the last, with the error's own."""
    written = [line[:200] for line in lines if not line.startswith(causes.NOISE)]
    return causes.hang_stack(written)[:most] or causes.kept(written, most)


def problem_data(problem: Problem) -> dict[str, Any]:
    """As JSON."""
    return {
        "event": problem.event,
        "name": problem.name,
        "since": problem.since,
        "cause": problem.cause.data(),
        "slots": list(problem.slots),
        "lines": list(problem.lines),
    }


def problem_of(data: Mapping[str, Any]) -> Problem:
    """A problem from the result of `problem_data`. Raises KeyError, TypeError for anything else."""
    cause = read(data["cause"]) or NONE
    since, slots, lines = float(data["since"]), tuple(data["slots"]), tuple(data["lines"])
    return Problem(str(data["event"]), str(data["name"]), cause, since, slots, lines)


def stopped(name: str, state: str) -> Reason:
    """The reason for an incident whose root has no problem of its own."""
    return because("is_state", name=name, state=state, cause=NONE)
