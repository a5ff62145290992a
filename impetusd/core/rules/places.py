"""Slot changes when a process moves between slots, or is adopted by a new supervisor.

A parked worker is put to work, the next process takes the place of one that serves, the next template takes the name of
the one before: nothing is started and nothing ends, so no event of `lifecycle` covers it. The functions are pure.
"""

from __future__ import annotations

from dataclasses import replace

from impetusd.core.reasons import Reason, because
from impetusd.core.rules.lifecycle import Slot, State, Taken, Want
from impetusd.core.rules.policy import Exit, Policy


def leaving(slot: Slot) -> Slot:
    """The slot of the process that leaves, made of the one that it lived in: its past is not its own."""
    return Slot(
        state=State.RUNNING,
        want=Want.UP,
        since=slot.since,
        pid=slot.pid,
        started=slot.started,
        last_exit=slot.last_exit,
    )


def taken(*, standby: bool, dismissed: bool) -> Taken:
    """The event of the slot that a process was taken from: a parked worker is replaced, unless it is scaled away."""
    return Taken(again=standby and not dismissed)


def renamed(source: Slot, target: Slot) -> Slot:
    """The slot `target` with the process of `source`: what has happened to `target` before stays its own."""
    return replace(source, restarts=target.restarts, recent=target.recent, last_exit=target.last_exit)


def outlived(slot: Slot, gone: Slot) -> Slot:
    """The slot after the process that it had before, which left in a slot of its own (`gone`), has ended."""
    return replace(slot, last_exit=gone.last_exit)


def refused(slot: Slot, failed: Reason, at: float) -> tuple[Slot, Slot]:
    """A start that is refused before it has begun: the slot as it would have been, STARTING, and given up.

    `at`: Unix time.
    """
    starting = replace(slot, state=State.STARTING)
    return starting, replace(slot, state=State.FATAL, reason=failed, last_exit=Exit(failed=failed, at=at))


def unreadable(slot: Slot) -> Slot:
    """The slot whose record makes no sense: it is given up until somebody starts it."""
    return replace(slot, state=State.FATAL, reason=because("bad_record"))


def heard_again(policy: Policy, slot: Slot, now: float) -> Slot:
    """The slot after a time without supervision: the watchdog's time starts again."""
    if slot.state is not State.RUNNING or not policy.watchdog:
        return slot
    return replace(slot, deadline=now + policy.watchdog)
