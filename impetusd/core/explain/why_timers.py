"""Explain a timer: its last run's result, and its next run."""

from __future__ import annotations

from impetusd.core.explain import causes, ledger, story
from impetusd.core.explain.finding import LINES, Facts, Finding, Row, advice_on, end_of
from impetusd.core.reasons import SKIPPED, of_record
from impetusd.core.units import ahead, span


def of_records(facts: Facts) -> list[Row]:
    names = dict.fromkeys(record["unit"] for record in facts.records if record["kind"] == "timer")
    idle = {"running_s": None, "state": "waiting", "next_in_s": None, "enabled": True, "words": ""}
    return [{"name": name, **idle} for name in names]


def of_timer(facts: Facts, timer: Row) -> Finding:
    name = timer["name"]
    records = [record for record in facts.records if name in ledger.subjects(record)]
    runs = [record for record in records if record["kind"] == "timer"]
    ran = next((record for record in reversed(runs) if of_record(record).key not in SKIPPED), None)
    ok = ran is None or bool(ran["ok"])
    found: list[tuple[str, str]] = []
    headline, end = f"{name} has not run yet", None
    if timer["running_s"] is not None:
        headline = f"{name} has been running for {span(timer['running_s'])}"
    if ran is not None:
        end = end_of([r for r in records if r.get("slot") == name or r["kind"] == "exit"])
        at = ran["at"]
        if timer["running_s"] is None:
            headline = f"{name} {'succeeded' if ok else 'failed'} at {facts.when(at)}"
        attempt = f", attempt {ran['attempt']}" if ran["attempt"] > 1 else ""
        said = causes.error_line(end.lines) if end is not None and not ok else ""
        found.append(("result" if ok else "cause", f"{of_record(ran)}{f': {said}' if said else ''}"))
        found.append(("run", f"{ran['why']}{attempt}, after {span(ran['duration_s'])}"))
        if not ok:
            retries = ran.get("retries", 0)
            used = (
                f", {min(ran['attempt'] - 1, retries)} used"
                if retries
                else ": not retried before its next scheduled run"
            )
            found.append(("rule", f"retries = {retries}{used}"))
    if runs and runs[-1] is not ran:
        found.append(("since", f"{of_record(runs[-1])}, at {facts.when(runs[-1]['at'])}"))
    found.append(("next", _next_run(facts, timer)))
    known = advice_on(end) if not ok else causes.Advice()
    found += [("hint", known.hint)] if known.hint else []
    return Finding(
        name=name,
        ok=ok,
        headline=headline,
        facts=tuple(found),
        happened=tuple(story.summarize([r for r in records if r["kind"] not in {"exit", "start"}], LINES, named=False)),
        words=end.last_words if end is not None and not ok else (),
        words_at=end.words["at"] if end is not None and end.words is not None else 0.0,
        commands=(
            *known.commands,
            (f"{facts.command} logs {name}", "everything it wrote"),
            (f"{facts.command} trigger {name}", "run it now"),
        ),
    )


def _next_run(facts: Facts, timer: Row) -> str:
    if not facts.running:
        return "nothing, until impetusd is started"
    if not timer["enabled"]:
        return "nothing: it is disabled (enabled = no)"
    if timer["next_in_s"] is None:
        return "nothing: its schedule has no more runs"
    if timer["state"] == "retrying":
        return f"it is retried {ahead(timer['next_in_s'])}"
    return f"it runs again {ahead(timer['next_in_s'])} ({timer['words']})"
