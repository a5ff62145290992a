"""Notifies systemd, or another parent of `impetusd run` with a NOTIFY_SOCKET: ready, reloading, stopping, and status.

Sent through the shim, which is the main process: see `shim.upstream`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping

from impetusd.core.config.model import Unit
from impetusd.core.rules import tree
from impetusd.core.rules.lifecycle import State, Want
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.observers import Change
from impetusd.supervisor.slots.entry import ONE_SHOT, PASSING, Entry

SOON = 0.1  # seconds in which changes are gathered before they are sent
MARGIN = 15.0  # seconds added to what programs may take to stop: for what comes after them
LONGEST = 1000  # characters of a status text


class Upstream:
    """Sends what has changed."""

    def __init__(self, say: Callable[[str], None] | None, status: Callable[[], str]) -> None:
        """`say` takes the text of one message, None: nobody is notified. `status` gives the sentence for STATUS=."""
        self._say = say or (lambda _: None)
        self._status = status
        self._sent = ""
        self._timer: asyncio.TimerHandle | None = None
        self.listens = say is not None
        self.faults = BARE

    def ready(self) -> None:
        """Everything that starts by itself is up, or will not be soon."""
        self._sent = self._status()
        self._say(f"READY=1\nSTATUS={self._sent}")

    def changed(self, _: Change | None = None) -> None:
        """The status may have changed: send it soon."""
        if self._timer is None and self.listens:
            self._timer = asyncio.get_running_loop().call_later(
                SOON, self.faults.attempt, "the service manager", "sending it the status", self._send
            )

    def reloading(self) -> None:
        """The configuration is being applied; `ready` says that it is done."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, seconds: float) -> None:
        """Everything is being stopped, which may take so long: no TimeoutStopSec of a unit is to cut it short."""
        self._say(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={math.ceil((seconds + MARGIN) * 1_000_000)}")
        self.changed()

    def _send(self) -> None:
        self._timer = None
        text = self._status()
        if text != self._sent:
            self._sent = text
            self._say(f"STATUS={text}")


def status_of(entries: Iterable[Entry], shown: Callable[[Entry], str], reason: Callable[[Entry], object]) -> str:
    """`5 of 5 up`, or `3 of 5 up; web:0 is BACKOFF: exit 1; db is STARTING`: of what is wanted up, what is not."""
    lasting = [entry for entry in entries if entry.role not in ONE_SHOT | PASSING]
    wanted = [entry for entry in lasting if entry.slot.want is Want.UP and entry.slot.state is not State.EXITED]
    missing = [entry for entry in wanted if entry.slot.state is not State.RUNNING]
    text = f"{len(wanted) - len(missing)} of {len(wanted)} up"
    stopping = sum(entry.slot.state is State.STOPPING and entry.slot.want is Want.DOWN for entry in lasting)
    if stopping:
        text += f"; {stopping} stopping"
    for entry in missing[:3]:
        why = " ".join(str(reason(entry)).split())
        text += f"; {shown(entry)} is {entry.slot.state.name}{f': {why}' if why else ''}"
    if missing[3:]:
        text += f"; and {len(missing) - 3} more are not up"
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def stop_within(units: Mapping[str, Unit]) -> float:
    """Seconds within which everything is stopped: kill_timeout by kill_timeout along the longest way of depends_on."""
    graph = {name: unit.depends_on for name, unit in units.items()}
    above = tree.dependents(graph)
    until: dict[str, float] = {}
    for name in reversed(tree.start_order(graph)):
        until[name] = units[name].kill_timeout + max((until[other] for other in above[name]), default=0.0)
    return max(until.values(), default=0.0)
