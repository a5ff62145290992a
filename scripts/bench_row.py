"""One row of the comparison: a measure, its limit, and what each has reached."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field

from bench_install import Missing
from bench_managers import Failed

US = "impetusd"


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
        except (
            Missing,
            Failed,
            OSError,
            ValueError,
            subprocess.SubprocessError,
            SystemExit,
            asyncio.IncompleteReadError,
        ) as error:
            self.found[name] = str(error).strip().replace("\n", " ")[-160:] or repr(error)

    def show(self) -> str:
        """Each figure, and the peers that impetusd is at least as good as."""
        peers = {name: value for name, value in self.found.items() if name != US and not isinstance(value, str)}
        ours = self.found.get(US, "not measured")
        lines = [f"{self.title}   (limit {self.limit})"]
        for name, value in self.found.items():
            shown = value if isinstance(value, str) else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
            lines.append(f"    {name:12} {shown:>8}  {self.notes.get(name, '')}".rstrip())
        if isinstance(ours, str):
            lines.append("    => not measured")
        elif not peers:
            lines.append("    => no peer to compare with")
        else:
            ahead = [name for name in peers if self.best(ours, peers[name]) == ours]
            behind = [
                f"{name} ({ours / peers[name]:.2f} × its figure)" if peers[name] else name
                for name in peers
                if name not in ahead
            ]
            told = [f"{word} {', '.join(names)}" for word, names in (("behind", behind), ("ahead of", ahead)) if names]
            lines.append(f"    => {'; '.join(told)}")
        return "\n".join(lines)
