"""The state diagram of impetusd/help/design.md, made from the machine itself. To renew it: python tests/core/state_diagram.py

Each cell of the table is run with every slot and policy that could make a difference; what comes out is drawn.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from impetusd.core.config.model import Autorestart
from impetusd.core.rules.lifecycle import (
    EVENTS,
    Event,
    Exited,
    Fail,
    HandOver,
    Recycle,
    Slot,
    Spawned,
    State,
    Taken,
    Want,
    step,
)
from impetusd.core.rules.policy import Exit, Policy

PAGE = Path(__file__).parents[2] / "impetusd" / "help" / "design.md"
BEGIN, END = "```mermaid\n", "```\n"


def arrows() -> dict[tuple[State, State], list[str]]:
    """(from, to) → the events that can lead there."""
    found: dict[tuple[State, State], list[str]] = {}
    for state, kind in itertools.product(State, EVENTS):
        for after in outcomes(state, kind):
            if after is not state:
                found.setdefault((state, after), []).append(kind.__name__)
    return found


def outcomes(state: State, kind: type[Event]) -> set[State]:
    """Where an event can lead from a state."""
    seen = set()
    ends = [Exit(code=0), Exit(code=1), Exit(code=78)]
    several: dict[type[Event], list[Event]] = {
        Exited: [Exited(end, left) for end in ends for left in (True, False)],
        Spawned: [Spawned(7)],
        Taken: [Taken(), Taken(again=False)],
        HandOver: [HandOver(8, "older than max_age")],
        Recycle: [Recycle("older than max_age")],
        Fail: [Fail("unhealthy"), Fail("over max_memory_kill", hard=True)],
    }
    events = several.get(kind) or [kind()]
    for event, autorestart, wait_ready, spent, want, asked, pid, end in itertools.product(
        events, Autorestart, (True, False), (True, False), Want, (True, False), (7, None), ends
    ):
        policy = Policy(
            autorestart=autorestart,
            wait_ready=wait_ready,
            max_restarts=1,
            fatal_exit_codes=(78,),
            watchdog=30.0,
            retry_after=60.0,
        )
        slot = Slot(
            state=state,
            want=Want.DOWN if state is State.STOPPED else want if state is State.STOPPING else Want.UP,
            pid=7 if state is State.RUNNING else pid if state in {State.STARTING, State.STOPPING} else None,
            started=0.0,
            asked=asked,
            failures=2,
            recent=(99.0,) if spent else (),
            last_exit=end,
        )
        seen.add(step(policy, slot, event, 100.0, 0.5)[0].state)
    return seen


def diagram() -> str:
    """The diagram in mermaid's language."""
    lines = ["stateDiagram-v2", "    [*] --> STOPPED"]
    for (before, after), events in arrows().items():
        lines.append(f"    {before.name} --> {after.name}: {', '.join(dict.fromkeys(events))}")
    return "\n".join(lines) + "\n"


def renewed(text: str) -> str:
    """`text` with the diagram in the place of the one that it has."""
    head, _, rest = text.partition(BEGIN)
    return f"{head}{BEGIN}{diagram()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(diagram())
