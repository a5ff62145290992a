"""Who gave a command, for the ledger: what /proc tells of the peer while it still waits for the answer."""

from __future__ import annotations

import os
import time
from typing import Any

from impetusd.core.protocol import Request
from impetusd.host import user_name
from impetusd.supervisor import processes
from impetusd.supervisor.control import Peer

NOBODY = (1 << 32) - 1  # AUDIT_UID_UNSET


def command(peer: Peer, request: Request, outcome: str, error: str) -> dict[str, Any]:
    """The fields of a `command` record."""
    params = {name: value for name, value in request.params.items() if name != "token"}
    return {
        "method": request.method,
        "names": params.pop("names", None) or ([params.pop("name")] if "name" in params else []),
        "params": params,
        **who(peer),
        "took_s": round(time.monotonic() - request.at, 3),
        "outcome": outcome,
        "error": error,
    }


def who(peer: Peer) -> dict[str, Any]:
    """The peer: user, process, terminal, role."""
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
    """Who had logged in, and became somebody else since; None where the kernel does not keep that, or nobody had."""
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
