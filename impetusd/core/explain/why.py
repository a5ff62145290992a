"""Explain a state from the ledger's records and the rows of `status`, `health` and `timers`.

Reported of a slot: its state and since when, its cause, which key decided, how often, what happens next, what happened
before, what was on stderr, and what to type. Slots of a unit with the same cause are reported once.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from impetusd.core import reasons
from impetusd.core.explain import causes, ledger, story, why_timers
from impetusd.core.explain.finding import (
    LINES,
    STARTS_UP,
    WORDS,
    Commands,
    End,
    Facts,
    Finding,
    Record,
    Row,
    advice_on,
    end_of,
)
from impetusd.core.protocol import as_wanted
from impetusd.core.reasons import Reason, of_record, waited_for
from impetusd.core.units import ahead, counted, span

WAITING = frozenset({"waits_for", "waits_for_address", "waits_for_line", "waits_for_listen", "waits_for_answer"})
MEANS = {"FATAL": " (given up)", "BACKOFF": " (waiting to restart)"}


def explain(facts: Facts, patterns: Sequence[str]) -> list[Finding]:
    """Findings about the units, slots, timers and checks that `patterns` name; if none, about all that is wrong."""
    found = [] if facts.running else [_daemon(facts)]
    told = facts.running and (patterns or _refused(facts) == list(facts.mistakes))
    if facts.mistakes and not told:
        found.insert(0, _mistaken(facts))
    if facts.held is not None:
        found.append(_hold_only(facts, facts.held))
    if not patterns:
        found += _configuration(facts)
    rows = _rows(facts) if facts.running else _rows_of_records(facts)
    asked = [row for row in rows if _named(patterns, row["unit"], row["name"])]
    targets = {check["target"] for check in facts.checks if patterns and _named(patterns, check["name"])}
    asked += [row for row in rows if row not in asked and targets & {row["unit"], row["name"]}]
    asked = _with_causes(asked, rows)
    for unit in dict.fromkeys(row["unit"] for row in asked):
        found += _of_unit(facts, [row for row in asked if row["unit"] == unit], told=bool(patterns))
        found += [_not_reloaded(facts, unit, why) for name, why in _failed_reloads(facts) if name == unit]
    timers = facts.timers if facts.running else why_timers.of_records(facts)
    for timer in timers:
        if _named(patterns, timer["name"]):
            finding = why_timers.of_timer(facts, timer)
            found += [finding] if patterns or not finding.ok else []
    seen = (
        {row["unit"] for row in asked} | {timer["name"] for timer in facts.timers} | {c["name"] for c in facts.checks}
    )
    if patterns and facts.running:
        units = dict.fromkeys(name.partition(":")[0] for name in facts.known if _named(patterns, name))
        found += [_off(facts, name) for name in units if name not in seen]
    return found


def _named(patterns: Sequence[str], *names: str) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in patterns)


# Impetusd itself.


def _daemon(facts: Facts) -> Finding:
    """No daemon runs: since when, and who wanted it so."""
    start = (f"{facts.command} start", "start everything that has autostart")
    last = next((record for record in reversed(facts.own) if record["kind"] == "daemon"), None)
    if last is None:
        return Finding(
            name="impetusd", ok=False, headline="impetusd is not running and left no records", commands=(start,)
        )
    if last["what"] != "ended" or facts.left:
        at = facts.own[-1]["at"]
        cause = "it was killed or the host went down: no orderly shutdown was recorded"
        headline = f"impetusd is not running; its last record is from {facts.when(at)}"
        told: tuple[tuple[str, str], ...] = (("cause", cause),)
        commands: Commands = (start,)
        if facts.left:
            left = counted(facts.left, "process", "processes")
            told = (
                ("cause", "it was killed"),
                ("left", f"{left} it started {'is' if facts.left == 1 else 'are'} still running"),
            )
            take, end = f"{facts.command} start", f"{facts.command} stop"
            commands = ((take, "take them over without losing anything"), (end, "stop them"))
            if facts.lost:
                told += (("lost", f"they cannot be taken over, because {facts.lost}"),)
                commands = ((end, "stop them"), start)
        return Finding(name="impetusd", ok=False, headline=headline, facts=told, commands=commands)
    stopping = next((r for r in reversed(facts.own) if r["kind"] == "daemon" and r["what"] == "stopping"), last)
    stop = next((r for r in reversed(facts.own) if r["kind"] == "command" and r["method"] == "stop"), None)
    why = ledger.reason(stopping)
    cause = str(why) if why else "it was asked to stop"
    if stop is not None and stopping["at"] <= stop["at"] <= last["at"] and not stop["names"]:
        cause = f"{ledger.typed(stop)}, by {ledger.who(stop)}"
    headline = f"impetusd is not running; it stopped at {facts.when(last['at'])}"
    return Finding(name="impetusd", ok=False, headline=headline, facts=(("cause", cause),), commands=(start,))


def _mistaken(facts: Facts) -> Finding:
    """The finding for an INI file that impetusd cannot start with."""
    told = [("mistake", each) for each in facts.mistakes[:LINES]]
    if len(facts.mistakes) > LINES:
        told.append(("more", counted(len(facts.mistakes) - LINES, "other mistake")))
    since = f" since {facts.when(facts.changed_at)}" if facts.changed_at else ""
    headline = f"impetusd cannot start: its INI file has mistakes{since}"
    if facts.running:
        headline = f"the INI file has mistakes{since}; impetusd could not restart with it"
        told.append(("next", "running programs are not affected, but nothing would start after a reboot"))
    commands = ((f"{facts.command} check", "all mistakes in the file"),)
    return Finding(name="impetusd", ok=False, headline=headline, facts=tuple(told), commands=commands)


def _hold_only(facts: Facts, held: Mapping[str, Any]) -> Finding:
    """Impetusd itself has gone wrong, and holds what there is."""
    return Finding(
        name="impetusd",
        ok=False,
        headline=f"impetusd has been in hold-only mode since {facts.when(held['at'])}",
        facts=(
            ("cause", f"its supervisor crashed {_twice(held)}"),
            (
                "next",
                "programs keep running and their exits are recorded, but nothing is started, restarted or recycled",
            ),
            ("hint", "this is a bug in impetusd; see its log"),
        ),
        commands=(
            (f"{facts.command} upgrade", "try again with the code on disk; programs keep running"),
            (f"{facts.command} stop", "or stop everything, then start again"),
            (f"{facts.command} logs impetusd", "its own log"),
        ),
    )


def _quarantined(facts: Facts, row: Row) -> Finding:
    """A slot over which the supervisor has ended."""
    held, records = row["held"], _about(facts, [row])
    runs = f", pid {row['pid']}" if row.get("pid") is not None else ""
    return Finding(
        name=row["unit"],
        ok=False,
        headline=f"{row['name']} is quarantined: {row['state']}{runs}, since {facts.when(held['at'])}",
        facts=(
            ("cause", f"impetusd's supervisor crashed {_twice(held)} while handling {row['name']}"),
            ("next", "it is not restarted, recycled or reloaded; other units are not affected"),
            ("hint", "this is a bug in impetusd; see its log"),
        ),
        happened=tuple(story.summarize(records, LINES, named=False)),
        commands=(
            (f"{facts.command} stop {row['name']}", "stop it and everything it started"),
            (f"{facts.command} start {row['name']}", "then try again"),
        ),
    )


def _twice(held: Mapping[str, Any]) -> str:
    stage = f", {held['stage']}" if held["stage"] else ""
    return f"twice within {span(held['within_s'])} (last: {held['how']}{stage})"


def _refused(facts: Facts) -> list[str]:
    """The problems for which a file was refused last; [] if none was."""
    refused = next((r for r in reversed(facts.own) if r["kind"] == "config" and r["what"] == "refused"), None)
    if refused is None:
        return []
    return list(refused.get("problems") or [refused["reason"]])


def _configuration(facts: Facts) -> list[Finding]:
    """The daemon's own troubles: a refused INI file, disks that cannot be written."""
    found = []
    for trouble in facts.troubles:
        if trouble.key == "not_reloaded":
            continue  # reported with its unit
        head, cause = reasons.parts(trouble)
        commands = causes.of_reasons([trouble]).commands
        labelled: tuple[tuple[str, str], ...] = (("cause", cause),) if cause else ()
        if trouble.key == "ini_refused":
            commands = (
                (f"{facts.command} check", "all problems in the file"),
                (f"{facts.command} apply", "once it is fixed"),
            )
            if problems := _refused(facts):
                labelled = tuple(("problem", each) for each in problems[:LINES])
            labelled += (("next", "running programs are not affected; apply again once the file is fixed"),)
        found.append(Finding(name="impetusd", ok=False, headline=head, facts=labelled, commands=commands))
    return found


