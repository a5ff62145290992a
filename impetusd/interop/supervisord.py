"""What supervisord's protocol calls things, of the rows of our `status`. Pure.

A unit is a group of its own, as there: `web` with two instances is the group web of the processes web:0 and web:1, a program
with one is the process of its own name. What a [group:NAME] has among its members is in the group NAME, as in supervisord;
a unit that several have is in the first. The gateway and the observer serve this protocol, and are not among what it lists.
"""

from __future__ import annotations

import datetime as dt
import errno
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supervisor.states import RUNNING_STATES, SIGNALLABLE_STATES, STOPPED_STATES, ProcessStates

from impetusd.core import reasons
from impetusd.core.units import MILLISECONDS

OWN = frozenset({"gateway", "observer"})  # units that are made by the daemon itself
LISTED = frozenset({"program", "worker"})  # kinds of slots: neither templates nor what stands by


class Faults:
    """The numbers of supervisor.xmlrpc.Faults, which a test compares: that module brings a web server along."""

    UNKNOWN_METHOD = 1
    INCORRECT_PARAMETERS = 2
    BAD_ARGUMENTS = 3
    SIGNATURE_UNSUPPORTED = 4
    SHUTDOWN_STATE = 6
    BAD_NAME = 10
    BAD_SIGNAL = 11
    NO_FILE = 20
    NOT_EXECUTABLE = 21
    FAILED = 30
    ABNORMAL_TERMINATION = 40
    SPAWN_ERROR = 50
    ALREADY_STARTED = 60
    NOT_RUNNING = 70
    SUCCESS = 80
    ALREADY_ADDED = 90
    STILL_RUNNING = 91
    CANT_REREAD = 92


NAMES = {number: name for name, number in vars(Faults).items() if name.isupper()}


class Fault(Exception):
    """What a call is answered with instead of a value: one of Faults, and its name with `detail` behind it."""

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(f"{NAMES[code]}: {detail}" if detail else NAMES[code])
        self.code = code


@dataclass(frozen=True, slots=True)
class Process:
    """One slot: `slot` is what we call it, `group` and `name` what supervisord's clients do."""

    group: str
    name: str
    row: Mapping[str, Any]

    @property
    def slot(self) -> str:
        return str(self.row["name"])

    @property
    def spec(self) -> str:
        """As supervisorctl writes it."""
        return self.name if self.group == self.name else f"{self.group}:{self.name}"

    @property
    def state(self) -> int:
        return int(getattr(ProcessStates, self.row["state"], ProcessStates.UNKNOWN))

    @property
    def is_running(self) -> bool:
        """In supervisord's sense: it runs, or is about to be started again."""
        return self.state in RUNNING_STATES

    @property
    def is_stopped(self) -> bool:
        return self.state in STOPPED_STATES

    @property
    def is_signallable(self) -> bool:
        return self.state in SIGNALLABLE_STATES

    def result(self, code: int = Faults.SUCCESS, detail: str = "OK") -> dict[str, Any]:
        """What became of it, in the answer to a call on several."""
        return {"name": self.name, "group": self.group, "status": code, "description": detail}


class Processes(list[Process]):
    """All of them, groups in alphabetical order; and how they are found by supervisord's names."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> None:
        self._groups = groups
        found = [self._process(row) for row in rows if row["kind"] in LISTED and row["unit"] not in OWN]
        super().__init__(sorted(found, key=lambda each: each.group))

    def group_of(self, unit: str) -> str:
        """The group that the processes of a unit are in."""
        return next((group for group, members in self._groups.items() if unit in members), unit)

    def _process(self, row: Mapping[str, Any]) -> Process:
        unit, slot = str(row["unit"]), str(row["name"])
        group = self.group_of(unit)
        return Process(group, slot if group != unit else slot.partition(":")[2] or slot, row)

    def group(self, name: str) -> list[Process]:
        """Those of a group, or of a unit that is in another's. Fault BAD_NAME."""
        members = self._groups.get(name, (name,))
        found = [each for each in self if each.group == name or each.row["unit"] in members]
        if not found:
            raise Fault(Faults.BAD_NAME, name)
        return found

    def one(self, name: str) -> Process:
        """The one that is called so: NAME, GROUP:NAME, or as we call it. Fault BAD_NAME."""
        for each in self:
            if name in {each.spec, f"{each.group}:{each.name}", each.slot}:
                return each
        raise Fault(Faults.BAD_NAME, name)


def is_group(name: str) -> str:
    """The group that `GROUP:*` or `GROUP:` stands for; "" for the name of one process."""
    group, colon, process = name.partition(":")
    return group if colon and process in {"", "*"} else ""


