"""When an alert is sent: the ledger's records and the rows of `watch` → notices. No I/O; the clock is an argument.

Two sources say what is wrong. Rows show what stands (FATAL, unhealthy, a timer that failed); it is over when they no longer
do. Records show what happened (`core.explain.happened`). Both become incidents (`core.explain.incidents`), and of each
incident each alert is sent:

    firing      once, when it has lasted for `for`, GATHER at least, so that what follows from it is in the same notice
    worse       its cause was found behind what was sent, a warning has become an error, or more is wrong with its root
    repeat      every `repeat`, while it lasts
    flapping    in the place of the third `firing` within FLAP_WINDOW: nothing more until it was well for CALM
    recovered   when it has been over for RECOVERY, if it was sent

All of it is in `State`, which is written down together with the notices: who begins with the last one written sends
nothing twice. Times are Unix time, in seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

from impetusd.core import stream
from impetusd.core.explain import happened, incidents
from impetusd.core.explain.happened import Mark, Past, matches, merged
from impetusd.core.explain.incidents import EVENTS, WARNINGS, Incident, Problem, Rows
from impetusd.core.reasons import NONE, Reason
from impetusd.observer.settings import Alert, Settings

GATHER = 2.0  # seconds
RECOVERY = 5.0
CALM = 900.0
FLAPS, FLAP_WINDOW = 3, 3600.0
SEVERAL = 5  # incidents that begin at once, of which each has its own message
MOST, KEYS = 20, 500  # problems, slots and units of an incident that a notice names; keys that are remembered
OF_PROCESS = ("fatal", "unhealthy", "memory", "restarts")  # events that follow from each other

T = TypeVar("T")
Silence = Mapping[str, Any]  # {"name", "until"}: name of a unit, timer or alert, a pattern, or "" for everything


def _known(kind: type[T], data: Mapping[str, Any]) -> T:
    """One of this kind; fields of a newer version are left out."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]  # it is a dataclass
    return kind(**{name: value for name, value in data.items() if name in names})


@dataclass(slots=True)
class Case:
    """An incident that an alert was sent of. `keys`: its problems, and since when each is gone, 0.0 if it is not.

    `gone`: since when all are; `sent_as`: the root that was sent, where another has taken its place: of a database that is well
    again what needs it may not be yet.
    """

    incident: str
    root: str
    since: float
    sent: float
    error: bool
    keys: dict[str, float]
    problems: list[dict[str, Any]]
    gone: float = 0.0
    flapping: bool = False
    merged: list[str] = field(default_factory=list)  # incidents that have turned out to be this one
    sent_as: str = ""