# Units and their slots.


def _rows(facts: Facts) -> list[Row]:
    return [row for row in facts.rows if row["kind"] not in {"timer", "health"}]


def _rows_of_records(facts: Facts) -> list[Row]:
    """The slots' states when the daemon last ran."""
    rows: dict[str, dict[str, Any]] = {}
    jobs = {record["unit"] for record in facts.records if record["kind"] == "timer"}
    for record in facts.records:
        slot = record.get("slot")
        if slot and record["kind"] in {"start", "ready", "exit", "gone"} and record["unit"] not in jobs:
            state = record.get("state", "RUNNING")
            rows[slot] = {
                "name": slot,
                "unit": record["unit"],
                "kind": "",
                "state": state,
                "want": "down",
                "reason": "",
            }
    return [row for row in rows.values() if not row["name"].endswith((":leaving", ":standby"))]


def _with_causes(asked: list[Row], rows: Sequence[Row]) -> list[Row]:
    """The names, with those that they wait for, because the cause is there."""
    for row in asked:  # grows meanwhile
        waits = waited_for(row)
        if waits and not as_wanted(row):
            asked += [each for each in rows if waits in {each["name"], each["unit"]} and each not in asked]
    return asked


def _of_unit(facts: Facts, rows: list[Row], *, told: bool) -> list[Finding]:
    """`told`: report also if all is well."""
    wrong = [row for row in rows if not as_wanted(row)]
    waiting = [row for row in wrong if of_record(row).key in WAITING]
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in wrong:
        if row not in waiting and not row.get("held"):
            groups.setdefault((row["state"], reasons.alike(of_record(row))), []).append(row)
    found = [_quarantined(facts, row) for row in wrong if row.get("held")]
    found += [_of_slots(facts, group) for group in groups.values()]
    ill = [c for c in facts.checks if c["state"] == "unhealthy" and c["target"] in {rows[0]["unit"], *_names(rows)}]
    ill = [check for check in ill if check["target"] not in _names(wrong)]
    found += [_unhealthy(facts, check, rows) for check in ill]
    if waiting:
        reported = dict.fromkeys(of_record(row) for row in waiting)
        same = [(reason, _names(row for row in waiting if of_record(row) == reason)) for reason in reported]
        behind = tuple(f"{_listed(each)} {_are(each)} STARTING: {reason}." for reason, each in same)
        if found:
            found[0] = replace(found[0], more=(*found[0].more, *behind))
        else:
            found = [_waiting(waiting)]
    fine = [row for row in rows if as_wanted(row)]
    if told and not found:
        found = [_well(facts, rows)] if facts.running else [_past(facts, row) for row in rows]
    elif told and wrong and fine:
        found[-1] = replace(found[-1], more=(*found[-1].more, f"{_listed(_names(fine))} {_are(fine)} OK."))
    return found


