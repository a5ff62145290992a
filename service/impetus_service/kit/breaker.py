"""The circuit breaker of one target, as pure decisions: no I/O, and the clock is an argument.

                  `failures` in a row              after `open_for` the next request is the probe
    CLOSED ────────────────────────────► OPEN ────────────────────────────► HALF_OPEN
       ▲                                   ▲                                    │ │
       │                                   └──────────── it fails ──────────────┘ │
       └──────────────────────────────── it succeeds ─────────────────────────────┘

Half-open lets exactly one request through, however many ask at that moment. A result counts only in the phase in which
its request was let through: what was sent before the breaker opened and ends late says nothing about the target of now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum


class State(Enum):
    """Values are the words of /health and the metrics."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True)
class Policy:
    """When a breaker opens, and for how long."""

    failures: int = 5  # in a row
    open_for: float = 10.0  # seconds


@dataclass(frozen=True)
class Breaker:
    """What is known of a target; each method returns the breaker that follows."""

    state: State = State.CLOSED
    failures: int = 0  # in a row
    opened: float = 0.0  # seconds, the clock of `ask`
    phase: int = 0  # counts the changes of `state`: the ticket of a request

    def ask(self, now: float, policy: Policy) -> tuple[Breaker, float]:
        """Whether a request may be sent: the seconds to wait before asking again, 0 when it may (its ticket: `phase`)."""
        if self.state is State.CLOSED:
            return self, 0.0
        if self.state is State.HALF_OPEN:
            return self, policy.open_for  # the probe's fate decides; a next one would be due after that long
        left = self.opened + policy.open_for - now
        return (self, left) if left > 0 else (self._turn(State.HALF_OPEN), 0.0)

    def succeeded(self, ticket: int) -> Breaker:
        """The target has answered."""
        if ticket != self.phase:
            return self
        return (
            replace(self, failures=0) if self.state is State.CLOSED else replace(self._turn(State.CLOSED), failures=0)
        )

    def failed(self, ticket: int, now: float, policy: Policy) -> Breaker:
        """The target has not answered, or with an error of its own."""
        if ticket != self.phase:
            return self
        failures = self.failures + 1
        if self.state is State.CLOSED and failures < policy.failures:
            return replace(self, failures=failures)
        return replace(self._turn(State.OPEN), failures=failures, opened=now)

    def given_up(self, ticket: int) -> Breaker:
        """The request was cancelled before there was an answer; a probe's place goes to the next that asks."""
        if ticket != self.phase or self.state is not State.HALF_OPEN:
            return self
        return self._turn(State.OPEN)  # `opened` is as before: `open_for` is over

    def _turn(self, state: State) -> Breaker:
        return replace(self, state=state, phase=self.phase + 1)
