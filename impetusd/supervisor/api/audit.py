"""Identify the sender of a command for the ledger, from /proc while the peer waits for the response."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from impetusd.core import redact
from impetusd.core.protocol import ADMIN, Request
from impetusd.linux import processes
from impetusd.linux.host import user_name
from impetusd.supervisor.api.control import Peer

MOST_NAMES = 20  # in a record
LONGEST_ERROR = 1000  # characters
MINUTE = 60.0  # seconds
MOST_REFUSED, MOST_FAILED = 2, 20  # in that time, of one user and method
NOBODY = (1 << 32) - 1  # AUDIT_UID_UNSET


def command(peer: Peer, request: Request, outcome: str, error: str) -> dict[str, Any]:
    """The fields of a `command` record: of bounded size for any request."""
    params = {name: value for name, value in request.params.items() if name != "token"}
    if "command" in params:
        params["command"] = redact.argv(params["command"])
    names = params.pop("names", None) or ([params.pop("name")] if "name" in params else [])
    more = {"more": len(names) - MOST_NAMES} if len(names) > MOST_NAMES else {}
    return {
        "method": request.method,
        "names": names[:MOST_NAMES],
        **more,
        "params": params,
        **who(peer),
        "took_s": round(time.monotonic() - request.at, 3),
        "outcome": outcome,
        "error": error[:LONGEST_ERROR],
    }


class Audit:
    """Who gave a command, for the ledger; bounded so that refused requests cannot push out others' records.

    Of an operator's refused or failed commands, a limited number a minute is recorded singly, and the rest as one.
    """

    def __init__(
        self, record: Callable[[dict[str, Any]], object], later: Callable[[float, Callable[[], object]], object]
    ) -> None:
        """`record` writes down fields of a `command` record; `later(seconds, act)` has `act` called."""
        self._record = record
        self._later = later
        self._counts: dict[tuple[int | str, str, str], int] = {}  # of this minute: who, method, outcome
        self._last: dict[tuple[int | str, str, str], dict[str, Any]] = {}  # and the last that was not written

    def __call__(self, peer: Peer, request: Request, outcome: str, error: str) -> None:
        """A request was answered."""
        if outcome == "done" or (peer.role == ADMIN and not peer.via):
            self._record(command(peer, request, outcome, error))
            return
        key = (peer.who, request.method, outcome)
        if not self._counts:
            self._later(MINUTE, self._settle)
        self._counts[key] = self._counts.get(key, 0) + 1
        if self._counts[key] <= (MOST_REFUSED if outcome == "refused" else MOST_FAILED):
            self._record(command(peer, request, outcome, error))
        elif key not in self._last:
            self._last[key] = command(peer, request, outcome, error)

    def _settle(self) -> None:
        counts, last = self._counts, self._last
        self._counts, self._last = {}, {}
        for key, fields in last.items():
            most = MOST_REFUSED if key[2] == "refused" else MOST_FAILED
            self._record({**fields, "times": counts[key] - most})


def who(peer: Peer) -> dict[str, Any]:
    """The peer: user, process, terminal, role; or the unit of ours that asks, and for whom."""
    if peer.via:
        where = {"from": peer.address} if peer.address else {}
        return {"user": peer.user or peer.via, "via": peer.via, **where, "role": peer.role}
    login = _login(peer.pid)
    return {
        "uid": peer.uid,
        "gid": peer.gid,
        "user": user_name(peer.uid),
        "login": user_name(login) if login not in {peer.uid, None} else "",
        "peer_pid": peer.pid,
        "comm": _comm(peer.pid),
        "tty": _tty(peer.pid),
        "role": peer.role,
    }


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="backslashreplace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def _login(pid: int) -> int | None:
    """The user who logged in, whatever identity the process has since taken; None where the kernel does not keep that,
    or nobody had."""
    try:
        with open(f"/proc/{pid}/loginuid", encoding="ascii") as file:
            uid = int(file.read())
    except (OSError, ValueError):
        return None
    return None if uid == NOBODY else uid


def _tty(pid: int) -> str:
    """pts/3, tty1, or "" for a process without a terminal."""
    fields = processes.stat(pid)
    number = int(fields[4]) if fields is not None else 0
    major, minor = os.major(number), os.minor(number)
    if 136 <= major <= 143:  # UNIX98_PTY_SLAVE_MAJOR and its seven successors
        return f"pts/{(major - 136) * 256 + minor}"
    return f"tty{minor}" if major == 4 and minor < 64 else f"{major}:{minor}" if number else ""
