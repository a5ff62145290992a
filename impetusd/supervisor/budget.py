"""A share of the processor: what one of many may cost."""

from __future__ import annotations


class Budget:
    """Seconds of processor time for one that others must not suffer from. Times are monotonic, in seconds."""

    __slots__ = ("_at", "_burst", "_credit", "_share")

    def __init__(self, share: float, burst: float, now: float) -> None:
        """`share` of a core in the long run, and `burst` seconds at once."""
        self._share = share
        self._burst = self._credit = burst
        self._at = now

    def spend(self, seconds: float, now: float) -> float:
        """Take `seconds` off it. Returns for how long nothing more may be spent; 0.0 if there is something left."""
        self._credit = min(self._burst, self._credit + (now - self._at) * self._share) - seconds
        self._at = now
        return max(0.0, -self._credit / self._share)

    def full(self, now: float) -> bool:
        """Whether it has been unused for so long that it can be dropped."""
        return self.spend(0.0, now) == 0.0 and self._credit >= self._burst
