"""Decide on health checks: the state after a response, the time of the next check, and when to restart a slot.

A check never asks why: a 503 because the database is away is a failure like any other. Where a restart cannot help, the
INI file says so with `action = alert`. A probe that shows nothing about the target (its name cannot be resolved,
impetusd is out of descriptors) counts as a failure, too, because the target's state is unknown; but it restarts nothing
(`Result.blame`).

All times are seconds on the monotonic clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from impetusd.core.reasons import NONE, Reason, because
from impetusd.core.values import dataclass

if TYPE_CHECKING:
    from impetusd.core.config.model import Health

RESTART_EVERY = 60.0  # seconds between two restarts of one target by probes, at least


class Condition(Enum):
    """The state of a check's target."""

    UNKNOWN = "unknown"  # it is not wanted up, so it is not asked
    STARTING = "starting"  # no answer counts yet: it is not RUNNING, was not asked yet, or is in start_period
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Turn(Enum):
    """What is reported to the operator, once; the first failures are only in the ledger."""

    FAILING = "failing"
    ILL = "unhealthy"
    WELL = "healthy again"


class Result(NamedTuple):
    """The result of one probe."""

    ok: bool
    text: str  # "200 OK", "503 Service Unavailable: no database", "connection refused"
    latency: float = 0.0
    blame: bool = True  # a failure is the target's own
    errno: int = 0  # of the system call that failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How many answers in a row it takes; `start_period` in seconds."""

    start_period: float = 0.0
    failures: int = 3
    successes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a check has seen of one process (of a whole unit, when it asks at the unit's address)."""

    condition: Condition = Condition.STARTING
    began: float = 0.0  # when the target became RUNNING
    failures: int = 0  # in a row, without those in start_period
    successes: int = 0  # in a row, counted up to the rule's `successes`
    passed: bool = False  # it has answered well since `began`; start_period is over then
    told: bool = False  # the operator knows that it is unhealthy; outlives the process


def observe(rule: Rule, seen: Observed, result: Result, now: float) -> tuple[Observed, Turn | None]:
    """The state of a check after one more response."""
    if result.ok:
        successes = min(seen.successes + 1, rule.successes)
        well = successes >= rule.successes or not (seen.told or seen.condition is Condition.UNHEALTHY)
        after = replace(seen, failures=0, successes=successes, passed=True)
        if not well:
            return after, None
        return replace(after, condition=Condition.HEALTHY, told=False), Turn.WELL if seen.told else None
    if not seen.passed and now < seen.began + rule.start_period:
        return replace(seen, successes=0), None
    after = replace(seen, failures=seen.failures + 1, successes=0)
    if after.failures < rule.failures or seen.condition is Condition.UNHEALTHY:
        first = after.failures == 1 and seen.condition is not Condition.UNHEALTHY and not seen.told
        return after, Turn.FAILING if first else None
    return replace(after, condition=Condition.UNHEALTHY, told=True), None if seen.told else Turn.ILL


def restart_due(rule: Rule, seen: Observed) -> bool:
    """True if there were enough failures since the last restart for another one."""
    return seen.condition is Condition.UNHEALTHY and seen.failures >= rule.failures


def restarted(seen: Observed) -> Observed:
    """A slot was restarted for these failures; another one takes as many again."""
    return replace(seen, failures=0)


def hold(now: float, last: float | None, out: Sequence[str]) -> Reason:
    """Why a probe may not restart a slot of the target now; NONE if it may.

    `last`: when a probe last did. `out`: the target's other slots that are wanted up and are not RUNNING.
    """
    if out:
        return because("one_is_out", name=out[0])
    if last is not None and now < last + RESTART_EVERY:
        return because("just_restarted", ago_s=max(0.0, now - last), every_s=RESTART_EVERY)
    return NONE


def first_wait(interval: float, jitter: float) -> float:
    """Seconds until the first probe: anywhere in the interval, so that what came up together is not asked together."""
    return interval * jitter


def next_wait(interval: float, jitter: float) -> float:
    """Seconds from one probe to the next: ±10 %. `jitter` in [0, 1)."""
    return interval * (0.9 + 0.2 * jitter)


def rule_of(check: Health) -> Rule:
    """The rule that `check` asks for."""
    return Rule(start_period=check.start_period, failures=check.failures, successes=check.successes)


def asks_each_worker(check: Health) -> bool:
    """Whether it asks each worker of a pool itself, not the unit at its address."""
    return check.http.startswith("/") and not check.socket


def what(check: Health) -> str:
    """`http /health`, `tcp 127.0.0.1:5432`, `exec pg_isready -q`."""
    if check.http:
        return f"http {check.http}"
    return f"tcp {check.tcp}" if check.tcp else f"exec {_command(check)}"


def asked(check: Health) -> str:
    """The beginning of a sentence about its answer: `GET /health`, `connect to 127.0.0.1:5432`, `pg_isready -q`."""
    if check.http:
        return f"GET {check.http}"
    return f"connect to {check.tcp}" if check.tcp else _command(check)


def bad_answer(check: Health, result: Result) -> Reason:
    """Why a check has failed."""
    at = check.tcp or check.http
    return because("bad_answer", question=asked(check), answer=result.text, at=at, errno=result.errno)


def _command(check: Health) -> str:
    return " ".join(check.unit.command) if check.unit is not None else ""