def info(process: Process, files: Mapping[tuple[str, str], str], now: float) -> dict[str, Any]:
    """`getProcessInfo`'s answer. `files`: path by slot and stream."""
    row = process.row
    end = row.get("last_exit") or {}
    stop = int(dt.datetime.fromisoformat(end["at"]).timestamp()) if end.get("at") else 0
    start = int(now - row["uptime_s"]) if row.get("uptime_s") is not None else stop
    failed = process.state in {ProcessStates.FATAL, ProcessStates.BACKOFF}
    out, err = (files.get((process.slot, stream), "") for stream in ("out", "error"))
    return {
        "name": process.name,
        "group": process.group,
        "start": start,
        "stop": stop,
        "now": int(now),
        "state": process.state,
        "statename": row["state"],
        "spawnerr": str(row.get("reason") or "") if failed else "",
        "exitstatus": end.get("code") or (-1 if end.get("signal") else 0),
        "logfile": out,
        "stdout_logfile": out,
        "stderr_logfile": err,
        "pid": row.get("pid") or 0,
        "description": _description(process, start, stop, int(now)),
    }


def _description(process: Process, start: int, stop: int, now: int) -> str:
    """As supervisord words it; where it has nothing to say, our reason."""
    row = process.row
    reason = " ".join(str(row.get("reason") or "").split())
    if process.state == ProcessStates.RUNNING:
        return f"pid {row.get('pid')}, uptime {dt.timedelta(seconds=max(0, now - start))}"
    if process.state in {ProcessStates.FATAL, ProcessStates.BACKOFF}:
        return reason or f'unknown error (try "tail {process.spec}")'
    if process.state in {ProcessStates.STOPPED, ProcessStates.EXITED}:
        return time.strftime("%b %d %I:%M %p", time.localtime(stop)) if stop else "Not started"
    return reason


def start_fault(row: Mapping[str, Any]) -> int:
    """What `startProcess` says of a slot that has this row after it was started; SUCCESS if it is up, or has done its work."""
    if row["state"] in {"RUNNING", "EXITED"}:
        return Faults.SUCCESS
    failed = reasons.of_record(row).find("start_failed")
    if failed is None:
        return Faults.ABNORMAL_TERMINATION
    cause = failed.facts["cause"]
    if failed.facts["stage"] == "exec" and cause.key in {"no_file", "no_program", "no_interpreter"}:
        return Faults.NO_FILE
    if failed.facts["stage"] == "exec" and cause.facts.get("errno") == errno.EACCES:
        return Faults.NOT_EXECUTABLE
    return Faults.SPAWN_ERROR


def config_info(process: Process, spec: Mapping[str, Any], files: Mapping[str, str]) -> dict[str, Any]:
    """One struct of `getAllConfigInfo`, of a slot that is in force."""
    return {
        **available(process.row["unit"], spec),
        "group": process.group,
        "name": process.name,
        "inuse": True,
        "stdout_logfile": files.get("out", ""),
        "stderr_logfile": files.get("error", ""),
    }


def available(unit: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a unit that only the INI file has so far; keys that we do not have are as they are there by default."""
    return {
        "autostart": spec.get("autostart", "yes") == "yes",
        "command": str(spec.get("command") or spec.get("app") or ""),
        "directory": str(spec.get("cwd") or "none"),
        "exitcodes": [0],
        "group": unit,
        "group_prio": 999,
        "inuse": False,
        "killasgroup": True,
        "name": unit,
        "process_prio": 999,
        "redirect_stderr": spec.get("merge_logs") == "yes",
        "startretries": _whole(spec.get("max_restarts")),
        "startsecs": _seconds(spec.get("min_uptime")),
        "stderr_capture_maxbytes": 0,
        "stderr_events_enabled": False,
        "stderr_logfile": "auto",
        "stderr_logfile_backups": 0,
        "stderr_logfile_maxbytes": 0,
        "stderr_syslog": False,
        "stdout_capture_maxbytes": 0,
        "stdout_events_enabled": False,
        "stdout_logfile": "auto",
        "stdout_logfile_backups": 0,
        "stdout_logfile_maxbytes": 0,
        "stdout_syslog": False,
        "stopsignal": str(spec.get("kill_signal") or "TERM"),
        "stopwaitsecs": _seconds(spec.get("kill_timeout")),
        "uid": str(spec.get("user") or "none"),
        "serverurl": "none",
    }


def _whole(text: object) -> int:
    return int(str(text)) if str(text or "").isdecimal() else 0


def _seconds(text: object) -> int:
    """Of a duration as the INI file writes it."""
    found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", str(text or ""))
    return int(found[1]) * MILLISECONDS[found[2]] // 1000 if found else 0
