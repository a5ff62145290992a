"""One row of the comparison: a measure, its limit, and what each has reached."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from bench_install import Missing
from bench_managers import Failed

US = "impetusd"
SAME = 0.03  # so much of the greater of two figures is no difference
WHAT_FAILS = (
    Missing,
    Failed,
    OSError,
    ValueError,
    subprocess.SubprocessError,
    SystemExit,
    asyncio.IncompleteReadError,
)


@dataclass
class Row:
    """One measure: `best` says which of two values is better; `ours` and the peers by name, a text for what failed."""

    title: str
    limit: str
    best: Callable[..., float] = min
    found: dict[str, float | str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, measure: Callable[[], float]) -> None:
        """Record the result, or why there is none."""
        try:
            self.found[name] = measure()
        except WHAT_FAILS as error:
            self.found[name] = reason(error)

    def show(self) -> str:
        """Each figure, and which peers impetusd is behind, equal to and ahead of."""
        peers = {name: value for name, value in self.found.items() if name != US and not isinstance(value, str)}
        ours = self.found.get(US, "not measured")
        lines = [f"{self.title}   (limit {self.limit})"]
        for name, value in self.found.items():
            shown = value if isinstance(value, str) else figure(value)
            lines.append(f"    {name:12} {shown:>8}  {self.notes.get(name, '')}".rstrip())
        if isinstance(ours, str):
            lines.append("    => not measured")
        elif not peers:
            lines.append("    => no peer to compare with")
        else:
            found: dict[str, list[str]] = {"behind": [], "equal to": [], "ahead of": []}
            for name, value in peers.items():
                if abs(ours - value) <= SAME * max(abs(ours), abs(value)):
                    found["equal to"].append(name)
                elif self.best(ours, value) == ours:
                    found["ahead of"].append(name)
                else:
                    found["behind"].append(f"{name} ({ours / value:.2f} × its figure)" if value else name)
            verdict = [f"{word} {', '.join(names)}" for word, names in found.items() if names]
            lines.append(f"    => {'; '.join(verdict)}")
        return "\n".join(lines)


def figure(value: float) -> str:
    """In three digits, or whole from 1,000 on."""
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def reason(error: BaseException) -> str:
    """Why there is no figure, in one line."""
    return str(error).strip().replace("\n", " ")[-160:] or repr(error)
