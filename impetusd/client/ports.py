"""Who listens on a TCP port of this host, as /proc shows it. Reads much of /proc: do not call it in an event loop."""

from __future__ import annotations

import os

from impetusd.client import instance

LISTEN = "0A"  # the state in /proc/net/tcp: include/net/tcp_states.h TCP_LISTEN


def holder(port: int) -> str:
    """As "pid 4711 (nginx)", or the user where this one may not see more; "" where nobody listens."""
    sockets = listening(port)
    if not sockets:
        return ""
    pids = sorted(_holding({f"socket:[{inode}]" for inode in sockets}))
    for pid in pids:
        if (found := instance.daemon(pid)) is not None:
            return f"the impetusd of {_shown(found.conf)} (pid {pid})"
    if pids:
        return f"pid {pids[0]} ({_shown(_name(pids[0]))})"
    return f"a process of {_user(next(iter(sockets.values())))}"


def listening(port: int) -> dict[str, int]:
    """The sockets that listen on this port, by inode, each with its owner's uid."""
    found = {}
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/net/{table}", encoding="ascii") as file:
                next(file, "")
                for line in file:
                    fields = line.split()
                    if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                        found[fields[9]] = int(fields[7])
        except (OSError, ValueError, IndexError):
            continue
    return found


def _holding(links: set[str]) -> set[int]:
    pids = set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        folder = f"/proc/{name}/fd"
        try:
            for number in os.listdir(folder):
                if os.readlink(f"{folder}/{number}") in links:
                    pids.add(int(name))
                    break
        except OSError:
            continue
    return pids


def _shown(text: str) -> str:
    """Another user's process's own text, made safe as a part of one line."""
    return "".join(each if each.isprintable() else "?" for each in text[:200])


def _name(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "gone"


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
