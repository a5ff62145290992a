"""Counts the requests a worker has answered and those with 500 or above, and measures them.

Reported on request, and once when the worker has answered all it may (max_requests, give or take a tenth, so that
workers started together are not replaced together); from then on repeated now and then, because its turn may not have
come.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from impetusd.worker.measures import Measures

_SPREAD = 0.1  # of max_requests, either way
_AGAIN = 0.1  # of max_requests: further requests until it is reported again


class Tally:
    """The counters of one worker. `notify` sends to the supervisor."""

    def __init__(self, max_requests: int, notify: Callable[..., None]) -> None:
        self._max = max_requests
        self._notify = notify
        self.measures = Measures()
        self.answered = self.measures.answered
        # A fork has a `random` of its own: it reseeds itself.
        spread = random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311
        self.measures.limit = max(1, round(max_requests * spread)) if max_requests else 0
        self.measures.at_limit = self._spent

    def lines(self) -> tuple[str, str]:
        """The report."""
        return f"X_IMPETUSD_REQUESTS={self.measures.requests}", f"X_IMPETUSD_ERRORS={self.measures.errors}"

    def _spent(self) -> None:
        self.measures.limit += max(1, round(self._max * _AGAIN))
        self._notify("X_IMPETUSD_SPENT=1")
