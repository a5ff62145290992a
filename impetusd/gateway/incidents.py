"""What is wrong now, as the first screen shows it: one card an incident, with cause, rule, what comes next and what to do. Pure.

`core.explain.incidents` groups by cause; here each incident gets what a person at 3 a.m. looks for, from the rows and the
ledger. Nothing looks at sentences: they are made of keys and facts at the end.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from impetusd.core import reasons, stream
from impetusd.core.explain import causes, ledger
from impetusd.core.explain import incidents as grouping
from impetusd.core.explain.finding import End, advice_on, end_of
from impetusd.core.explain.incidents import CONFIGURATION, Incident, Problem, Rows
from impetusd.core.protocol import as_wanted
from impetusd.core.reasons import Reason, of_record, waited_for

STDERR = 5  # lines
MOST = 50  # incidents
OF_PROCESS = frozenset({"fatal", "restarts", "unhealthy", "memory"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """`standing`: the problems there are, by key, and `until` when those are shown that records made known.

    `records` of the ledger about what is wrong, the oldest first; `where`: of units the "file:line" of their sections;
    `needs`: the units that one depends on; `now`: Unix time; `command` reaches this instance on the command line.
    """

    rows: Rows
    standing: Mapping[str, Problem] = field(default_factory=dict)
    until: Mapping[str, float] = field(default_factory=dict)
    records: Sequence[ledger.Record] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    needs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    now: float
    command: str = "impetusd"


def problems(rows: Rows, standing: Mapping[str, Problem]) -> list[Problem]:
    """Everything that is wrong: `standing`, by key, and what is being tried again or does not come up."""
    found = dict(standing)
    named = {problem.name for problem in found.values() if problem.event in {"fatal", "unhealthy"}}
    others: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows.get(stream.UNIT, {}).values():
        wrong = not as_wanted(row) and row["state"] in {"BACKOFF", "STARTING", "FATAL"}
        fresh = row["state"] == "STARTING" and not row.get("restarts") and not row.get("last_exit")
        if wrong and not fresh and row["unit"] not in named and not waited_for(row):
            others.setdefault(row["unit"], []).append(row)
    for unit, each in others.items():
        slots = tuple(str(row["name"]) for row in each)
        lines = next((tuple(row["tail"]) for row in each if row.get("tail")), ())
        tried = Problem("restarts", unit, of_record(each[0]), 0.0, slots, lines)
        found[tried.key] = tried
    return list(found.values())


def concerned(rows: Rows, standing: Mapping[str, Problem]) -> list[str]:
    """The names of units and timers that something is wrong with, or that wait: what the ledger is to be asked about."""
    names = [problem.name for problem in problems(rows, standing) if problem.event not in {"daemon", "disk"}]
    units = rows.get(stream.UNIT, {}).values()
    names += [row["unit"] for row in units if row["want"] != "up" or not as_wanted(row)]
    return [name for name in dict.fromkeys(names) if name != CONFIGURATION]


def explained(known: Known) -> list[dict[str, Any]]:
    """Each incident as JSON, the worst first: see the API's contract."""
    every = problems(known.rows, known.standing)
    over = _over(known, every)
    return [_card(known, incident, over) for incident in grouping.group(every, known.rows, known.needs)[:MOST]]


def _over(known: Known, every: Iterable[Problem]) -> dict[str, float]:
    """Until when those problems are shown that were put right already: Unix time by key."""
    standing = {problem.key for problem in grouping.standing(known.rows)}
    unwell = {row["unit"] for row in known.rows.get(stream.UNIT, {}).values() if not as_wanted(row)}
    return {
        problem.key: known.until[problem.key]
        for problem in every
        if problem.key in known.until and problem.key not in standing and problem.name not in unwell
    }


def _card(known: Known, incident: Incident, passing: Mapping[str, float]) -> dict[str, Any]:
    """`passing`: see `_over`."""
    first = incident.problems[0]
    own = first.name == incident.root
    records = [record for record in known.records if incident.root in ledger.subjects(record)]
    # What it ended with last explains what is given up or tried again, and nothing else.
    end = end_of(records) if own and first.event in {"fatal", "restarts"} else None
    cause = first.cause if own else grouping.stopped(incident.root, incident.state)
    if end is not None:
        cause = end.reason
    over = passing.get(first.key, 0.0) if own else 0.0
    method, name = _action(incident, own=own) if not over else ("", "")
    since = [problem.since for problem in incident.problems if problem.since]
    since += [end.since] if end is not None else []
    since += _began(records, first) if own else []
    lines = first.lines or next((problem.lines for problem in incident.problems if problem.lines), ())
    lines = lines or (end.last_words if end is not None else ())
    advices = [causes.of_reasons([problem.cause]) for problem in incident.problems if problem.event == "disk"]
    advices += [advice_on(end, [cause]), causes.advice(lines)] if own else []
    advice = next((each for each in advices if each != causes.Advice()), causes.Advice())
    text = end.text if end is not None else grouping.text(first) if own else str(cause)
    return {
        "id": f"{first.event}:{incident.root}",
        "event": first.event if own else "stopped",
        "root": incident.root,
        "cause": {**cause.shown(), "text": text},
        "units": _slots(incident),
        "since": min(since, default=None),
        "rule": _rule(known, first, end, cause),
        "next": {"at": over, "what": "well"} if over else _next(known, first, end),
        "stderr": grouping.last_words(lines, STDERR),
        "hint": advice.hint,
        "look": [{"command": typed, "purpose": purpose} for typed, purpose in advice.commands],
        "command": _typed(known, first, method, name),
        "action": {"method": method, "name": name} if method else None,
        "severity": "error" if not over and (incident.error or first.event == "restarts") else "warning",
    }


