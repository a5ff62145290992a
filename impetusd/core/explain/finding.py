"""The parts of an explanation: known facts, a finding, and a slot's last exit from the ledger."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from impetusd.core.explain import causes, foreground, ledger, story
from impetusd.core.reasons import Reason, mentions
from impetusd.core.units import ago

Row: TypeAlias = Mapping[str, Any]
Record: TypeAlias = Mapping[str, Any]
Commands: TypeAlias = tuple[tuple[str, str], ...]

STARTS_UP = ("start", "restart", "apply", "enable")  # commands that have something started
LINES = 12  # of what happened
WORDS = 12  # lines of stderr
AT_ONCE = 10.0  # seconds: a run that ends with success before that did not do what a service does


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Known facts. `records` are about the explained names, `own` about impetusd itself; both oldest first.

    `now` is Unix time; `running`: a daemon was asked, so there are rows; `known`: names in the INI file; `left`: how many
    processes still run after impetusd was killed; `lost`: why the next one cannot take them over, "" if it can;
    `held`: why nothing is started at all, see `core.rules.quarantine`; `mistakes`: of the INI file, which was written at `changed_at` (Unix time); `command` reaches this instance on the
    command line. `zone` is for tests; None is the host's.
    """

    now: float
    running: bool
    rows: Sequence[Row] = ()
    checks: Sequence[Row] = ()
    timers: Sequence[Row] = ()
    troubles: Sequence[Reason] = ()
    records: Sequence[Record] = ()
    own: Sequence[Record] = ()
    known: Sequence[str] = ()
    programs: Mapping[str, Sequence[str]] = field(default_factory=dict)  # unit -> its command, as the INI file has it
    command: str = "impetusd"
    left: int = 0
    lost: str = ""
    held: Mapping[str, Any] | None = None
    mistakes: Sequence[str] = ()
    changed_at: float = 0.0
    zone: dt.tzinfo | None = None

    def clock(self, at: float) -> str:
        """22:04:11, with the date if that is not today's."""
        then, today = (dt.datetime.fromtimestamp(each, self.zone) for each in (at, self.now))
        return then.strftime("%H:%M:%S" if then.date() == today.date() else "%Y-%m-%d %H:%M:%S")

    def when(self, at: float) -> str:
        """22:04:11, 3 min ago."""
        return f"{self.clock(at)}, {ago(max(0.0, self.now - at))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One explanation. `facts` are (label, sentence), `commands` (what to type, what for), `words` from stderr at `words_at`."""

    name: str
    ok: bool
    headline: str
    facts: tuple[tuple[str, str], ...] = ()
    happened: tuple[story.Line, ...] = ()
    words: tuple[str, ...] = ()
    words_at: float = 0.0
    more: tuple[str, ...] = ()
    commands: Commands = ()

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "ok": self.ok,
            "headline": self.headline,
            "facts": [{"what": label, "text": sentence} for label, sentence in self.facts],
            "happened": [line._asdict() for line in self.happened],
            "stderr": list(self.words),
            "more": list(self.more),
            "commands": [{"command": what, "purpose": purpose} for what, purpose in self.commands],
        }


def _begins(record: Record) -> bool:
    """From here on the past is forgiven."""
    told = record["kind"] == "daemon" and record["what"] == "began"
    return told or (record["kind"] == "command" and record["method"] in STARTS_UP and record["outcome"] != "refused")


@dataclass(frozen=True, slots=True)
class End:
    """The last end, the rule that acted on that process before, and its last words."""

    exit: Record
    rule: Record | None
    words: Record | None
    times: int  # ends like it in a row
    since: float  # the time of the first of those

    @property
    def lines(self) -> list[str]:
        return list(self.words["lines"]) if self.words is not None else []

    @property
    def last_words(self) -> tuple[str, ...]:
        """Those that are shown."""
        return tuple(line for line in self.lines if not line.startswith(causes.NOISE))[-WORDS:]

    @property
    def text(self) -> str:
        """Why it ended, with its last output."""
        why = self.reason
        text = str(why)
        said = causes.error_line(self.lines)[:300] if self.rule is None else causes.hang_location(self.lines)
        if self.rule is None and self.exit.get("code") == 0:
            text = "it exited on its own with status 0 (success)"
        return f"{text}: {said}" if said and not mentions(why, said) else text

    @property
    def reason(self) -> Reason:
        """Why it ended."""
        return ledger.reason(self.rule) if self.rule is not None else ledger.end_reason(self.exit)


def end_of(records: Sequence[Record]) -> End | None:
    """None if there was no unplanned one."""
    ends = [record for record in records if record["kind"] == "exit"]
    if not ends or ends[-1].get("asked"):
        return None
    last = ends[-1]
    pid = last.get("pid")
    same: list[Record] = []
    for end in reversed(records):
        if end["kind"] == "exit" and not end.get("asked") and ledger.end_reason(end) == ledger.end_reason(last):
            same.append(end)
        elif end["kind"] == "exit" or (same and _begins(end)):
            break
    rules = [r for r in records if r["kind"] == "rule" and r.get("pid") == pid and r["n"] < last["n"]]
    words = [r for r in records if r["kind"] == "stderr" and r.get("pid") == pid and r["n"] > last["n"]]
    rule = rules[-1] if rules and pid is not None else None
    return End(last, rule, words[-1] if words and pid is not None else None, len(same), same[-1]["at"])


def advice_on(end: End | None, extra: Sequence[Reason] = (), command: Sequence[str] = ()) -> causes.Advice:
    """Advice on how it ended. `command`: the unit's command in the INI file."""
    if end is None:
        return causes.of_reasons(extra)
    found = causes.of_reasons([ledger.end_reason(end.exit), *extra])
    if found == causes.Advice():
        found = causes.advice(end.lines)
    short = (end.exit.get("ran_s") or 0.0) < AT_ONCE
    if end.exit.get("code") == 0 and end.rule is None and short:
        hint = foreground.advice(command) or (
            "a service must not exit. If it puts itself into the background, make it stay in the foreground; if it is"
            " meant to exit, set autorestart = on-failure"
        )
        return causes.Advice(hint, found.commands)
    if end.exit.get("core"):
        return with_commands(found, (("coredumpctl info " + str(end.exit.get("pid")), "where it crashed"),))
    if end.rule is not None and end.rule["rule"] == "watchdog" and end.lines:
        return causes.Advice("the stack traces below, written when it was stopped, show where it hung", found.commands)
    return found if found.hint else causes.Advice(causes.of_exit_code(end.exit.get("code")), found.commands)


def with_commands(found: causes.Advice, commands: Commands) -> causes.Advice:
    """The advice with these commands in front."""
    return causes.Advice(found.hint, (*commands, *found.commands))
