"""The short form of `scripts/chaos`: each stimulus a few times. No request, no log line and no process is lost."""

from __future__ import annotations

import pytest
from lending import Lend
from report import table
from stage import Stage
from stimuli import STIMULI

SEED = 20  # of the moments at which things are done; `scripts/chaos --seed 20` does the same


@pytest.mark.timeout(300)
def test_nothing_is_lost_whatever_is_killed_or_deployed(lend: Lend) -> None:
    """In one instance, one after the other: what one of them leaves behind, the next one meets."""
    with lend(None) as instance, Stage(instance, SEED, rate=200, lines=500) as stage:
        outcomes = [stage.play(stimulus, stimulus.few) for stimulus in STIMULI if stimulus.few]
    print(table(outcomes))
    assert all(outcome.passed for outcome in outcomes), "\n" + table(outcomes)
