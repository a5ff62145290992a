"""The ledger's format, as its readers see it: a record's fields, its subject, and its text in one line.

A record is a JSON object on a line of its own, ASCII, in `state_dir/ledger.jsonl` and the file before it,
`ledger.jsonl.1`. Each has `n` (1, 2, 3 …: a gap means that records were lost), `at` (Unix time in seconds, to the
millisecond) and `kind`, and then what KINDS says of its kind. Readers ignore what they do not know.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import re
import shlex
from typing import TYPE_CHECKING, Any, TypeAlias

from impetusd.core.protocol import is_pattern
from impetusd.core.reasons import Reason, because, of_record, read_start
from impetusd.core.units import counted, span

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

Record: TypeAlias = "Mapping[str, Any]"

MOST_LITERALS = 32  # beyond which looking for them costs more than it saves
LATEST = 253_370_764_800  # Unix time: the year 9999, which is the last that a date can be of
COMMON = {
    "n": "its number",
    "at": "when: Unix time, seconds",
    "kind": "one of KINDS",
    "cause": "the reason as {key, facts}; `reason`, `why` or `error` has it as text",
}
_OF_A_SLOT = {"unit": "the section's name", "slot": "the slot's name, as in `status`"}
_DECIDED = {
    "asked": "true if an operator or a rule had requested the end",
    "state": "the slot's new state",
    "decision": "the decision as text, with the key and its value",
    "decided": "the decision as {key, facts}",
    "rule": "the INI key that decided; empty if none did",
    "restarts": "number of unplanned restarts so far",
    "retry_s": "seconds until the next start; null if there is none, or it starts at once",
}
# Kind → field → what it says. A field that is not needed may be missing.
KINDS: Mapping[str, Mapping[str, str]] = {
    "daemon": {
        "what": "began, took over (from a supervisor that crashed or handed over), handing over, refused an upgrade, stopping, ended",
        "why": "for stopping: who or what requested it; for a refusal: what is wrong with the code on disk",
        "pid": "the supervisor's",
        "shim": "the shim's pid",
        "version": "impetusd's",
    },
    "start": {
        **_OF_A_SLOT,
        "pid": "pid of the slot's new process, started or taken from the spare workers",
        "why": "why it was started; empty if a command requested it",
    },
    "ready": {**_OF_A_SLOT, "pid": "its process", "after_s": "seconds from its start"},
    "exit": {
        **_OF_A_SLOT,
        "pid": "pid of the process; null if there was none yet",
        "ran_s": "lifetime of the process in seconds; null if there was none",
        "code": "exit code; if code, signal and stage are all null, it ended while impetusd was down",
        "signal": "name of the signal that killed it",
        "stage": "step of the start that failed",
        "error": "why that step failed",
        "core": "true if it dumped core",
        "oom": "the kernel's message about the out-of-memory kill",
        "cpu_s": "CPU seconds used by it and the children it waited for",
        "max_rss": "peak memory of the largest of them, in bytes",
        "kills": "number of SIGKILLs sent to it",
        **_DECIDED,
    },
    "gone": {**_OF_A_SLOT, **_DECIDED},  # the processes that it left behind have ended, too
    "stderr": {**_OF_A_SLOT, "pid": "pid of the run that ended", "lines": "last lines that it wrote to stderr"},
    "rule": {
        **_OF_A_SLOT,
        "pid": "pid of the process it acts on; null if nothing runs",
        "rule": "the INI key; health for a [health:NAME]",
        "reason": "what triggered the rule, with the key's value",
    },
    "reload": {
        "unit": "the unit that is reloaded",
        "what": "began, failed (rolling back), rolled back (only old processes), or done (only new processes)",
        "generation": "generation of the new version",
        "reason": "why the reload was made; if it failed: why it failed",
        "lines": "for a rollback: last lines that the failed process wrote to stderr",
        "took_s": "total seconds",
    },
    "health": {
        "check": "the NAME of [health:NAME]",
        "unit": "its target",
        "slot": "what was checked: a slot, or the unit at its address",
        "state": "failing (first failure), unhealthy, or healthy again",
        "failures": "in a row",
        "reason": "the request and the response; empty if healthy",
        "action": "restart or alert",
    },
    "timer": {
        "unit": "the timer",
        "ok": "true if the run succeeded",
        "code": "the job's exit code; null if there is none",
        "duration_s": "seconds",
        "why": "schedule, catch-up, retry or trigger",
        "reason": "the result as text",
        "attempt": "1 for the first run, 2 and higher for retries",
        "retries": "number of retries allowed",
    },
    "config": {
        "what": "applied or refused",
        "changes": "what changed, as `plan` shows it",
        "problems": "for a refusal: the first problems",
        "ok": "true if everything that changed came up",
        "reason": "why it was refused, or what did not come up",
    },
    "command": {
        "method": "the command's method",
        "names": "names it applies to; empty for everything",
        "more": "number of names not listed",
        "times": "for refused and failed commands: how often it happened; only one record is written",
        "params": "how",
        "took_s": "seconds from request to response; the record is written at the end",
        "outcome": "done, failed or refused (insufficient role)",
        "error": "the error in the response",
        "uid": "user ID of the caller, from the kernel",
        "gid": "their group",
        "user": "their name",
        "via": "impetusd's own unit (the gateway) that sent it on behalf of the user; uid and the other facts from the kernel are then missing",
        "from": "the user's IP address, if the gateway knows it",
        "login": "the login user, if different (sudo)",
        "peer_pid": "pid of the caller",
        "comm": "its name",
        "tty": "terminal of the caller; empty if none",
        "role": "viewer, operator or admin",
    },
    "hold": {
        **_OF_A_SLOT,
        "what": "quarantined (a slot, or a unit), hold-only (the instance; no unit, no slot), or released",
        "reason": "how the supervisor last ended, and what it was doing; empty if released",
    },
    "lost": {"records": "number of records lost because the disk could not be written"},
}


def began(record: Record) -> float:
    """The start time of the recorded event; a command's record is written when it is done."""
    at: float = record["at"] - record.get("took_s", 0.0)
    return at


