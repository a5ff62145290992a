"""The short form of `scripts/chaos`: each stimulus a few times. No request, no log line and no process is lost."""

from __future__ import annotations

import pytest
from freezing import disk_or_none
from lending import Lend
from report import table
from stage import Stage
from stimuli import STIMULI

SEED = 20  # of the moments at which things are done; `scripts/chaos --seed 20` does the same


@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_is_killed_or_deployed(lend: Lend) -> None:
    """In one instance, one after the other: what one of them leaves behind, the next one meets."""
    with (
        lend(None) as instance,
        disk_or_none(instance) as disk,
        Stage(instance, SEED, rate=200, lines=500, disk=disk) as stage,
    ):
        stimuli = [stimulus for stimulus in STIMULI if stimulus.few and (disk or not stimulus.freezes)]
        outcomes = [stage.play(stimulus, stimulus.few) for stimulus in stimuli]
    print(table(outcomes))
    assert all(outcome.passed for outcome in outcomes), "\n" + table(outcomes)
