"""Which unit waits for which: the order given by `depends_on`, and the cycles that it must not have.

A graph is a mapping of each name to the names it depends on. Names that are not among its keys are left out: a
configuration with such a name has been refused before.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def start_order(graph: Mapping[str, Sequence[str]]) -> list[str]:
    """Every name after all that it depends on, else in the graph's own order. Reversed, it is the order of a stop.

    A circle has no such order: ValueError names the first.
    """
    order, found = _walk(graph)
    if found:
        raise ValueError(f"{show(found[0])} is a cycle")
    return order


def circles(graph: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """The circles, each from its first name in the graph's order: of every tangle of them at least one."""
    place = {name: number for number, name in enumerate(graph)}
    found = []
    for circle in _walk(graph)[1]:
        first = circle.index(min(circle, key=place.__getitem__))
        found.append(circle[first:] + circle[:first])
    return found


def show(circle: Sequence[str]) -> str:
    """A circle as one reads it: db → api → db."""
    return " → ".join((*circle, circle[0]))


def dependents(graph: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """For each name, those that depend on it directly, in the graph's order: what must stop before it may."""
    found: dict[str, list[str]] = {name: [] for name in graph}
    for name, needed in graph.items():
        for other in dict.fromkeys(needed):
            if other in found:
                found[other].append(name)
    return {name: tuple(names) for name, names in found.items()}


def _walk(graph: Mapping[str, Sequence[str]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Depth first, with a stack of its own: a chain of a thousand units is deeper than Python recurses."""
    order: list[str] = []
    found: list[tuple[str, ...]] = []
    told: set[str] = set()  # names in a circle already found: another edge back among them adds nothing
    done: set[str] = set()
    for root in graph:
        if root in done:
            continue
        path = {root: None}  # insertion order is the way from the root
        stack = [(root, iter(graph[root]))]
        while stack:
            name, rest = stack[-1]
            other = next(rest, None)
            if other is None:
                stack.pop()
                del path[name]
                done.add(name)
                order.append(name)
            elif other in path:
                if not (name in told and other in told):
                    way = list(path)
                    circle = tuple(way[way.index(other) :])
                    told.update(circle)
                    found.append(circle)
            elif other in graph and other not in done:
                path[other] = None
                stack.append((other, iter(graph[other])))
    return order, found