def _names(rows: Iterable[Row]) -> list[str]:
    return [row["name"] for row in rows]


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _are(rows: Sequence[object]) -> str:
    return "is" if len(rows) == 1 else "are"


def _about(facts: Facts, rows: Sequence[Row]) -> list[Record]:
    """The records of these slots, of the workers that left them, and of what concerns their unit as a whole."""
    slots = {row["name"] for row in rows} | {f"{row['name']}:leaving" for row in rows}
    units = {row["unit"] for row in rows}

    def mine(record: Record) -> bool:
        if record["kind"] in {"command", "config", "daemon"}:
            return bool(ledger.subjects(record) & (slots | units))
        if record["kind"] == "reload":
            return record["unit"] in units
        return record.get("slot") in (slots | units)

    records = [record for record in facts.records if mine(record)]
    first = records[0]["at"] if records else facts.now
    whole = [r for r in facts.own if _of_everything(r) and r["at"] >= first and r not in records]
    return sorted([*records, *whole], key=ledger.began)


def _of_everything(record: Record) -> bool:
    """A command without a name, and what becomes of impetusd itself, is about everything."""
    return record["kind"] == "daemon" or (
        record["kind"] == "command" and not record["names"] and record["method"] in STARTS_UP
    )


def _of_slots(facts: Facts, rows: list[Row]) -> Finding:
    """Slots that are not as wanted, all for the same reason."""
    row, records = rows[0], _about(facts, rows)
    end = end_of([r for r in records if r.get("slot") in {None, row["name"], f"{row['name']}:leaving"}])
    found: list[tuple[str, str]] = []
    state, since = row["state"], end.exit["at"] if end is not None else None
    if state in {"STARTING", "STOPPING"} or end is None:
        found.append(("cause", str(of_record(row)) or _still(row)))
        if row.get("uptime_s") is not None:
            since = facts.now - row["uptime_s"]
        found += [("before", f"{end.text}, at {facts.clock(end.exit['at'])}")] if end is not None else []
    else:
        found.append(("cause", end.text))
    if end is not None:
        found += _decided(end)
        found += _often(facts, end)
    found += _next(facts, row, end)
    known = advice_on(end, [of_record(row)], facts.programs.get(row["unit"], ()))
    found += [("hint", known.hint)] if known.hint else []
    return Finding(
        name=row["unit"],
        ok=False,
        headline=f"{_listed(_names(rows))} {_are(rows)} {state}{MEANS.get(state, '')}"
        + (f" since {facts.when(since)}" if since else ""),
        facts=tuple(found),
        happened=tuple(story.summarize(records, LINES, named=len(rows) > 1)),
        words=end.last_words if end is not None else (),
        words_at=end.words["at"] if end is not None and end.words is not None else 0.0,
        commands=(*known.commands, *_to_type(facts, row)),
    )


