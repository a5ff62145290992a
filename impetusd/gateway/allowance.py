"""How often each may do something: so many times at once, and then again and again after a while. Pure."""

from __future__ import annotations

from collections import OrderedDict


class Allowance:
    """By who it is for. Times are seconds of any clock that only goes on."""

    def __init__(self, at_once: int, every: float, counted: int) -> None:
        """`at_once` times, and one time more each `every` seconds. Of `counted` it is known; the one not seen for longest goes."""
        self._at_once = at_once
        self._every = every
        self._counted = counted
        self._until: OrderedDict[str, float] = OrderedDict()  # when all of one's times are forgotten

    def wait(self, who: str, now: float) -> float:
        """Seconds until this one may do it again; 0.0 if now."""
        return max(0.0, self._until.get(who, 0.0) - now - self._every * (self._at_once - 1))

    def add(self, who: str, now: float) -> None:
        """One time more."""
        self._until[who] = max(self._until.pop(who, 0.0), now) + self._every
        while len(self._until) > self._counted:
            self._until.popitem(last=False)

    def forget(self, who: str) -> None:
        """Begin anew with this one."""
        self._until.pop(who, None)