def parse(line: bytes) -> dict[str, Any] | None:
    """The record on a line; None if the line is not a record (torn, or written by somebody else)."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and _is_sound(record) else None


def _is_sound(record: Mapping[str, Any]) -> bool:
    n: Any = record.get("n")
    at: Any = record.get("at")
    if type(n) is not int or type(at) not in {int, float} or not isinstance(record.get("kind"), str):
        return False
    names = [record.get(field) for field in ("unit", "slot", "check", "state")]
    return 0 < n < 1 << 53 and 0 <= at < LATEST and all(name is None or isinstance(name, str) for name in names)


def about(patterns: Collection[str]) -> Callable[[Record], bool]:
    """A predicate for records about these units, slots, timers, checks, or patterns of their names; None matches
    all.
    """
    exact, globs = frozenset(patterns), [pattern for pattern in patterns if is_pattern(pattern)]

    def found(record: Record) -> bool:
        names = subjects(record)
        return not exact.isdisjoint(names) or any(fnmatch.fnmatchcase(name, glob) for name in names for glob in globs)

    return found if patterns else lambda _: True


def literals(patterns: Collection[str]) -> list[bytes]:
    """One of these is in the line of each record that concerns the patterns; empty: unknown."""
    if len(patterns) > MOST_LITERALS:
        return []
    found = [json.dumps(re.split(r"[*?[]", pattern)[0])[1:-1].encode() for pattern in patterns]
    return found if all(found) else []


def subjects(record: Record) -> set[str]:
    """The names that a record is about; none if it is about impetusd itself."""
    names = {record[field] for field in ("unit", "slot", "check") if record.get(field)}
    names |= {name for name in _list(record, "names") if isinstance(name, str)}
    names |= {
        str(change["name"]) for change in _list(record, "changes") if isinstance(change, dict) and "name" in change
    }
    return names | {name.partition(":")[0] for name in names}


def _list(record: Record, field: str) -> list[Any]:
    value = record.get(field)
    return value if isinstance(value, list) else []


def sentence(record: Record) -> str:
    """A record in one line, without its time and slot; as JSON if its kind is unknown."""
    told = _SENTENCES.get(record["kind"])
    # A record that somebody else has written into the file may lack anything.
    with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
        if told is not None:
            return " ".join(told(record).split())
    return f"{record['kind']} {json.dumps({key: value for key, value in record.items() if key not in COMMON})}"


def ending(record: Record) -> str:
    """How a process ended: `exit 1`, `killed by SIGSEGV (core dumped)`, `executing /x failed: no such file`."""
    return str(end_reason(record))


def end_reason(record: Record) -> Reason:
    """The same as a reason."""
    if record.get("stage"):
        return read_start(record.get("cause"), record["stage"], record.get("error", ""))
    if record.get("signal"):
        oom, core = record.get("oom") or "", bool(record.get("core"))
        return because("killed", signal=record["signal"], oom=oom, core=core)
    return because("exit", code=record["code"]) if record.get("code") is not None else because("unknown_end")


def reason(record: Record) -> Reason:
    """The reason of a record, from its `reason` or `why`."""
    return of_record(record, "reason" if "reason" in record else "why")


def decision(record: Record) -> Reason:
    """What was decided after a process ended; NONE if nothing was."""
    return of_record(record, "decision", "decided")


def who(record: Record) -> str:
    """`root (alice had logged in) on pts/3`; `alice via gateway from 192.0.2.1`."""
    if record.get("via"):
        where = f" from {record['from']}" if record.get("from") else ""
        return f"{record.get('user', 'somebody')} via {record['via']}{where}"
    login = f" ({record['login']} had logged in)" if record.get("login") else ""
    tty = f" on {record['tty']}" if record.get("tty") else ""
    return f"{record.get('user') or record.get('uid', 'somebody')}{login}{tty}"


def typed(record: Record) -> str:
    """The command line of a command: `impetusd restart --rolling web`."""
    params = record.get("params") or {}
    words = ["impetusd", record["method"], *(["--rolling"] if params.get("rolling") else [])]
    words += ["--cancel"] if params.get("cancel") else []
    words += ["--canary", str(params["canaries"])] if params.get("canaries") else []
    words += ["--watch", f"{params['watch']:g}s"] if params.get("watch") is not None else []
    words += [params["signal"]] if "signal" in params else []
    words += record.get("names", ())
    words += [str(params["n"])] if "n" in params else []
    words += ["--", shlex.join(params["command"])] if "command" in params else []
    return " ".join([*words, *([f"and {record['more']} more"] if record.get("more") else [])])


def _daemon(record: Record) -> str:
    return f"impetusd {record['what']} (supervisor {record['pid']}, shim {record['shim']}){_because(record)}"


def _because(record: Record) -> str:
    why = reason(record)
    return f": {why}" if why else ""


def _exit(record: Record) -> str:
    after = f" after {span(record['ran_s'])}" if record.get("ran_s") is not None else ""
    decided = decision(record)
    return f"{ending(record)}{after}{f'; {decided}' if decided else ''}"


def _stderr(record: Record) -> str:
    lines = [line for line in record.get("lines", ()) if line.strip()] or [""]
    more = f" (and {counted(len(lines) - 1, 'line')} before)" if len(lines) > 1 else ""
    return f"last output: {lines[-1].strip()}{more}"


def _timer(record: Record) -> str:
    attempt = f", attempt {record['attempt']}" if record.get("attempt", 1) > 1 else ""
    took = f" after {span(record['duration_s'])}" if record.get("duration_s") else ""
    return f"{'done' if record['ok'] else 'failed'}{took}: {reason(record)} ({record['why']}{attempt})"


def _config(record: Record) -> str:
    if record["what"] == "refused":
        return f"the configuration was refused: {next(iter(record.get('problems', ())), record['reason'])}"
    names = ", ".join(f"{change['name']} {change['effect']}" for change in record["changes"])
    failed = (
        ""
        if record.get("ok", True)
        else f"; not everything came up{f': {reason(record)}' if record.get('reason') else ''}"
    )
    return f"the configuration was applied: {names or 'nothing to do'}{failed}"


def _command(record: Record) -> str:
    error = f": {record['error']}" if record.get("error") else ""
    times = f" {record['times']} times" if record.get("times") else ""
    return f"{typed(record)}, by {who(record)}: {record['outcome']}{times}{error}"


def _health(record: Record) -> str:
    return f"health check {record['check']}: {record['state']}{_because(record)}"


def _reload(record: Record) -> str:
    took = f" after {span(record['took_s'])}" if record.get("took_s") else ""
    return f"reload to generation {record['generation']} {record['what']}{took}{_because(record)}"


def _without_its_rule(why: Reason) -> Reason:
    """A health check's finding; that it is unhealthy is already in the sentence."""
    found = why.facts.get("cause")
    return found if why.key == "unhealthy" and isinstance(found, Reason) else why


_SENTENCES: Mapping[str, Callable[[Record], str]] = {
    "daemon": _daemon,
    "start": lambda r: f"started, pid {r['pid']}" + _because(r),
    "ready": lambda r: "ready" + (f" after {span(r['after_s'])}" if r.get("after_s") else ""),
    "exit": _exit,
    "gone": lambda r: f"its leftover processes have ended; {decision(r)}",
    "stderr": _stderr,
    "rule": lambda r: f"rule {r['rule']}: {_without_its_rule(reason(r))}",
    "reload": _reload,
    "health": _health,
    "timer": _timer,
    "config": _config,
    "command": _command,
    "hold": lambda r: f"{r['what']}" + (f": {r['reason']}" if r.get("reason") else ""),
    "lost": lambda r: (
        f"{counted(r['records'], 'record was', 'records were')} lost, because the disk could not be written"
    ),
}