def _still(row: Row) -> str:
    return "it is running, but not ready yet" if row.get("pid") else "about to be started"


def _decided(end: End) -> list[tuple[str, str]]:
    decision = str(ledger.decision(end.exit))
    if end.rule is not None and end.rule["rule"] != "other":
        what = "a health check" if end.rule["rule"] == "health" else end.rule["rule"]
        return [("rule", f"{what} ended it; {decision}")]
    return [("rule", decision)] if decision else []


def _often(facts: Facts, end: End) -> list[tuple[str, str]]:
    if end.times < 2:
        return []
    return [("often", f"{end.times} times in a row, since {facts.when(end.since)}")]


def _next(facts: Facts, row: Row, end: End | None) -> list[tuple[str, str]]:
    retry = end.exit.get("retry_s") if end is not None and end.exit.get("state") == row["state"] else None
    wait = (end.exit["at"] + retry - facts.now) if end is not None and retry else None
    match row["state"]:
        case "BACKOFF" if wait is not None:
            return [("next", f"it restarts {ahead(max(0.0, wait))}")]
        case "FATAL" if wait is not None:
            return [("next", f"one more attempt {ahead(max(0.0, wait))} (retry_after)")]
        case "FATAL":
            return [("next", "it stays down until you start it")]
    return []


def _to_type(facts: Facts, row: Row) -> Commands:
    logs = (f"{facts.command} logs {row['unit']}", "everything it wrote")
    match row["state"]:
        case "FATAL":
            return (logs, (f"{facts.command} restart {row['unit']}", "once it is fixed"))
        case "BACKOFF":
            return (logs, (f"{facts.command} restart {row['unit']}", "restart now, without waiting"))
        case "STOPPED":
            return ((f"{facts.command} start {row['unit']}", "start it"), logs)
    return (logs,)


def _waiting(rows: list[Row]) -> Finding:
    """The finding on slots that only wait for another unit, which is reported, too."""
    headline = f"{_listed(_names(rows))} {_are(rows)} STARTING: {of_record(rows[0])}"
    return Finding(name=rows[0]["unit"], ok=False, headline=headline)


