"""Waiting: what a start waits for, a template's deadline for a fork, and when a command stops waiting for a slot."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.rules.lifecycle import IDLE, Slot, State, is_unkillable
from impetusd.core.rules.policy import Policy, signal_name

PATIENCE = 3  # failed runs in a row after which `start` no longer waits for a slot
LONG = 5.0  # seconds until the next try for which it does not wait either
SHOWN = 0.05  # seconds until the next try that are given as a number
FORKED = 5.0  # seconds; a fork takes a few ms, of a large application on a busy host a few hundred


def waits_for(name: str, slots: Iterable[Slot], *, oneshot: bool) -> Reason:
    """Why a start waits for `name`, of which these are the slots; `oneshot`: that it is done is waited for."""
    worst = next((slot for slot in slots if slot.state in IDLE or slot.state is State.BACKOFF), None)
    if worst is None:
        return because("waits_for", name=name, state="", cause=NONE)
    cause = worst.reason if worst.state is State.FATAL and oneshot else NONE
    return because("waits_for", name=name, state=worst.state.name, cause=cause)


def fork_within(policy: Policy) -> float:
    """Seconds that a template has for a fork: so that another template can still start within listen_timeout."""
    return min(FORKED, policy.listen_timeout / 3)


def forking(policy: Policy, slot: Slot, now: float) -> Slot:
    """The slot that a template was asked to fork for; the template runs foreign code and may never answer."""
    return replace(slot, deadline=now + fork_within(policy))


def is_settled(policy: Policy, slot: Slot, now: float) -> bool:
    """True if a command need not wait longer for this slot: it is up, or will not be soon."""
    if slot.state is State.BACKOFF:
        return slot.failures >= PATIENCE or (slot.deadline or 0.0) - now > LONG
    if slot.state is State.STOPPING:
        return is_unkillable(policy, slot)
    return slot.state is State.RUNNING or slot.state in IDLE


def reason(policy: Policy, slot: Slot, now: float) -> Reason:
    """The slot's own reason for its state; NONE if there is none."""
    if slot.state is State.BACKOFF and slot.deadline is not None:
        left = slot.deadline - now
        if left < SHOWN:
            return because("retrying_now", end=slot.reason)
        return because("retrying", end=slot.reason, wait_s=round(left, 3))
    if slot.state is State.STOPPING and slot.kills and not slot.reason:
        return because("not_ended", within_s=policy.kill_timeout, signal=signal_name(policy.kill_signal))
    return slot.reason
