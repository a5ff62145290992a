"""How a notice reads: what, where, since when, the cause, the last lines on stderr, what to type, a link. Pure."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from impetusd.core import inert
from impetusd.core.explain import causes, incidents
from impetusd.core.explain.incidents import CONFIGURATION, IMPETUSD, Problem, stopped
from impetusd.core.reasons import SKIPPED
from impetusd.core.units import span
from impetusd.observer.rules import Notice
from impetusd.observer.settings import Settings

LINES = 5  # of stderr
LENGTH = 300  # characters of a line and of a title
CUT = 64  # characters of a text, for each item of a list, where both are cut
_BEFORE = {"worse": "worse: ", "repeat": "still: ", "flapping": "repeatedly: ", "recovered": "recovered: "}
_DIRECTION = re.compile("[\u2028\u2029\u202a-\u202e\u2066-\u2069]")  # what turns the order of characters around


@dataclass(frozen=True, slots=True)
class Message:
    """A notice as text. `data`: the same for programs; `error`: something does not work."""

    id: str
    kind: str
    title: str
    text: str
    link: str
    error: bool
    data: dict[str, Any]


def message(notice: Notice, settings: Settings, zone: dt.tzinfo | None = None) -> Message:
    """`zone` is for tests; None is the host's."""
    title = clean(f"[{settings.host}] {_title(notice)}")[:LENGTH]
    lines = [title, "", *map(clean, _body(notice, settings, zone))]
    command = _command(notice, settings)
    if command:
        lines += ["", f"→ {command}"]
    if settings.link:
        lines += [settings.link]
    data = {
        **notice.data(),
        "host": settings.host,
        "severity": "error" if notice.error else "warning",
        "title": title,
        "text": "\n".join(lines),
        "command": command,
        "link": settings.link,
    }
    for problem, shown in zip(notice.problems, data["problems"], strict=True):
        shown["cause"] = _inert(problem.cause.shown())
        shown["lines"] = list(map(clean, incidents.last_words(problem.lines, LINES)))
    text = "\n".join([*lines, "", f"id {notice.id}"])
    return Message(notice.id, notice.kind, title, text, settings.link, notice.error, data)


def brief_json(data: dict[str, Any], most: int) -> str:
    """The data as JSON of at most `most` bytes: else its lists and texts are cut until it fits, and "shortened" is true."""
    found, items = json.dumps(data), 1 << 10
    while len(found) > most and items:
        items //= 2
        found = json.dumps({**_cut(data, items), "shortened": True})
    return found


def _cut(value: Any, items: int) -> Any:
    if isinstance(value, dict):
        return {key: _cut(each, items) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_cut(each, items) for each in value[:items]]
    return value[: LENGTH + items * CUT] if isinstance(value, str) else value


def clean(text: str) -> str:
    """As one line that nothing obeys."""
    return _DIRECTION.sub("", inert.plain(text.replace("\t", " ")))[:LENGTH]


def _inert(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inert(each) for key, each in value.items()}
    if isinstance(value, list):
        return list(map(_inert, value))
    return _DIRECTION.sub("", inert.plain(value)) if isinstance(value, str) else value


def what(problem: Problem) -> str:
    """What is wrong, and why, in one line."""
    cause = incidents.text(problem)
    match problem.event:
        case "fatal":
            return f"{problem.name} is FATAL: {cause}"
        case "unhealthy":
            return f"{problem.name} is unhealthy: {cause}"
        case "timer":
            if problem.cause.key in SKIPPED:
                return f"a run of timer {problem.name} was {cause}"
            return f"timer {problem.name} failed: {cause}"
        case "restarts":
            return f"{problem.name} restarts repeatedly: {cause}"
        case "memory":
            return f"{problem.name} was restarted because of its memory use: {cause}"
        case "deploy":
            return cause
    return f"{IMPETUSD}: {cause}"


def _title(notice: Notice) -> str:
    if notice.kind == "test":
        return f"test of alert {notice.alert}, requested by {notice.by or 'an unknown user'}"
    first = notice.problems[0]
    if notice.kind == "recovered":
        return f"{_BEFORE['recovered']}{notice.root}, after {span(max(0.0, notice.at - notice.since))}"
    title = what(first)
    if notice.state:
        title = f"{stopped(notice.root, notice.state)}; {title}"
    more = len({problem.name for problem in notice.problems} | {*notice.waiting}) - 1 + notice.more
    return f"{_BEFORE.get(notice.kind, '')}{title}{f' (and {more} more)' if more > 0 else ''}"


def _body(notice: Notice, settings: Settings, zone: dt.tzinfo | None) -> Iterator[str]:
    clock = dt.datetime.fromtimestamp(notice.since or notice.at, zone).astimezone(zone)
    if notice.kind == "test":
        yield "This is a test: the alert works, and nothing is wrong."
        yield f"host   {settings.host}"
        return
    yield f"host   {settings.host}"
    lasted = span(max(0.0, notice.at - notice.since))
    yield f"since  {clock:%Y-%m-%d %H:%M:%S %Z} ({lasted})"
    if notice.kind == "recovered":
        yield from (f"was    {what(problem)}" for problem in notice.problems)
        if notice.states:
            yield f"now    {', '.join(notice.states)}"
        return
    if notice.kind == "flapping":
        yield "next   no further alerts about it until it has been healthy for 15 min"
    if notice.state:
        yield f"cause  {stopped(notice.root, notice.state)}"
    for number, problem in enumerate(notice.problems):
        yield f"{'cause' if not number and not notice.state else 'also '}  {what(problem)}"
        if hint := causes.of_reasons([problem.cause]).hint or causes.advice(problem.lines).hint:
            yield f"hint   {hint}"
    if notice.waiting:
        yield f"waits  {', '.join(notice.waiting)}"
    if notice.states:
        yield f"slots  {', '.join(notice.states)}"
    lines = next((problem.lines for problem in notice.problems if problem.lines), ())
    if lines:
        yield ""
        yield "Last lines on stderr:"
        yield from (f"    {line}" for line in incidents.last_words(lines, LINES))


def _command(notice: Notice, settings: Settings) -> str:
    if notice.kind in {"test", "recovered"}:
        return ""
    ours = {problem.event for problem in notice.problems} <= {"daemon", "disk"} or notice.root == CONFIGURATION
    return f"{settings.command} why" if ours else f"{settings.command} why {clean(notice.root)}"