def _unhealthy(facts: Facts, check: Row, rows: Sequence[Row]) -> Finding:
    """The finding on slots that are up but unhealthy."""
    own = [row for row in rows if check["target"] in {row["name"], row["unit"]}]
    records = _about(facts, own)
    turns = [
        r for r in records if r["kind"] == "health" and r["check"] == check["name"] and r["slot"] == check["target"]
    ]
    began = next((r["at"] for r in reversed(turns) if r["state"] == "unhealthy"), None)
    words = next((r for r in reversed(records) if r["kind"] == "stderr"), None)
    section = f"[health:{check['name']}]"
    restarts = check["action"] == "restart"
    rule = f"{section} failures = {check.get('threshold', '?')}, action = {check['action']}"
    every = (
        f"it is checked again every {span(check['interval_s'])}" if check.get("interval_s") else "it is checked again"
    )
    ends = [r for r in records if r["kind"] == "rule" and r["rule"] == "health"]
    why = of_record(check)
    held = why.facts["held"] if why.key == "held" else reasons.NONE
    cause = why.facts["cause"] if held else why
    found = [("cause", str(cause))]
    found.append(("rule", rule + ("" if restarts else ": only reported, not restarted")))
    if ends:
        times = "once" if len(ends) == 1 else f"{len(ends)} times, last"
        found.append(("often", f"restarted {times} at {facts.when(ends[-1]['at'])}"))
    if restarts and not held:
        every += f", and restarted after {check.get('threshold', '?')} failures in a row"
    found.append(("next", every))
    found += [("held", f"not restarted yet: {held}")] if held else []
    known = causes.of_reasons([cause])
    if words and known == causes.Advice():
        known = causes.advice(words["lines"])
    found += [("hint", known.hint)] if known.hint else []
    state = own[0]["state"] if own else "RUNNING"
    return Finding(
        name=rows[0]["unit"],
        ok=False,
        headline=f"{check['target']} is {state}, but unhealthy" + (f" since {facts.when(began)}" if began else ""),
        facts=tuple(found),
        happened=tuple(story.summarize(records, LINES, named=len(own) > 1)),
        words=tuple(words["lines"][-WORDS:]) if words else (),
        words_at=words["at"] if words else 0.0,
        commands=(
            *known.commands,
            (f"{facts.command} health", "the state of all checks"),
            (f"{facts.command} logs {rows[0]['unit']}", "its output"),
        ),
    )


def _well(facts: Facts, rows: list[Row]) -> Finding:
    """A healthy unit: its recent events."""
    row, records = rows[0], _about(facts, rows)
    end = end_of(records)
    found: list[tuple[str, str]] = []
    commands: Commands = ((f"{facts.command} logs {row['unit']}", "its output"),)
    if len(rows) > 1:
        up = sum(each["state"] == "RUNNING" for each in rows)
        headline = f"{row['unit']} is OK: {up} of {len(rows)} processes RUNNING"
    elif row["state"] == "RUNNING":
        up_s = row.get("uptime_s") or 0.0
        headline = f"{row['name']} has been RUNNING since {facts.when(facts.now - up_s)}, pid {row['pid']}"
    else:
        headline = f"{row['name']} is {row['state']}, as intended"
        found += _stopped(facts, row, records)
        commands = _to_type(facts, row)
    if end is not None:
        found.append(("last end", f"{end.text}, at {facts.when(end.exit['at'])}"))
        found += _decided(end)
    restarts = sum(each.get("restarts") or 0 for each in rows)
    if restarts:
        found.append(("often", f"{counted(restarts, 'unplanned restart')} since it was first started"))
    known = advice_on(end, command=facts.programs.get(row["unit"], ()))
    return Finding(
        name=row["unit"],
        ok=True,
        headline=headline,
        facts=(*found, *([("hint", known.hint)] if known.hint else [])),
        happened=tuple(story.summarize(records, LINES, named=len(rows) > 1)),
        words=end.last_words if end is not None else (),
        words_at=end.words["at"] if end is not None and end.words is not None else 0.0,
        commands=(*(known.commands if end is not None else ()), *commands),
    )


