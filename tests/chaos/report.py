"""The chaos run's one table."""

from __future__ import annotations

from collections.abc import Iterable

from stage import Outcome

HEADER = ("stimulus", "count", "requests", "failed", "cut", "refused", "lost", "doubled", "p50 ms", "p99", "max", "")


def table(outcomes: Iterable[Outcome]) -> str:
    """A line for each stimulus, and under it what went wrong. `cut`: requests that a killed worker had under way."""
    rows: list[tuple[tuple[str, ...], Outcome | None]] = [(HEADER, None)]
    for outcome in outcomes:
        ordered = sorted(outcome.recovery_ms) or [0.0]
        share = [ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99, 1.0)]
        requests = (outcome.answered, len(outcome.failed), outcome.cut, outcome.refused)
        counts = (outcome.count, *requests, outcome.lost, outcome.doubled)
        cells = (outcome.name, *map(str, counts), *(f"{ms:.0f}" for ms in share), "" if outcome.passed else "FAILED")
        rows.append((cells, outcome))
    widths = [max(len(cells[column]) for cells, _ in rows) for column in range(len(HEADER))]
    lines = []
    for cells, found in rows:
        shown = [
            cells[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)),
        ]
        lines.append(" ".join(shown).rstrip())
        if found is not None:
            lines += [f"    {trouble}" for trouble in [*found.failed[:5], *found.wrong]]
    return "\n".join(lines)
