"""Decisions by a unit's restart and stop keys: whether to restart, and after how long. Durations are seconds."""

from __future__ import annotations

import errno
import os
import signal
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from impetusd.core.config.model import Autorestart
from impetusd.core.reasons import NONE, Reason, errno_of, of_end
from impetusd.core.values import dataclass

if TYPE_CHECKING:
    from impetusd.core.config.model import Unit

# What the worker runtime exits with when trying again cannot help: sysexits.h EX_CONFIG.
EX_CONFIG = 78
SETTLING = 1.0  # seconds: most of what cannot run has ended by then


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The keys of a unit that the state machine looks at; see `core.config.schema` for what each means."""

    autorestart: Autorestart = Autorestart.ALWAYS
    stop_exit_codes: tuple[int, ...] = ()
    fatal_exit_codes: tuple[int, ...] = ()
    min_uptime: float = 1.0
    max_restarts: int = 16
    restart_window: float = 60.0
    restart_delay: float = 0.0
    exp_backoff_restart_delay: float = 0.1
    exp_backoff_max_delay: float = 5.0
    kill_signal: int = signal.SIGTERM
    kill_timeout: float = 10.0
    treekill: bool = True
    wait_ready: bool = False
    listen_timeout: float = 30.0
    retry_after: float = 0.0
    watchdog: float = 0.0
    oneshot: bool = False  # ready when it has ended, as it should
    settling: float = 1.0  # seconds after which it counts as started, unless it reports readiness


_same = lru_cache(maxsize=64)(Policy)


def settling(unit: Unit) -> float:
    """Seconds until a program that does not report readiness counts as started; min_uptime decides whether its run
    lasted."""
    return unit.min_uptime if unit.rules < 2 else min(unit.min_uptime, SETTLING)


def policy_of(unit: Unit, *, fatal_exit_codes: tuple[int, ...] = ()) -> Policy:
    """The policy that `unit` asks for: the same object for units with the same keys."""
    return _same(
        autorestart=unit.autorestart,
        stop_exit_codes=unit.stop_exit_codes,
        fatal_exit_codes=fatal_exit_codes,
        min_uptime=unit.min_uptime,
        max_restarts=unit.max_restarts,
        restart_window=unit.restart_window,
        restart_delay=unit.restart_delay,
        exp_backoff_restart_delay=unit.exp_backoff_restart_delay,
        exp_backoff_max_delay=unit.exp_backoff_max_delay,
        kill_signal=unit.kill_signal,
        kill_timeout=unit.kill_timeout,
        treekill=unit.treekill,
        wait_ready=unit.wait_ready or unit.ready is not None,
        listen_timeout=unit.listen_timeout,
        retry_after=unit.retry_after,
        watchdog=unit.watchdog,
        oneshot=unit.type == "oneshot",
        settling=settling(unit),
    )


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: `code`, or `signal`, or `failed` when it could not be started at all.

    None of these: it ended while no parent was there to collect its exit status.

    `at` is Unix time in seconds; `oom` says, in the kernel's words, that it killed the process for memory. `core`: it
    dumped core. `cpu_s` and `max_rss` (bytes) are what it used, with the children that it waited for; 0 is not known.
    """

    code: int | None = None
    signal: int | None = None
    failed: Reason = NONE
    at: float = 0.0
    oom: str = ""
    core: bool = False
    cpu_s: float = 0.0
    max_rss: int = 0

    @property
    def reason(self) -> Reason:
        """The same as a reason."""
        if self.failed.key:
            return self.failed
        name = signal_name(self.signal) if self.signal is not None else None
        return of_end(self.code, name, self.oom, core=self.core)


def signal_name(number: int) -> str:
    """SIGKILL for 9; SIG34 for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


# Errors that may pass by themselves: a start that fails with one is retried, whatever step failed.
TRANSIENT = frozenset({errno.EAGAIN, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETXTBSY})


def is_hopeless(end: Exit) -> bool:
    """True if retrying is pointless: the program or folder does not exist, or it cannot be executed."""
    if end.failed.key != "start_failed" or end.failed.facts["stage"] not in {"exec", "cwd"}:
        return False
    return errno_of(end.failed) not in TRANSIENT


class ExitVerdict(Enum):
    """The decision after an unexpected exit."""

    RETRY = "retry"
    EXITED = "exited"
    FATAL = "fatal"


def exit_verdict(policy: Policy, end: Exit) -> ExitVerdict:
    """Decide whether to restart a process that exited on its own."""
    if end.code is not None and end.code in policy.fatal_exit_codes:
        return ExitVerdict.FATAL
    if end.code is not None and end.code in policy.stop_exit_codes:
        return ExitVerdict.EXITED
    if policy.autorestart is not Autorestart.ALWAYS and end.code == os.EX_OK:
        return ExitVerdict.EXITED
    return ExitVerdict.FATAL if policy.autorestart is Autorestart.NEVER else ExitVerdict.RETRY


class Judgement(NamedTuple):
    """The decision after an unexpected exit, its reason, and the delay of the restart in seconds."""

    verdict: ExitVerdict
    reason: Reason
    wait: float
    hopeless: bool  # it was never executed, and never will be


def judge(policy: Policy, end: Exit, failed: Reason, failures: int, jitter: float) -> Judgement:
    """Judge the end of a process, which was stopped because it had `failed`, if that is a reason; see `delay`."""
    verdict = exit_verdict(policy, Exit(failed=failed) if failed.key else end)
    reason = failed if failed.key else end.reason
    return Judgement(verdict, reason, delay(policy, failures, jitter), is_hopeless(end))


def delay(policy: Policy, failures: int, jitter: float) -> float:
    """Seconds to wait before the next start, after `failures` runs in a row that did not last `min_uptime`.

    After a run that lasted, and after the first that did not, `restart_delay` alone: one early end may be chance.
    From the second on the backoff doubles from `exp_backoff_restart_delay`, is spread by ±20 % (`jitter` in [0, 1)) so
    that programs which fell together do not rise together, and never exceeds its cap: there it is spread below it. The
    exponent is clamped: 2.0 ** 1100 overflows.
    """
    if failures <= 1:
        return policy.restart_delay
    most = policy.exp_backoff_max_delay
    backoff = min(policy.exp_backoff_restart_delay * 2.0 ** min(failures - 2, 64), most)
    least = 0.8 * backoff
    return max(policy.restart_delay, least + (min(1.2 * backoff, most) - least) * jitter)