@dataclass(slots=True, kw_only=True)
class State(Past):
    """What is remembered. `salt` makes ids unique, `count` numbers them.

    By alert and root: `cases`, and when it was `fired`.
    """

    salt: str
    count: int = 0
    since: dict[str, float] = field(default_factory=dict)  # by a problem's key
    cases: dict[str, dict[str, Case]] = field(default_factory=dict)
    fired: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> State:
        """What `data` gave, of this version or a newer one. KeyError, TypeError, ValueError, AttributeError for anything else."""
        cases = {alert: {root: _known(Case, each) for root, each in of.items()} for alert, of in data["cases"].items()}
        marks = {key: _known(Mark, each) for key, each in data["marks"].items()}
        for mark in marks.values():
            incidents.problem_of(mark.problem)
        return _known(cls, {**data, "cases": cases, "marks": marks})


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message of one alert. `id` is its own, `incident` that of all messages about the same incident.

    `kind` as above, or "test", asked for `by` somebody. `states`: of the root's slots now.
    `merged`: other incidents that have turned out to be this one, and are over with it. `more`: problems besides these.
    """

    id: str
    incident: str
    alert: str
    kind: str
    at: float
    root: str = ""
    since: float = 0.0
    error: bool = False
    problems: tuple[Problem, ...] = ()
    state: str = ""
    waiting: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    by: str = ""
    merged: tuple[str, ...] = ()
    more: int = 0

    def data(self) -> dict[str, Any]:
        """As JSON."""
        shown = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**shown, "problems": [incidents.problem_data(each) for each in self.problems]}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Notice:
        """What `data` gave, as it comes out of JSON."""
        found: dict[str, Any] = {name: tuple(each) if isinstance(each, list) else each for name, each in data.items()}
        return _known(cls, {**found, "problems": tuple(map(incidents.problem_of, data["problems"]))})


# What is sent.


def step(
    settings: Settings, state: State, rows: Rows, now: float, *, own: Iterable[Problem] = ()
) -> tuple[list[Notice], float | None]:
    """The notices that are due, and when to ask again if nothing changes (None: never).

    `own`: what is wrong with the observer itself, or with reaching the supervisor.
    """
    return _Turn(settings, state, rows, now).run(own)


class _Turn:
    """One look at everything."""

    def __init__(self, settings: Settings, state: State, rows: Rows, now: float) -> None:
        self._settings = settings
        self._state = state
        self._rows = rows
        self._now = now
        alerts = rows.get(stream.DAEMON, {}).get("", {}).get("alerts") or {}
        self._silences: list[Silence] = [each for each in alerts.get("silences", ()) if each["until"] > now]
        self._due: list[float] = [each["until"] for each in self._silences]
        self._notices: list[Notice] = []

    def run(self, own: Iterable[Problem]) -> tuple[list[Notice], float | None]:
        state = self._state
        found = incidents.group(self._problems(own), self._rows, self._settings.needs)
        for gone in state.cases.keys() - self._settings.alerts.keys():
            del state.cases[gone]
        for gone in state.fired.keys() - self._settings.alerts.keys():
            del state.fired[gone]
        for alert in self._settings.alerts.values():
            if alert.sends:
                self._alert(alert, found)
        return self._notices, min((at for at in self._due if at > self._now), default=None)

    def _problems(self, own: Iterable[Problem]) -> list[Problem]:
        """Everything that is wrong, each with the time since when."""
        state, now = self._state, self._now
        found = merged(happened.problems(state, self._rows, now, state.since), own)
        self._due += [mark.until for mark in state.marks.values()]
        for problem in list(found.values()):
            if problem.cause == NONE:  # it is started, and has not failed again
                found[problem.key] = replace(problem, cause=self._cause_before(problem.key))
        state.since = {key: state.since.get(key) or self._began(each) for key, each in found.items()}
        return [replace(each, since=state.since[key]) for key, each in found.items()]

    def _cause_before(self, key: str) -> Reason:
        """What was sent as the cause of a problem; NONE if nothing was."""
        cases = (case for of in self._state.cases.values() for case in of.values() if key in case.keys)
        sent = (incidents.problem_of(data) for case in cases for data in case.problems)
        return next((problem.cause for problem in sent if problem.key == key), NONE)

    def _fails(self, unit: str) -> bool:
        """Whether a process of it waits to be started again: what was forgiven it is not well for that."""
        rows = self._rows.get(stream.UNIT, {}).values()
        return any(row["unit"] == unit and row["state"] == "BACKOFF" and row["want"] == "up" for row in rows)

    def _began(self, problem: Problem) -> float:
        return problem.since if 0 < problem.since <= self._now else self._now

    def _alert(self, alert: Alert, found: Iterable[Incident]) -> None:
        before = self._state.cases.get(alert.name, {})
        after = self._state.cases[alert.name] = {}
        going_on: set[str] = set()
        new: list[Incident] = []
        by_key: dict[str, list[Case]] = {}
        for case in before.values():
            for key in case.keys:
                by_key.setdefault(key, []).append(case)
        for incident in found:
            if not _concerns(alert, incident):
                continue
            of_root = [before[incident.root]] if incident.root in before else []
            of_keys = [case for problem in incident.problems for case in by_key.get(problem.key, ())]
            same = list({case.root: case for case in (*of_root, *of_keys)}.values())
            going_on.update(case.root for case in same)
            known = next((case for case in same if case.root == incident.root), same[0] if same else None)
            if known is not None:
                after.update({case.root: case for case in self._go_on(alert, incident, known, same)})
            elif not self._silenced(alert, incident) and self._ready(alert, _wanted(alert, incident.problems)):
                new.append(incident)
        for group in [new] if len(new) > SEVERAL else [[each] for each in new]:
            after.update({case.root: case for case in self._begin(alert, group)})
        self._end(alert, [case for case in before.values() if case.root not in going_on])
        fired = self._state.fired.get(alert.name, {})
        for root in [root for root, times in fired.items() if self._now - times[-1] >= FLAP_WINDOW]:
            if root not in after:
                del fired[root]

    def _begin(self, alert: Alert, group: list[Incident]) -> Iterable[Case]:
        """Incidents that nothing was sent of yet; of several at once one message, as if they were one."""
        now, first, ident = self._now, group[0], self._next_id()
        flapping = False
        if len(group) == 1:
            fired = self._state.fired.setdefault(alert.name, {})
            times = fired[first.root] = [at for at in fired.get(first.root, ()) if now - at < FLAP_WINDOW] + [now]
            flapping = len(times) >= FLAPS
        whole = replace(
            first,
            problems=tuple(problem for each in group for problem in each.problems),
            waiting=tuple(name for each in group for name in each.waiting),
        )
        self._make(alert, "flapping" if flapping else "firing", ident, whole)
        if alert.repeat:
            self._due.append(now + alert.repeat)
        for each in group:
            since = min(problem.since for problem in each.problems)
            error = _is_error(_wanted(alert, each.problems))
            yield _case(each, incident=ident, since=since, sent=now, error=error, flapping=flapping)

    def _go_on(self, alert: Alert, incident: Incident, known: Case, same: list[Case]) -> list[Case]:
        """One of which something was sent."""
        case_keys = self._keys(incident, same, CALM if known.flapping else RECOVERY)
        merged = {each for case in same for each in (case.incident, *case.merged)} - {known.incident}
        wanted = _wanted(alert, incident.problems)
        error = _is_error(wanted)
        news = wanted if error and not known.error else _news(incident.root, wanted, case_keys)
        silenced = self._silenced(alert, incident)
        if news and not known.flapping and (silenced or not self._ready(alert, news)):
            for case in same:  # as it was, until that can be sent
                case.gone = 0.0
            return list(same)
        kind = "worse" if news and not known.flapping else ""
        if not kind and alert.repeat and not silenced:
            kind = "repeat" if self._now >= known.sent + alert.repeat else ""
        sent = self._now if kind else known.sent
        if alert.repeat:
            self._due.append(sent + alert.repeat)
        again = any(made.incident == known.incident and made.kind == kind == "repeat" for made in self._notices)
        if kind and not again:
            rest = tuple(problem for problem in incident.problems if problem not in news)
            shown = replace(incident, problems=(*news, *rest)) if kind == "worse" else incident
            self._make(alert, kind, known.incident, shown, since=known.since)
        case = _case(
            incident,
            case_keys,
            incident=known.incident,
            since=known.since,
            sent=sent,
            error=error,
            flapping=known.flapping,
            merged=sorted(merged)[:KEYS],
            sent_as=incident.root if kind else known.sent_as or known.root,
        )
        now = {incidents.problem_of(data).key for data in case.problems}
        case.problems += [data for data in known.problems if incidents.problem_of(data).key not in now]
        del case.problems[MOST:]
        return [case]

    def _keys(self, incident: Incident, same: Iterable[Case], hold: float) -> dict[str, float]:
        """Of problems that were sent: those that are there, or are gone for less than `hold`."""
        here = {problem.key for problem in incident.problems}
        gone = {key: at or self._now for case in same for key, at in case.keys.items() if key not in here}
        kept = {key: at for key, at in gone.items() if self._now - at < hold}
        self._due += [at + hold for at in kept.values()]
        return kept | {key: 0.0 for case in same for key in case.keys if key in here}

    def _end(self, alert: Alert, ended: Iterable[Case]) -> None:
        """They are over, and were sent. What was sent together is over together."""
        after = self._state.cases[alert.name]
        over: dict[str, list[Case]] = {}
        for case in ended:
            case.gone = self._now if self._fails(case.root) else case.gone or self._now
            until = case.gone + (CALM if case.flapping else RECOVERY)
            if until > self._now:
                after[case.root] = case
                self._due.append(until)
            else:
                over.setdefault(case.incident, []).append(case)
                if case.flapping:
                    self._state.fired.get(alert.name, {}).pop(case.root, None)
        going_on = {case.incident: case for case in after.values()}
        for ident, each in over.items():
            merged = {other for case in each for other in case.merged}
            if ident in going_on:
                going_on[ident].merged = sorted({*going_on[ident].merged, *merged})
            elif "recovered" in alert.events:
                first = min(each, key=lambda case: case.since)
                problems = tuple(incidents.problem_of(data) for case in (first, *each) for data in case.problems)
                root = first.sent_as or first.root
                ordered = sorted(problems, key=lambda problem: problem.name != root)
                whole = Incident(root, tuple({problem.key: problem for problem in ordered}.values()))
                self._make(alert, "recovered", ident, whole, since=first.since, merged=merged)

    def _silenced(self, alert: Alert, incident: Incident) -> bool:
        """Whether somebody wants to hear nothing of this alert, of the root, or of all that is wrong."""
        silenced = [str(each["name"]) for each in self._silences]
        patterns = [each for name in silenced for each in (name, *self._settings.groups.get(name, ()))]
        names = {problem.name for problem in incident.problems}
        whole = "" in silenced or matches(patterns, [alert.name, incident.root])
        return whole or all(matches(patterns, [name]) for name in names)

    def _ready(self, alert: Alert, problems: Iterable[Problem]) -> bool:
        """Whether one of them has lasted long enough."""
        at = min(problem.since for problem in problems) + max(alert.for_, GATHER)
        if at > self._now:
            self._due.append(at)
        return at <= self._now

    def _make(
        self, alert: Alert, kind: str, ident: str, incident: Incident, *, since: float = 0.0, merged: Iterable[str] = ()
    ) -> None:
        units = self._rows.get(stream.UNIT, {}).values()
        states = tuple(f"{row['name']} {row['state']}" for row in units if row["unit"] == incident.root)
        made = Notice(
            id=ident if kind in {"firing", "flapping"} else self._next_id(),
            incident=ident,
            alert=alert.name,
            kind=kind,
            at=self._now,
            root=incident.root,
            since=since or min(problem.since for problem in incident.problems),
            error=incident.error,
            problems=incident.problems[:MOST],
            more=max(0, len(incident.problems) - MOST),
            state=incident.state,
            waiting=incident.waiting[:MOST],
            states=states[:MOST],
            merged=tuple(sorted(merged))[:MOST],
        )
        self._notices.append(made)

    def _next_id(self) -> str:
        self._state.count += 1
        return f"{self._state.salt}-{self._state.count}"


def _news(root: str, problems: Iterable[Problem], known: Collection[str]) -> list[Problem]:
    """Those of the root itself that were not sent yet. Of what is wrong with a process only what is worse is news."""
    ranks = [EVENTS.index(event) for event in OF_PROCESS if f"{event} {root}" in known]
    best = min(ranks, default=len(EVENTS))
    own = [problem for problem in problems if problem.name == root and problem.key not in known]
    return [each for each in own if each.event not in OF_PROCESS or EVENTS.index(each.event) < best]


def _case(of: Incident, keys: Mapping[str, float] | None = None, **known: Any) -> Case:
    """The incident as it was sent now; `keys`: as in Case, of problems that it had before."""
    problems = [{**incidents.problem_data(each), "lines": []} for each in of.problems[:MOST]]
    every = {**(keys or {}), **{problem.key: 0.0 for problem in of.problems[:KEYS]}}
    return Case(root=of.root, keys=every, problems=problems, **known)


def _wanted(alert: Alert, problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.event in alert.events]


def _is_error(problems: Iterable[Problem]) -> bool:
    """Whether something does not work; a warning else."""
    return any(problem.event not in WARNINGS for problem in problems)


def _concerns(alert: Alert, incident: Incident) -> bool:
    """Whether the alert is for this."""
    return bool(_wanted(alert, incident.problems)) and (not alert.units or matches(alert.units, incident.names))
