"""Check relations between sections: environments, dependencies, conflicting addresses."""

from __future__ import annotations

import fnmatch

from impetusd.core.config import ini, schema
from impetusd.core.config.reading import parts, place
from impetusd.core.rules import tree

TYPE_CHECKING = False  # typing takes 2 ms to import, and every command that starts something comes by here
if TYPE_CHECKING:
    from collections.abc import Iterable

    from impetusd.core.config.ini import Entry, Section
    from impetusd.core.config.model import Listen, Unit
    from impetusd.core.config.reading import Values


def relations(reading: Values, sections: list[Section]) -> None:
    """Check relations between sections: environments, dependencies, conflicting addresses."""
    for section in sections:
        kind, colon, name = parts(section)
        shown = f"[{ini.brief(section.name)}]"
        if kind != schema.ENV or not colon:  # [env] is for all
            continue
        name, at_sign, profile = (part.strip() for part in name.partition("@"))
        if not name:
            reading.problem(section, f"{shown} has no name; write [env:NAME] for the unit NAME, or [env] for all")
        elif name in reading.groups:
            text = f"{shown}: {name} is a group; write one section for each of its members"
            reading.problem(section, text)
        elif name not in reading.headers and name not in reading.misnamed:
            advice = hint(reading, name, reading.headers, f"[env:{{}}{at_sign}{profile}]")
            reading.problem(section, f"{shown}: no unit '{ini.brief(name)}'; {advice}")
    for name, unit in reading.units.items():
        for other in unit.depends_on:
            if other not in reading.units and other not in reading.misnamed:
                at = place(reading.headers[name], "depends_on")
                advice = hint(reading, other, reading.units, "{}")
                reading.problem(at, f"depends_on: no unit '{ini.brief(other)}'; {advice}")
    for circle in tree.circles({name: unit.depends_on for name, unit in reading.units.items()}):
        at = place(reading.headers[circle[0]], "depends_on")
        reading.problem(
            at, f"depends_on: {ini.brief(tree.show(circle), 200)} is a cycle; remove one of these dependencies"
        )
    addresses(reading)


def hint(reading: Values, name: str, known: Iterable[str], form: str) -> str:
    near = reading.nearest(name, known)
    return f"did you mean {form.format(near)}?" if near else "use a name that has a section"


def members_of(reading: Values, at: Section | Entry, words: tuple[str, ...]) -> tuple[str, ...]:
    """The units that a group's `members` mean, each once."""
    found: dict[str, None] = {}
    for word in words:
        # A pattern is for what the file describes; what impetusd makes is meant only by its name.
        units = [
            name
            for name, unit in reading.units.items()
            if name == word or (unit.made is None and fnmatch.fnmatchcase(name, word))
        ]
        found.update(dict.fromkeys(units))
        if units or word in reading.misnamed:
            continue
        said = f"members: {ini.brief(word)}"
        if word in reading.timers:
            reading.problem(at, f"{said} is a timer, but a group contains only pools and programs; remove it")
        elif word in reading.groups:
            reading.problem(at, f"{said} is a group; list its members instead")
        elif any(char in word for char in "*?["):
            reading.problem(at, f"{said} matches no unit; fix the pattern, or remove it")
        else:
            reading.problem(at, f"members: no unit '{ini.brief(word)}'; {hint(reading, word, reading.units, '{}')}")
    return tuple(found)


def addresses(reading: Values) -> None:
    """Addresses that two units, or two instances of one, would take."""
    taken: dict[tuple[str, int], list[tuple[str, Listen]]] = {}
    for unit in reading.units.values():
        if unit.enabled:
            at = place(reading.headers[unit.name], "listen")
            for owner, address in owned(reading, unit):
                others = taken.setdefault((address.path, address.port), [])
                clash = next(((other, its) for other, its in others if address.clashes(its)), None)
                others.append((owner, address))
                if clash:
                    whose = "it uses" if clash[0] == owner else f"{clash[0]} uses"
                    form = "" if clash[1] == address else f" as {clash[1]}"
                    reading.problem(at, f"listen = {address}: {whose} the same address{form}; choose another")
                    if unit.name in reading.listens:  # the other instances are likely to be wrong in the same way
                        break


def owned(reading: Values, unit: Unit) -> list[tuple[str, Listen]]:
    """Each address of the unit with its user: the unit, or one instance if not all use it."""
    of_each = reading.listens.get(unit.name, [unit.listen])
    shared = set(unit.listen).intersection(*of_each)
    found = [(unit.name, address) for address in unit.listen if address in shared]
    for index, addresses in enumerate(of_each):
        found += [(f"{unit.name}:{index}", address) for address in addresses if address not in shared]
    return found
