"""Summarize ledger records as a few dated lines; repeated events become one line with a count."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from impetusd.core.explain import ledger
from impetusd.core.units import span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from impetusd.core.explain.ledger import Record

LONG = 10.0  # seconds until ready, from which on that is worth a line
# What a command that failed without an error did not do, by method; for all others, not everything came up.
FAILED = {
    "trigger": "the job failed",
    "reload": "it failed",
    "stop": "some processes did not exit",
    "shutdown": "some processes did not exit",
}


class Line(NamedTuple):
    """`at` and `since` are Unix time: when it was so last, and first of `times`."""

    at: float
    since: float
    times: int
    text: str


class _Mark(NamedTuple):
    """`key`: marks with the same one are the same again, until one without."""

    at: float
    key: object
    text: str
    ran: float | None = None  # seconds, shown between `text` and `more`
    more: str = ""


def summarize(records: Sequence[Record], most: int, *, named: bool) -> list[Line]:
    """The last `most` lines; with `named` each names its unit."""
    lines: list[Line] = []
    open_: dict[object, tuple[int, list[float]]] = {}  # key → its line, how long the runs were
    for mark in _marks(sorted(records, key=ledger.began), named=named):
        place, runs = open_.get(mark.key, (len(lines), []))
        runs += [] if mark.ran is None else [mark.ran]
        text = f"{mark.text}{f' after {_spread(runs)}' if runs else ''}{mark.more}"
        if not mark.key:
            open_.clear()
            lines.append(Line(mark.at, mark.at, 1, text))
        elif place == len(lines):
            open_[mark.key] = place, runs
            lines.append(Line(mark.at, mark.at, 1, text))
        else:
            lines[place] = Line(mark.at, lines[place].since, lines[place].times + 1, text)
    return sorted(lines, key=lambda line: line.at)[-most:]


def _spread(runs: Sequence[float]) -> str:
    low, high = span(min(runs)), span(max(runs))
    return low if low == high else f"{low} to {high}"


def _marks(records: Sequence[Record], *, named: bool) -> Iterator[_Mark]:
    starts: dict[str, Record] = {}  # slots whose last start is not in the lines yet
    lived: dict[int, str] = {}  # pid → the slot that it was started in
    for number, record in enumerate(records):
        later = records[number + 1 :]
        slot = record.get("slot") or record.get("unit") or ""
        who = f"{slot}: " if named and slot else ""
        match record["kind"]:
            case "start":
                if lived.setdefault(record["pid"], slot) == slot:
                    starts[slot] = record
                elif not slot.endswith(":leaving"):
                    yield _Mark(record["at"], "", f"{who}replaced by a spare worker, pid {record['pid']}")
            case "ready" if (record.get("after_s") or 0.0) >= LONG and slot in starts:
                yield _started(starts.pop(slot), who, f", ready after {span(record['after_s'])}")
            case "exit":
                starts.pop(slot, None)
                ended = " ".join(f"{who}{ledger.ending(record)}".split())
                asked = ", as requested" if record.get("asked") else ""
                ran = None if record.get("stage") else record.get("ran_s")
                yield _Mark(record["at"], (who, ledger.end_reason(record), asked), ended, ran, asked)
            case "health" if record["state"] == "failing" and _goes_on(record, later):
                continue
            case "rule" if record["rule"] == "health":
                yield _Mark(record["at"], f"health {slot}", f"{who}restarted by its health check")
            case "rule" | "health" | "config" | "timer" | "reload":
                key = "" if record["kind"] in {"config", "reload"} else f"{record['kind']} {slot} {_same(record)}"
                yield _Mark(record["at"], key, f"{who}{ledger.sentence(record)}")
            case "command" if record.get("outcome") != "refused":
                failed = (
                    ""
                    if record["outcome"] == "done"
                    else f": {record['error'] or FAILED.get(record.get('method', ''), 'not everything came up')}"
                )
                yield _Mark(ledger.began(record), "", f"{ledger.typed(record)}, by {ledger.who(record)}{failed}")
            case "command" | "lost":
                yield _Mark(record["at"], "", ledger.sentence(record))
            case "daemon" if record["what"] == "began":
                yield _Mark(record["at"], "", "impetusd was started")
            case "daemon" if record["what"] == "stopping" and ledger.reason(record).key == "signalled":
                yield _Mark(record["at"], "", "impetusd was stopped by a signal")
    for slot, record in starts.items():
        yield _started(record, f"{slot}: " if named else "", "")


def _started(record: Record, who: str, more: str) -> _Mark:
    return _Mark(record["at"], "", f"{who}started, pid {record['pid']}{more}")


def _goes_on(failing: Record, later: Sequence[Record]) -> bool:
    """Whether it made the check unhealthy: then that is the line."""
    own = (r for r in later if r["kind"] == "health" and (r["check"], r["slot"]) == (failing["check"], failing["slot"]))
    return next((r["state"] == "unhealthy" for r in own), False)


def _same(record: Record) -> str:
    return str(record.get("rule") or record.get("state") or record.get("ok"))
