"""Decide when a process tree uses too much memory, and when to measure it again.

Looking costs, so it is done when the ceiling could have been reached: the room that is left, over the fastest growth
to be expected. A tree that begins to leak USUAL right after a look is seen at most SLACK over its ceiling, and one that
is known to grow faster is looked at according to its own rate. Bytes and monotonic seconds throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

from impetusd.core.config.model import Unit
from impetusd.core.reasons import Reason, because
from impetusd.core.values import dataclass

MB = 1024 * 1024
USUAL = 20.0 * MB  # bytes a second that anything may begin to grow by, unannounced
SLACK = 4 * MB  # over the ceiling by which that may then be seen; the promise is 10, the rest is for a busy host
NEAR, FIRST, FAR = 0.1, 1.0, 10.0  # seconds: between two looks at least, before the first, between two at most
EACH = 0.1  # seconds between two looks for each tree there is, from FIRST to FAR: few trees can be looked at more often
HELD = 1.0  # seconds between two looks at a tree that is over, until memory_hold has passed
AGAIN = 30.0  # seconds after which a tree that is still there is reported again


@dataclass(frozen=True, slots=True)
class Ceiling:
    """A unit's ceilings for each of its slots; 0 is no ceiling."""

    restart: int
    hold: float
    kill: int


@dataclass(frozen=True, slots=True)
class Watch:
    """The state of a tree, kept between looks."""

    at: float  # of the last look
    used: int
    growth: float = 0.0  # bytes a second
    over: float | None = None  # since when it has been over `restart`
    told: float | None = None  # when its recycle was last requested


@dataclass(frozen=True, slots=True)
class Verdict:
    """An action: recycle, or with `hard` kill."""

    hard: bool
    reason: Reason


class Process(NamedTuple):
    """A process as /proc shows it. `started` (clock ticks since boot) distinguishes it from a later process with its
    pid."""

    pid: int
    parent: int
    group: int
    session: int
    started: int
    rss: int


def ceiling_of(unit: Unit) -> Ceiling | None:
    """The unit's ceiling, or None when it has none."""
    if not unit.max_memory_restart and not unit.max_memory_kill:
        return None
    return Ceiling(unit.max_memory_restart, unit.memory_hold, unit.max_memory_kill)


def look(ceiling: Ceiling, before: Watch, at: float, used: int, basis: str = "") -> tuple[Watch, Verdict | None]:
    """The action after measuring `used` at `at`. `basis`: one of `reasons.BASES`, if a fallback measurement was
    used."""
    span = at - before.at
    growth = before.growth
    if span > 0 and before.used:  # the first look's says only how big the program is
        growth = max(0.0, (used - before.used) / span, growth / 2)
    over = None
    if ceiling.restart and used > ceiling.restart:
        over = at if before.over is None else before.over
    after = Watch(at, used, growth, over, before.told if over is not None else None)
    if ceiling.kill and used > ceiling.kill:
        return after, Verdict(True, because("max_memory_kill", used=used, limit=ceiling.kill, hold_s=0.0, basis=basis))
    if over is None or at - over < ceiling.hold or (after.told is not None and at - after.told < AGAIN):
        return after, None
    reason = because("max_memory_restart", used=used, limit=ceiling.restart, hold_s=ceiling.hold, basis=basis)
    return replace(after, told=at), Verdict(False, reason)


def max_interval(count: int) -> float:
    """Seconds between two looks at most, with so many trees."""
    return max(FIRST, min(FAR, EACH * count))


def next_look(ceiling: Ceiling, watch: Watch, most: float = FAR) -> float:
    """The instant of the next look, `most` seconds away at most."""
    pace = max(USUAL, 1.25 * watch.growth)
    waits = [most]
    waits += [(top - watch.used + SLACK) / pace for top in (ceiling.restart, ceiling.kill) if top and watch.used <= top]
    if watch.over is not None:
        held = watch.over + ceiling.hold - watch.at
        waits.append(HELD if watch.told is not None or held > HELD else held)
    return watch.at + max(NEAR, min(waits))


def urgent(watch: Watch) -> bool:
    """Whether the tree is growing, or over its ceiling: then its look is not put off."""
    return watch.over is not None or watch.growth > MB


def lowest(ceiling: Ceiling) -> int:
    """The ceiling that is reached first."""
    return min(top for top in (ceiling.restart, ceiling.kill) if top)


def trees(
    table: Mapping[int, Process], roots: Collection[int], shim: int, known: Mapping[tuple[int, int], int]
) -> dict[int, list[Process]]:
    """The processes that belong to each of `roots` (pids), itself included; a root that is gone has none.

    They are its descendants. One whose parent died is a child of the shim, which is a subreaper; it belongs to the root
    whose session or process group it is in, or to the one below which it was seen before: `known` is that root by pid
    and start. Processes below another root belong to that root.
    """
    below: dict[int, list[Process]] = {}
    for process in table.values():
        below.setdefault(process.parent, []).append(process)
    found: dict[int, list[Process]] = {root: [] for root in roots}
    heads = {root: [table[root]] for root in found if root in table}
    for stray in below.get(shim, ()):
        if stray.pid in found:
            continue
        for root in (known.get((stray.pid, stray.started)), stray.session, stray.group):
            if root in found:
                heads.setdefault(root, []).append(stray)
                break
    for root, queue in heads.items():
        while queue:
            process = queue.pop()
            found[root].append(process)
            queue += [child for child in below.get(process.pid, ()) if child.pid not in found]
    return found
