"""What a take-over does with each unit, decided before anything is touched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from impetusd.interop.takeover.manager import Was

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from impetusd.core.config.model import Listen, Unit
    from impetusd.interop.takeover.manager import Process
    from impetusd.interop.takeover.sockets import Socket


class How(Enum):
    """What is done with a unit."""

    BESIDE = "beside"  # ours is started beside theirs, gets the connections once it is ready; then theirs is stopped
    AFTER = "stop, then start"
    RESUME = "start"  # a take-over that was interrupted has stopped theirs
    IDLE = "leave stopped"
    MOVED = "moved already"
    ABSENT = "skip"


ACTING = frozenset({How.BESIDE, How.AFTER, How.RESUME})


@dataclass(frozen=True, slots=True)
class Step:
    """`theirs`: its processes under the old manager, `ids` those that run, or did. `ports`: where these listen.
    `shares`: theirs and our address of each socket. `again`: ours runs, of a take-over that was interrupted, and is
    stopped first.
    """

    unit: str
    how: How
    why: str
    theirs: tuple[Process, ...] = ()
    ids: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    shares: tuple[Socket, ...] = ()
    again: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one unit. `sockets`: theirs. `runs`: something of ours does; `up`: all of it. `was`: the ids that
    an interrupted take-over found running.
    """

    unit: Unit
    theirs: tuple[Process, ...] = ()
    sockets: tuple[Socket, ...] = ()
    runs: bool = False
    up: bool = False
    was: tuple[str, ...] = ()


def steps(known: Sequence[Known], title: str) -> tuple[list[Step], list[str]]:
    """A step for each, what others depend on first; and why nothing is to be done at all, each a sentence. `title`: the
    old manager's name.
    """
    found = {each.unit.name: _step(each, title) for each in known}
    refused = [
        f"{each.unit.name} is {process.said} in {title}; wait, fix it, or stop it there"
        for each in known
        for process in each.theirs
        if process.was in {Was.UNSETTLED, Was.FAILED}
    ]
    return [found[name] for name in _ordered({each.unit.name: each.unit.depends_on for each in known})], refused


def _ordered(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """What is needed before what needs it; else as given. `check` has found no circle."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if name in needs and name not in found:
            for need in needs[name]:
                add(need)
            found[name] = None

    for name in needs:
        add(name)
    return list(found)


def _step(known: Known, title: str) -> Step:
    name, theirs = known.unit.name, known.theirs
    running = tuple(each.id for each in theirs if each.was is Was.RUNNING)
    if not running:
        if known.up or (known.runs and not known.was):
            return Step(name, How.MOVED, "already running under impetusd", theirs)
        was = tuple(each.id for each in theirs if each.id in known.was) or tuple(each.id for each in theirs)
        if known.was and theirs:
            why = f"stopped in {title} by an interrupted take-over"
            return Step(name, How.RESUME, why, theirs, was, again=known.runs)
        if not theirs:
            return Step(name, How.ABSENT, f"not known to {title}")
        return Step(name, How.IDLE, f"{theirs[0].said} in {title}", theirs)
    ports = tuple(sorted({each.port for each in known.sockets}))
    shares, why = _shares(known, title)
    if shares:
        text = f"shares {', '.join(map(str, shares))}"
        return Step(name, How.BESIDE, text, theirs, running, ports, shares, known.runs)
    return Step(name, How.AFTER, why, theirs, running, ports, again=known.runs)


def _shares(known: Known, title: str) -> tuple[tuple[Socket, ...], str]:
    """The sockets to share; or why none can be."""
    unit, sockets = known.unit, known.sockets
    if not unit.listen:
        return (
            (),
            "binds its port itself, because its section has no listen" if sockets else "does not listen on a TCP port",
        )
    found = []
    for address in unit.listen:
        if address.path:
            return (), "a unix socket cannot be shared"
        same = [each for each in sockets if each.port == address.port]
        if not same:
            return (), f"it does not listen on {address} in {title}"
        if len(same) > 1 or address.more_ports:
            return (), f"it listens on port {address.port} with several sockets"
        if not _is_same(address, same[0]):
            return (), f"it listens on {same[0]} in {title}, but on {address} here"
        if same[0].refusal:
            return (), same[0].refusal
        found.append(same[0])
    return tuple(found), ""


def _is_same(address: Listen, theirs: Socket) -> bool:
    return address.host == theirs.host and address.v6only in {None, theirs.v6only}


def required(ports: Collection[int], words: Iterable[str], chosen: range) -> set[int]:
    """Those of the ports under the old manager that ours must listen on, too: not those that the kernel may have chosen
    (`chosen`), unless `words` of its configuration name them.
    """
    text = " ".join(words)
    return {port for port in ports if port not in chosen or str(port) in text}
