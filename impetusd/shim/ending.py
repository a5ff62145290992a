"""The end of everything without a supervisor, when none starts: each process gets its stop signal and its time, all at once.

In no order: only the supervisor knows that.
"""

from __future__ import annotations

import math

from impetusd.bare import signal
from impetusd.linux import proc
from impetusd.shim.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from impetusd.shim.child import Child
    from impetusd.shim.state import ShimState
    from impetusd.shim.strays import Strays

GRACE = 2.0  # seconds between SIGTERM and SIGKILL for what belongs to no unit; with UNKILLABLE, `stop` waits so long
UNKILLABLE = 5.0  # seconds after SIGKILL after which a process counts as one that cannot be ended


class Ending:
    """Of all children. `due` is when (monotonic) to call `is_over` again."""

    def __init__(self, state: ShimState, strays: Strays, now: float) -> None:
        self._state = state
        self._strays = strays
        self._kill_at: dict[int, float] = {}
        self._give_up_at: dict[int, float] = {}
        for child in state.children.values():
            if self._is_over(child):
                continue
            number, seconds, _ = child.stop
            self._kill_at[child.process] = now + seconds
            scope = "main" if child.ended is None else "rest"
            strays.signal(child, number if child.ended is None else signal.SIGTERM, scope)
            strays.signal(child, signal.SIGCONT, scope)  # a stopped process hears nothing else
        self.due = now

    def is_over(self, now: float) -> bool:
        """Send the signals that are due. Whether all has ended that can be ended."""
        for process in list(self._kill_at):
            child = self._state.children.get(process)
            if child is None or self._is_over(child):
                del self._kill_at[process]
            elif child.ended is not None and not child.tree_signalled:
                self._strays.signal(child, signal.SIGTERM, "rest")
                self._strays.signal(child, signal.SIGCONT, "rest")
            elif now >= self._kill_at[process]:
                self._kill_at[process] = math.inf
                self._give_up_at.setdefault(process, now + UNKILLABLE)
                self._strays.signal(child, signal.SIGKILL, "tree" if child.stop[2] else "main")
            elif now >= self._give_up_at.get(process, math.inf):
                del self._kill_at[process]
        self.due = min((min(at, self._give_up_at.get(each, at)) for each, at in self._kill_at.items()), default=now)
        return not self._kill_at

    def left(self) -> list[int]:
        """The pids of those that SIGKILL does not end."""
        children = self._state.children.values()
        return [child.pid for child in children if child.process in self._give_up_at and not self._is_over(child)]

    @staticmethod
    def _is_over(child: Child) -> bool:
        return child.ended is not None and not (child.left and child.stop[2])


class Last:
    """When all units are down: the end of processes that descend from one of them, but nobody can say from which.

    If a unit has left something on purpose (treekill = no), that may be among them: then none of them is signalled.
    """

    def __init__(self, state: ShimState, strays: Strays, now: float) -> None:
        self._state = state
        self._strays = strays
        self._kill_at = self.due = now + GRACE
        found = self._found()
        if found:
            log(
                f"still running, but its unit is unknown: pid {', '.join(str(member.pid) for member in found)}; stopping them"
            )
        self._send(found, signal.SIGTERM)
        self._send(found, signal.SIGCONT)

    def is_over(self, now: float) -> bool:
        """Send the signals that are due. Whether all has ended that can be ended."""
        found = self._found()
        if found and now >= self.due:
            self._send(found, signal.SIGKILL)
            self.due = now + UNKILLABLE / 10
        return not found or now >= self._kill_at + UNKILLABLE

    def _found(self) -> list[proc.Member]:
        if self._state.spares or any(child.left or not child.stop[2] for child in self._state.children.values()):
            return []
        strays = self._strays.pids()
        return proc.descendants(strays, proc.snapshot(), self._state.mains()) if strays else []

    @staticmethod
    def _send(found: list[proc.Member], number: int) -> None:
        for member in found:
            proc.send(member, number)
