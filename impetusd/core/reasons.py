"""Reasons as data: a key from a closed list, with facts. They are rendered as text only at the end.

`because("not_ready", within_s=30.0)` makes a Reason, `str` of it is its sentence. A fact is a string, a number or None, a
list of strings (`codes`), or another Reason: what one thing follows from (REASONS). Decisions use key and facts, never
sentences.

As JSON a reason is {"key", "facts"}, and {"key", "facts", "text"} where people read it. An older impetusd wrote the
sentence alone, which is read as key `text`; so is a reason of a newer one whose key is not known here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from impetusd.core.protocol import UNKNOWN
from impetusd.core.units import ago, ahead, counted, show_duration, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeAlias

    Text: TypeAlias = str | Callable[[Mapping[str, Any]], str]

REASONS = frozenset({"before", "cause", "decision", "due", "end", "held", "stuck"})  # facts that are reasons
DEEPEST = 12  # reasons within reasons that are read; ours are 5 deep at most


class Reason:
    """A key of KEYS and its facts; false for NONE. Immutable. `text`: its sentence, once somebody has asked for that."""

    __slots__ = ("facts", "key", "text")

    key: str
    facts: Mapping[str, Any]
    text: str | None

    def __init__(self, key: str, facts: Mapping[str, Any]) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "facts", facts)
        object.__setattr__(self, "text", None if key else "")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} of a reason cannot be set")

    def __deepcopy__(self, memo: object) -> Reason:
        return self

    def __bool__(self) -> bool:
        return bool(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reason) and self.key == other.key and self.facts == other.facts

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"because({', '.join([repr(self.key), *(f'{name}={fact!r}' for name, fact in self.facts.items())])})"

    def __str__(self) -> str:
        text = self.text
        if text is None:
            text = render(self)
            object.__setattr__(self, "text", text)
        return text

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {"key": self.key, "facts": {name: _plain(fact) for name, fact in self.facts.items()}}

    def shown(self) -> dict[str, Any]:
        """As JSON, with the sentence."""
        return {**self.data(), "text": str(self)}

    def find(self, key: str) -> Reason | None:
        """This reason, or the first within it, that has this key."""
        if self.key == key:
            return self
        inner = (fact.find(key) for fact in self.facts.values() if isinstance(fact, Reason))
        return next((each for each in inner if each is not None), None)


NONE = Reason("", {})


def because(key: str, **facts: Any) -> Reason:
    """A reason. A test holds all calls against KEYS."""
    return Reason(key, facts)


def of_end(code: int | None, signal: str | None, oom: str, *, core: bool) -> Reason:
    """The reason for a process's exit; without code and signal it is unknown. Its record, the ledger and the log need
    the text.
    """
    if signal is not None:
        reason = because("killed", signal=signal, oom=oom, core=core)
    else:
        reason = because("exit", code=code) if code is not None else because("unknown_end")
    str(reason)
    return reason


def said(text: str) -> Reason:
    """A sentence of somebody else, or of an older impetusd; NONE for ""."""
    return Reason("text", {"text": text}) if text else NONE


def of_os_error(error: BaseException) -> Reason:
    """Why a system call failed: its errno where it has one; else what the exception says."""
    number = error.errno if isinstance(error, OSError) else None
    if not number or number < 0 or not isinstance(error, OSError):
        return said((error.strerror if isinstance(error, OSError) else None) or str(error) or repr(error))
    detail = error.strerror or ""
    return because("os_error", errno=number, detail="" if detail == os.strerror(number) else detail)


def not_started(stage: str, cause: Reason, what: str = "") -> Reason:
    """A start failed at a stage of STAGES, which is about `what`."""
    return because("start_failed", stage=stage, what=what, cause=cause)


def read(data: object, text: str = "") -> Reason:
    """The reason of its JSON; of one that makes no sense here, of an older impetusd's or a newer one's, `text`."""
    try:
        return _read(data, DEEPEST)
    except (KeyError, TypeError, ValueError, AttributeError):
        return said(text)


def read_start(data: object, stage: str, error: str) -> Reason:
    """Why a start failed, as data, or from the sentence of a version without keys."""
    return read(data) or not_started(stage, said(error))


def of_record(record: Mapping[str, Any], field: str = "reason", data: str = "cause") -> Reason:
    """The reason in a row or record that has the sentence in one field, and key and facts in another."""
    return read(record.get(data), str(record.get(field) or ""))


def alike(reason: Reason) -> tuple[object, ...]:
    """A value that is equal for reasons that differ only in numbers."""
    facts = reason.facts.items()
    return reason.key, *((name, _shape(fact)) for name, fact in facts if not isinstance(fact, int | float))


def _shape(fact: object) -> object:
    if isinstance(fact, Reason):
        return alike(fact)
    return "".join("#" if each.isdigit() else each for each in fact) if isinstance(fact, str) else str(fact)


def mentions(reason: Reason, words: str) -> bool:
    """True if the foreign text `words` is among its facts."""
    facts = reason.facts.values()
    return any(mentions(fact, words) if isinstance(fact, Reason) else words in str(fact) for fact in facts)


def changed(reason: Reason, change: Callable[[str], str]) -> Reason:
    """The reason with each string among its facts changed, as for `redact.text`."""
    return Reason(reason.key, {name: _changed(fact, change) for name, fact in reason.facts.items()})


def _changed(fact: Any, change: Callable[[str], str]) -> Any:
    if isinstance(fact, str):
        return change(fact)
    if isinstance(fact, list):
        return [_changed(each, change) for each in fact]
    return changed(fact, change) if isinstance(fact, Reason) else fact


def _plain(fact: Any) -> Any:
    return fact.data() if isinstance(fact, Reason) else fact


def _read(data: Any, deep: int) -> Reason:
    key, facts = data["key"], data["facts"]
    if key == "":
        return NONE
    if not deep or set(KEYS[key].facts) - set(facts):
        raise ValueError(key)
    found = {name: _fact(fact, deep - 1) for name, fact in facts.items()}
    for name, fact in found.items():
        if isinstance(fact, Reason) is not (name in REASONS) or isinstance(fact, list) is not (name == "codes"):
            raise ValueError(key)
    return Reason(key, found)


def _fact(fact: Any, deep: int) -> Any:
    if isinstance(fact, dict):
        return _read(fact, deep)
    return list(map(str, fact)) if isinstance(fact, list) else fact


def stage(failed: Reason) -> str:
    """The failed step of a start, as a part of a sentence; "" for anything else."""
    if failed.key == "start_failed":
        return _tried(failed.facts["stage"], failed.facts["what"])
    return "start" if failed else ""


def error(failed: Reason) -> str:
    """Why it failed."""
    return str(failed.facts["cause"] if failed.key == "start_failed" else failed)


def cause_key(failed: Reason) -> str:
    """The key of why a start failed."""
    cause = failed.facts.get("cause")
    return cause.key if isinstance(cause, Reason) else ""


def errno_of(reason: Reason) -> int:
    """The errno at the bottom of it; 0 without one."""
    found = reason.find("os_error") or reason.find("bad_answer")
    number = found.facts["errno"] if found is not None else 0
    return number if isinstance(number, int) else 0


# Rendering.


def render(reason: Reason) -> str:
    """The sentence, without a full stop. This is the only function that makes one of a reason."""
    return ": ".join(filter(None, parts(reason)))


def parts(reason: Reason) -> tuple[str, str]:
    """The sentence in two parts: the problem and its cause. The second is "" if there is only one."""
    kind = KEYS.get(reason.key)
    if kind is None:
        return reason.key, ""
    try:
        first, second = (
            (text.format_map(_shown(reason)) if isinstance(text, str) else text(reason.facts))
            for text in (kind.head, kind.text)
        )
    except (LookupError, TypeError, ValueError, AttributeError):  # facts of somebody else, of another kind
        return " ".join([reason.key, *(f"{name}={fact}" for name, fact in reason.facts.items())]), ""
    return (first, second) if first else (second, "")


def _shown(reason: Reason) -> dict[str, Any]:
    """The facts by their names: seconds as in the INI file by NAME_t, as a reader takes them in by NAME_s."""
    shown = dict(reason.facts)
    for name, fact in reason.facts.items():
        if name.endswith("_s") and isinstance(fact, int | float):
            shown[name] = f"{fact:g} s"
            shown[f"{name[:-1]}t"] = show_duration(fact)
    return shown


class Kind:
    """The names of the facts, and the text: a format of those, or a function of them; `head` stands before it, if any."""

    __slots__ = ("facts", "head", "text")

    def __init__(self, facts: str, text: Text, head: Text = "") -> None:
        self.facts = tuple(facts.split())
        self.text = text
        self.head = head


def _oom(facts: Mapping[str, Any]) -> str:
    more = facts["oom"] or ("core dumped" if facts["core"] else "")
    return f"killed by {facts['signal']}{f' ({more})' if more else ''}"


def _os_error(facts: Mapping[str, Any]) -> str:
    detail = facts["detail"]
    return detail or os.strerror(facts["errno"])


def _start_failed(facts: Mapping[str, Any]) -> str:
    return f"{_tried(facts['stage'], facts['what'])} failed: {facts['cause']}"


def _tried(stage: str, what: str) -> str:
    return STAGES[stage].format(what=what) if stage in STAGES else f"{stage} {what}".rstrip()


def _memory(key: str) -> Callable[[Mapping[str, Any]], str]:
    def text(facts: Mapping[str, Any]) -> str:
        held = f" for {show_duration(facts['hold_s'])}" if facts["hold_s"] else ""
        basis = f" ({BASES.get(facts['basis'], facts['basis'])})" if facts["basis"] else ""
        return f"uses {_mb(facts['used'])}{basis}, above {key} = {_mb(facts['limit'])}{held}"

    return text


def _mb(size: int) -> str:
    megabytes = size / (1 << 20)
    return f"{megabytes:.0f} MB" if megabytes >= 10 else f"{megabytes:.1f} MB"


def _waits_for(facts: Mapping[str, Any]) -> str:
    which = f", which is {facts['state']}" if facts["state"] else ""
    return f"waits for {facts['name']}{which}{f': {cause}' if (cause := facts['cause']) else ''}"


def _is_state(facts: Mapping[str, Any]) -> str:
    return f"{facts['name']} is {facts['state']}{f': {cause}' if (cause := facts['cause']) else ''}"


def _changed_files(facts: Mapping[str, Any]) -> str:
    more = facts["more"]
    return f"changed: {facts['path']}" + (f" and {more} more" if more else "")


def _cut_off(facts: Mapping[str, Any]) -> str:
    were = counted(facts["count"], "request was", "requests were")
    return f"{were} cut off after drain_timeout = {show_duration(facts['limit_s'])}"


def _within(facts: Mapping[str, Any]) -> str:
    return f"{facts['count']} of max_restarts = {facts['most']} within {span(facts['window_s'])}"


def _gave_up(facts: Mapping[str, Any]) -> str:
    return f"{facts['end']}; gave up after {counted(facts['restarts'], 'restart')} in {facts['window_s']:g} s"


def _killed_too(facts: Mapping[str, Any]) -> str:
    return f"{facts['decision']}; killed after kill_timeout = {span(facts['timeout_s'])}"


def _stop_codes(facts: Mapping[str, Any]) -> str:
    return f"left stopped (stop_exit_codes = {', '.join(map(str, facts['codes']))})"


def _mistake(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['stage']}: {facts['cause']} ({facts['count']} times, last {ago(facts['ago_s'])}); "
        "this is a bug in impetusd; the traceback is in its log"
    )


def _log_lost(facts: Mapping[str, Any]) -> str:
    what = "a log file" if facts["files"] == 1 else f"{facts['files']} log files"
    return f"{what} cannot be written ({facts['cause']}), {facts['lines']} lines dropped so far"


def _twice(facts: Mapping[str, Any]) -> str:
    return f"twice within {facts['within_s']:g} s"


def _last(facts: Mapping[str, Any]) -> str:
    return ", ".join(filter(None, (facts["how"], facts["stage"])))


def _timer_failed(facts: Mapping[str, Any]) -> str:
    again = f"; next retry {ahead(facts['again_s'])}" if facts["again_s"] is not None else ""
    return f"{facts['name']} failed {ago(facts['ago_s'])}: {facts['cause']}{again}"


# By stage of a start, what is tried. The shim's are those of `shim.spawn`, `shim.children` and `shim.forks`.
STAGES = {
    "descriptors": "moving descriptors",
    "cgroup": "joining cgroup {what}",
    "session": "starting a session",
    "terminal": "acquiring the terminal",
    "oom_score_adj": "setting oom_score_adj to {what}",
    "umask": "setting umask",
    "nice": "setting nice to {what}",
    "cpu_affinity": "setting cpu_affinity",
    "rlimits": "setting rlimits",
    "cwd": "changing directory to {what}",
    "groups": "setting groups to {what}",
    "drop_capabilities": "dropping capabilities",
    "keep_capabilities": "keeping capabilities",
    "gid": "setting gid to {what}",
    "uid": "setting uid to {what}",
    "capabilities": "setting capabilities",
    "no_new_privs": "setting no_new_privs",
    "signals": "resetting signals",
    "exec": "executing {what}",
    "process": "starting a process",
    "fork": "forking a worker",
    "adopt": "adopting a forked worker",
    "find": "finding the process",
    "account": "looking up user and group",
    "host": "looking up {what}",
    "look_up": "looking up users and addresses",
    "node": "loading impetusd's module into Node",
    "socket_owner": "looking up the owner of the socket",
    "own_folder": "creating its folder {what}",
    "listen_host": "looking up its listen address",
    "env_file": "reading env_file {what}",
    "increment_var": "adding the instance's number to {what}",
    "listen": "listening on {what}",
    "notify_socket": "creating the notify socket {what}",
    "log_pipes": "creating log pipes",
    "start": "starting",
    "prepare": "preparing the start",
    "turn": "waiting for its turn",
}
BASES = {"rss": "RSS, because shared memory cannot be separated"}

KEYS: dict[str, Kind] = {
    "text": Kind("text", "{text}"),
    # How a process ended.
    "exit": Kind("code", "exit {code}"),
    "killed": Kind("signal oom core", _oom),
    "unknown_end": Kind("", UNKNOWN),
    "start_failed": Kind("stage what cause", _start_failed),
    # Why a start, or a system call, failed.
    "os_error": Kind("errno detail", _os_error),
    "no_file": Kind("name", "no such file"),
    "no_program": Kind("name", "no such program in PATH"),
    "no_interpreter": Kind("name", "the interpreter named in its first line does not exist"),
    "template_gone": Kind("", "its template process no longer exists"),
    "template_ended": Kind("", "its template process exited"),
    "template_senseless": Kind("", "its template process sent an invalid response"),
    "template_mute": Kind("cause", "its template process does not respond: {cause}"),
    "process_unknown": Kind("", "unknown to the shim"),
    "no_answer": Kind("within_s", "no response within {within_s}"),
    "no_user": Kind("name", "user {name} does not exist on this host"),
    "no_group": Kind("name", "group {name} does not exist on this host"),
    "closed_to_others": Kind(
        "name path",
        "{name} cannot read it because of the permissions of {path}; install impetusd elsewhere, or set node = no",
    ),
    "no_way": Kind("name path", "{name} cannot enter {path}; run: chmod o+x {path}"),
    "no_other_user": Kind(
        "cause name",
        "{cause}; in a container without user ID {name}, or without CAP_CHOWN, CAP_SETUID and CAP_SETGID, set user ="
        " root in [gateway]",
    ),
    "not_set": Kind("name", "{name} is not set"),
    "no_number": Kind("name", "{name} is not a whole number"),
    "untrusted": Kind("what fix", "{what}, so LD_PRELOAD in it could run their code; {fix}"),
    "low_port": Kind("cause", "{cause} (a port below 1024 needs root or CAP_NET_BIND_SERVICE)"),
    "takes_ipv4": Kind("cause", "{cause} (it also accepts IPv4; add v6only=yes to prevent that)"),
    "port_held": Kind("cause holder", "{cause} by {holder}"),
    "shutting_down": Kind("", "impetusd is stopping"),
    "internal": Kind("error", "internal error: {error}"),
    # Why limits of a cgroup are not in force.
    "no_cgroup": Kind("", "impetusd has no writable cgroup v2"),
    "no_controller": Kind("name", "the {name} controller is not available in impetusd's cgroup v2"),
    "unlimited": Kind("name what cause", "{cause}", "{what} of {name} cannot be enforced"),
    # What the state machine says of a slot.
    "not_ready": Kind("within_s", "not ready within {within_s}"),
    "watchdog": Kind("within_s", "event loop blocked for {within_s} (watchdog)"),
    "channel_shut": Kind("", "killed because it closed its channel to impetusd; its log may say why"),
    "left_behind": Kind("end", "{end}; stopping the processes it left behind"),
    "unkillable": Kind("", "SIGKILL has no effect: the process is stuck in the kernel (state D in ps)"),
    "not_ended": Kind("within_s signal", "killed: did not exit within {within_s} of {signal}"),
    "cannot_execute": Kind("end", "{end}; not retried, because it cannot be executed"),
    "backoff": Kind("end count most", "{end} ({count} of {most})"),
    "retrying": Kind("end wait_s", lambda f: f"{f['end']}; retrying in {f['wait_s']:.1f} s"),
    "gave_up": Kind("end restarts window_s", _gave_up),
    "tried_slowly": Kind("end every_s", "{end}; retrying every {every_s} (retry_after)"),
    "bad_record": Kind("", "its record cannot be read"),
    "threads": Kind(
        "",
        "importing the app starts threads or opens connections, so each worker imports it itself (as with preload = no)",
    ),
    "not_replaced": Kind("due cause", "not replaced ({due}): {cause}"),
    "is_state": Kind("name state cause", _is_state),
    "retrying_now": Kind("end", "{end}; retrying now"),
    "quarantined": Kind(
        "how stage within_s",
        lambda f: f"quarantined: impetusd's supervisor crashed {_twice(f)} while handling this (last: {_last(f)})",
    ),
    "hold-only": Kind(
        "how stage within_s",
        lambda f: (
            f"hold-only mode: impetusd's supervisor crashed {_twice(f)} (last: {_last(f)}); running programs"
            " continue, but nothing is started, restarted or recycled"
        ),
    ),
    "not_while_held": Kind(
        "end", lambda f: f"{str(f['end']) or 'not started'}; not started while impetusd is in hold-only mode"
    ),
    "way_out": Kind("cause what", "{cause}; run: {what}"),
    # Rules of the INI file, and what acts like one.
    "max_memory_restart": Kind("used limit hold_s basis", _memory("max_memory_restart")),
    "max_memory_kill": Kind("used limit hold_s basis", _memory("max_memory_kill")),
    "memory_max": Kind("limit", lambda f: f"killed by the kernel: above memory_max = {_mb(f['limit'])}"),
    "max_age": Kind("limit_s", "older than max_age = {limit_t}"),
    "cron_restart": Kind("schedule", "cron_restart = {schedule}"),
    "max_requests": Kind("limit", "max_requests = {limit}"),
    "watch": Kind("path more", _changed_files),
    "socket_removed": Kind("path", "its socket {path} was deleted"),
    "channel_lost": Kind("", "its command channel was lost with the shim"),
    "no_fork": Kind("slot within_s", "it did not fork {slot} within {within_s}"),
    "cut_off": Kind("count limit_s", _cut_off),
    "tried_again": Kind("before", "retried (retry_after): {before}"),
    "unhealthy": Kind("cause", "unhealthy: {cause}"),
    # Health checks.
    "bad_answer": Kind("question answer at errno", "{question}: {answer}"),
    "not_asked": Kind("", "not checked yet"),
    "held": Kind("cause held", "{cause}; not restarted yet: {held}"),
    "one_is_out": Kind("name", "{name} is being replaced, and only one is replaced at a time"),
    "just_restarted": Kind(
        "ago_s every_s",
        lambda f: f"a health check restarted it {f['ago_s']:.0f} s ago; the limit is once every {f['every_s']:.0f} s",
    ),
    "check_unhealthy": Kind("target cause", "{target} is unhealthy: {cause}"),
    # What a start waits for.
    "waits_for": Kind("name state cause", _waits_for),
    "waits_for_address": Kind("name", "waits for {name} to exit, because it may still use the same address"),
    "waits_for_host": Kind("", "waits for lookups of its user, sockets and env_file"),
    "waits_for_line": Kind("pattern", "waits for a log line matching {pattern}"),
    "waits_for_listen": Kind("", "waits for its server to listen"),
    "waits_for_answer": Kind("what answer", lambda f: f"waits for {f['what']}: {f['answer'] or 'not checked yet'}"),
    "waits_for_holder": Kind("end", "{end}; looking for the process that uses it"),
    "waits_for_turn": Kind("due", "waits for its turn to be replaced: {due}"),
    # Why a new process was requested.
    "reload": Kind("", "reload"),
    "rolling_restart": Kind("", "rolling restart"),
    "new_configuration": Kind("", "the configuration has changed"),
    "restart": Kind("", "restart"),
    "start": Kind("", "start"),
    # How a reload failed.
    "cancelled": Kind("", "cancelled"),
    "restart_asked": Kind("", "a restart was requested meanwhile"),
    "not_wanted": Kind("", "the unit was stopped meanwhile"),
    "slot_failed": Kind("slot cause", "{slot}: {cause}"),
    "more_errors": Kind(
        "errors requests errors_old requests_old",
        "new workers failed {errors} of {requests} requests (status 500 or above), "
        "old workers {errors_old} of {requests_old}",
    ),
    "no_count": Kind("within_s", "it did not report how many requests it had answered within {within_s}"),
    "more_memory": Kind(
        "used used_old",
        lambda f: f"a new worker uses {f['used'] >> 20} MB of memory, the old ones at most {f['used_old'] >> 20} MB",
    ),
    "from_disk": Kind("", "the old version's template process exited; replacement workers now run the code on disk"),
    "not_restored": Kind("cause", "the old version could not be restored: {cause}"),
    "and_stuck": Kind("cause stuck", "{cause}; {stuck}"),
    "no_listen": Kind("", "it has no listen, so the old and the new process cannot serve side by side"),
    "no_wait_ready": Kind(
        "", "it has no wait_ready, so impetusd cannot know when the new process is ready to replace the old one"
    ),
    # How a timer's run went, if it is not the end of a process.
    "lost_run": Kind("", "lost: impetusd or the host went down during the run"),
    "skipped_missed": Kind("", "skipped: missed because impetusd was down, the host was asleep or its clock changed"),
    "skipped_running": Kind("", "skipped: the previous run is still running"),
    "skipped_queued": Kind("", "skipped: the previous run is still running, and another is queued"),
    "timed_out": Kind("limit_s", lambda f: f"timed out after {span(f['limit_s'])}"),
    "stopped": Kind("end", "stopped: {end}"),
    "stopped_before": Kind("", "stopped before it started"),
    "stopped_for_next": Kind("", "stopped: replaced by the next run"),
    # What was decided of a process that has ended.
    "stopped_as_asked": Kind("", "stopped as requested"),
    "ending_rest": Kind("", "stopping the processes it left behind (treekill = yes)"),
    "left_by_code": Kind("codes", _stop_codes),
    "left_alone": Kind("autorestart", "left stopped (autorestart = {autorestart})"),
    "retried_in": Kind(
        "wait_s rule count most window_s", lambda f: f"restarting in {span(f['wait_s'])} ({f['rule']}; {_within(f)})"
    ),
    "started_as_asked": Kind("", "restarted as requested"),
    "replaced": Kind("due", "replaced: {due}"),
    "retried": Kind(
        "autorestart count most window_s",
        lambda f: f"restarted at once (autorestart = {f['autorestart']}; {_within(f)})",
    ),
    "hopeless_code": Kind("code", "not retried, because exit {code} means a permanent failure"),
    "left_down": Kind("", "left stopped (autorestart = never)"),
    "not_executable": Kind("", "not retried, because it cannot be executed"),
    "given_up_again": Kind("every_s", lambda f: f"gave up again (retry_after = {span(f['every_s'])})"),
    "given_up": Kind(
        "most window_s",
        lambda f: f"gave up (max_restarts = {f['most']} within restart_window = {span(f['window_s'])})",
    ),
    "killed_too": Kind("decision timeout_s", _killed_too),
    # What happens to impetusd itself.
    "signalled": Kind("", "stopped by a signal"),
    "stop_asked": Kind("", "impetusd stop"),
    "critical": Kind("name", "{name} is FATAL and has critical = yes"),
    # impetusd's own troubles.
    "not_reloaded": Kind("unit cause", "{cause}", "Reload of {unit} failed; the old version keeps serving"),
    "being_watched": Kind(
        "unit left_s",
        lambda f: f"watching the new version for another {f['left_s']:.0f} s",
        "{unit} is being reloaded",
    ),
    "ini_refused": Kind(
        "ago_s problem",
        "{problem}",
        lambda f: f"the INI file was rejected {ago(f['ago_s'])}; the previous one is in force",
    ),
    "ledger_lost": Kind(
        "path cause kept", "{cause}; keeping {kept} records in memory", "the ledger {path} cannot be written"
    ),
    "logs_lost": Kind("files cause lines where", "{where}", _log_lost),
    "mistake": Kind("source stage cause count ago_s", _mistake, "{source}"),
    "shim": Kind("what text", "{text}"),
    "closed_code": Kind(
        "name path",
        "{name} is not started, because its user cannot read {path}; run: chmod o+rX {path}, or set user in [gateway]",
    ),
    "undelivered": Kind("count", lambda f: f"{counted(f['count'], 'alert')} could not be delivered so far"),
    "disabled": Kind("name", "{name} is disabled; run: impetusd enable {name}"),
    "timer_failed": Kind("name ago_s cause again_s", _timer_failed),
    # What the observer finds.
    "restarted_often": Kind(
        "end count window_s", lambda f: f"{f['end']}; restarted {f['count']} times within {span(f['window_s'])}"
    ),
    "supervisor_replaced": Kind("", "impetusd's supervisor crashed and was restarted; programs were not affected"),
    "supervisor_silent": Kind("within_s", "impetusd's supervisor has not responded for {within_s}"),
    "not_kept": Kind("path cause", "{cause}; the data is kept in memory", "the observer cannot write {path}"),
    "set_aside": Kind("path what", "{path} was damaged; it was renamed to {what}, and a new file was started"),
}
# By key, the key of the INI file whose rule it is.
RULES = {
    **{
        key: key
        for key in ("max_memory_kill", "max_memory_restart", "memory_max", "max_age", "cron_restart", "max_requests")
    },
    "watch": "watch",
    "watchdog": "watchdog",
    "not_ready": "listen_timeout",
    "no_fork": "listen_timeout",
    "unhealthy": "health",
    "cut_off": "drain_timeout",
    "tried_again": "retry_after",
}

SKIPPED = frozenset({"skipped_missed", "skipped_running", "skipped_queued"})  # of a timer's run that there was not


def waited_for(row: Mapping[str, Any]) -> str:
    """The unit or slot that a row's start waits for; "" if it does not."""
    reason = of_record(row)
    return str(reason.facts["name"]) if reason.key in {"waits_for", "waits_for_address"} else ""


def rule_of(reason: Reason) -> str:
    """The key of the INI file whose rule gave this reason; `health` for a check, `other` for none."""
    return RULES.get(reason.key, "other")
