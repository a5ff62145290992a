"""`scripts/chaos`: every stimulus, many times, under 1,000 requests and 2,000 numbered log lines a second; or `--soak`."""

from __future__ import annotations

import argparse
import random
import sys
import time

from deeds import DEEDS
from freezing import disk_or_none
from lending import lender
from report import table
from soak import Soak, Violation
from stage import Outcome, Stage, Stimulus
from stimuli import STIMULI


def chosen(words: list[str]) -> list[Stimulus]:
    """Those whose names contain one of `words`; all of them without any. SystemExit for a word that is in none."""
    for word in words:
        if not any(word in stimulus.name for stimulus in STIMULI):
            raise SystemExit(f"no stimulus is called {word}; there are: {', '.join(each.name for each in STIMULI)}")
    return [each for each in STIMULI if not words or any(word in each.name for word in words)]


def main() -> int:
    """Exit code 0 when nothing was lost."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="WHAT", help="only stimuli whose names contain one of these words")
    parser.add_argument("--minutes", type=float, metavar="N", help="stop beginning new rounds after so long")
    parser.add_argument("--seed", type=int, metavar="S", help="of the moments and victims that chance picks")
    parser.add_argument("--rate", type=int, default=1000, metavar="N", help="requests a second (1000)")
    parser.add_argument("--lines", type=int, default=2000, metavar="N", help="log lines a second (2000)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="random commands and faults instead, for so long")
    options = parser.parse_args()
    stimuli = chosen(options.what)
    seed = random.SystemRandom().randrange(1 << 16) if options.seed is None else options.seed
    again = f"--soak {options.soak:g} --seed {seed}" if options.soak else f"--seed {seed}"
    print(f"seed {seed}: scripts/chaos {again} does the same again", flush=True)
    if options.soak:
        return soak(seed, options.soak * 60)
    end = time.monotonic() + options.minutes * 60 if options.minutes else None
    outcomes: list[Outcome] = []
    with (
        lender() as lend,
        lend(None) as instance,
        disk_or_none(instance) as disk,
        Stage(instance, seed, rate=options.rate, lines=options.lines, disk=disk) as stage,
    ):
        for stimulus in (each for each in stimuli if disk or not each.freezes):
            if end is not None and time.monotonic() > end:
                break
            print(f"{stimulus.name} × {stimulus.often} …", file=sys.stderr, flush=True)
            outcomes.append(stage.play(stimulus, stimulus.often))
            if not outcomes[-1].passed:
                print(table(outcomes[-1:]), file=sys.stderr, flush=True)
    print(table(outcomes))
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def soak(seed: int, seconds: float) -> int:
    """Exit code 0 when nothing that must hold was violated."""
    violation = ""
    try:
        with lender() as lend, lend(None) as instance:
            try:
                with Soak(instance, seed, lambda line: print(line, flush=True), DEEDS) as soaked:
                    steps = soaked.go(seconds)
            except Violation as error:
                violation = str(error)
    except AssertionError as error:  # the instance was not cleared away by `stop`
        violation = f"{violation}\n{error}" if violation else f"at the end: {error}"
    print(f"violation: {violation}" if violation else f"{steps} steps, no violation", flush=True)
    return 1 if violation else 0


if __name__ == "__main__":
    sys.exit(main())