def _slots(incident: Incident) -> list[str]:
    """What it concerns: slots where they are known, else names; the root's first."""
    found: list[str] = []
    for problem in incident.problems:
        found += problem.slots or (problem.name,)
    if incident.root not in {problem.name for problem in incident.problems}:
        found.insert(0, incident.root)
    return list(dict.fromkeys([*found, *incident.waiting]))


def _began(records: Iterable[ledger.Record], problem: Problem) -> list[float]:
    """Since when it is so, of what the rows do not say it of: from the record that reports the turn."""
    if problem.since or problem.event not in {"unhealthy", "deploy"}:
        return []
    wanted = {"unhealthy": ("health", "state", {"unhealthy"}), "deploy": ("reload", "what", {"failed", "rolled back"})}
    kind, key, states = wanted[problem.event]
    last = [record["at"] for record in records if record["kind"] == kind and record.get(key) in states]
    return last[-1:]


def _rule(known: Known, problem: Problem, end: End | None, cause: Reason) -> dict[str, Any] | None:
    """The key of the INI file that decided, and where its section is; None if none did."""
    if problem.event not in OF_PROCESS:
        return None
    key = str((end.exit.get("rule") if end is not None else "") or "")
    if not key:
        inner = cause if reasons.rule_of(cause) != "other" else problem.cause
        key = reasons.rule_of(inner)
    if end is not None and end.rule is not None and end.rule["rule"] != "other":
        key = str(end.rule["rule"])
    if key == "other" and problem.event != "unhealthy":
        return None
    file, _, line = known.where.get(problem.name, "").rpartition(":")
    place = {"file": file, "line": int(line)} if file and line.isdecimal() else {"file": None, "line": None}
    return {"key": "health" if key == "other" else key, **place}


def _next(known: Known, problem: Problem, end: End | None) -> dict[str, Any] | None:
    """What happens by itself, and when (Unix time; None: soon); None if nothing does."""
    if problem.event in {"fatal", "restarts"}:
        at = end.exit["at"] + (end.exit.get("retry_s") or 0.0) if end is not None else 0.0
        if at > known.now:
            return {"at": at, "what": "start"}
        slots = (known.rows.get(stream.UNIT, {}).get(slot, {}) for slot in problem.slots)
        if any(row.get("state") in {"BACKOFF", "STARTING"} for row in slots):  # the ledger may be behind the rows
            return {"at": None, "what": "start"}
    if problem.event == "timer":
        at = _time(known.rows.get(stream.TIMER, {}).get(problem.name, {}).get("next"))
        return {"at": at, "what": "run"} if at else None
    return None


def _time(iso: object) -> float:
    try:
        return datetime.fromisoformat(str(iso)).timestamp()
    except ValueError:
        return 0.0


def _action(incident: Incident, *, own: bool) -> tuple[str, str]:
    """The method of the one button, and what it is for; "" for none."""
    first = incident.problems[0]
    if not own:
        return "start", incident.root
    if first.event == "deploy":
        return ("reload", first.name) if first.name != CONFIGURATION else ("", "")
    by_event = {"fatal": "restart", "restarts": "restart", "unhealthy": "restart", "timer": "trigger"}
    return by_event.get(first.event, ""), first.name


def _typed(known: Known, problem: Problem, method: str, name: str) -> str:
    """The same as one types it; where there is no button, what shows more."""
    if method:
        return f"{known.command} {method} {shlex.quote(name)}"
    if problem.event in OF_PROCESS:
        return f"{known.command} why {shlex.quote(problem.name)}"
    if problem.event == "deploy":
        return f"{known.command} check"
    if problem.event == "disk":
        path = str(problem.cause.facts.get("path") or "")
        return f"df -h {shlex.quote(path)}" if path else "df -h"
    return f"{known.command} logs impetusd"