def _failed_reloads(facts: Facts) -> list[tuple[str, Reason]]:
    """(unit, why) of each whose last reload has failed."""
    failed = (trouble.facts for trouble in facts.troubles if trouble.key == "not_reloaded")
    return [(str(found["unit"]), found["cause"]) for found in failed]


def _not_reloaded(facts: Facts, unit: str, why: Reason) -> Finding:
    """The finding on a unit that runs an older version because the one on disk failed."""
    own = [r for r in facts.records if r["kind"] == "reload" and r["unit"] == unit]
    back = next((r for r in reversed(own) if r["what"] in {"rolled back", "failed"}), None)
    began = next((r for r in reversed(own) if r["what"] == "began"), None)
    lines = list(back.get("lines", ())) if back is not None else []
    found = [("cause", str(why))]
    made_for = ledger.reason(began) if began is not None else reasons.NONE
    if made_for and made_for.key != "reload":
        found.append(("made for", str(made_for)))
    found.append(("next", "the old version keeps serving; a restart would start the code on disk"))
    known = causes.of_reasons([why])
    if known == causes.Advice():
        known = causes.advice(lines)
    found += [("hint", known.hint)] if known.hint else []
    return Finding(
        name=unit,
        ok=False,
        headline=f"Reload of {unit} failed; the old version keeps serving"
        + (f", since {facts.when(back['at'])}" if back else ""),
        facts=tuple(found),
        words=tuple(lines[-WORDS:]),
        words_at=back["at"] if back is not None else 0.0,
        commands=(*known.commands, (f"{facts.command} reload {unit}", "once it is fixed")),
    )


def _stopped(facts: Facts, row: Row, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Who stopped it, if it was stopped on request."""
    if row["state"] != "STOPPED":
        return []
    stops = [
        r for r in records if r["kind"] == "command" and r["method"] in {"stop", "scale"} and r["outcome"] == "done"
    ]
    found = (
        [("cause", f"{ledger.typed(stops[-1])}, by {ledger.who(stops[-1])}, at {facts.when(stops[-1]['at'])}")]
        if stops
        else []
    )
    return (
        [*found, ("next", "it stays stopped, even after a reboot, until you start it")]
        if stops
        else [("next", "nothing: it was never started, or has autostart = no")]
    )


def _past(facts: Facts, row: Row) -> Finding:
    """Its state before the daemon ended."""
    records = _about(facts, [row])
    end = end_of([record for record in records if record.get("slot") in {None, row["name"]}])
    found: list[tuple[str, str]] = []
    if end is not None:
        found = [("last end", f"{end.text}, at {facts.when(end.exit['at'])}"), *_decided(end), *_often(facts, end)]
    known = advice_on(end, command=facts.programs.get(row["unit"], ()))
    return Finding(
        name=row["unit"],
        ok=end is None,
        headline=f"{row['name']} was {row['state']} when impetusd last ran",
        facts=(*found, *([("hint", known.hint)] if known.hint else [])),
        happened=tuple(story.summarize(records, LINES, named=False)),
        words=end.last_words if end is not None else (),
        words_at=end.words["at"] if end is not None and end.words is not None else 0.0,
        commands=(
            *(known.commands if end is not None else ()),
            (f"{facts.command} logs {row['unit']}", "everything it wrote"),
        ),
    )


def _off(facts: Facts, name: str) -> Finding:
    """The INI file has it, and the daemon does not run it."""
    records = [record for record in facts.records if name in ledger.subjects(record)]
    off = next((r for r in reversed(records) if r["kind"] == "command" and r["method"] in {"disable", "enable"}), None)
    if off is not None and off["method"] == "disable" and off["outcome"] == "done":
        cause = f"{ledger.typed(off)}, by {ledger.who(off)}, at {facts.when(off['at'])}"
        commands: Commands = ((f"{facts.command} enable {name}", "enable it again"),)
    else:
        cause = "enabled = no in the INI file, or a change in the file that was not applied"
        commands = ((f"{facts.command} plan", "what applying the file would change"),)
    happened = tuple(story.summarize(records, LINES, named=False))
    return Finding(
        name=name,
        ok=True,
        headline=f"{name} is disabled",
        facts=(("cause", cause),),
        happened=happened,
        commands=commands,
    )
