"""Find the process that listens on a TCP port, in /proc. This reads much of /proc: do not call it in an event loop."""

from __future__ import annotations

from impetusd.client import instance
from impetusd.linux import inet, procfs


def holder(port: int) -> str:
    """As "pid 4711 (nginx)", or the user where this one may not see more; "" where nobody listens."""
    sockets = listening(port)
    if not sockets:
        return ""
    pids = sorted(pid for pid in procfs.pids() if not inet.held(pid).keys().isdisjoint(sockets))
    for pid in pids:
        if (found := instance.daemon(pid)) is not None:
            return f"the impetusd of {_shown(found.conf)} (pid {pid})"
    if pids:
        return f"pid {pids[0]} ({_shown(_name(pids[0]))})"
    return f"a process of {_user(next(iter(sockets.values())))}"


def listening(port: int) -> dict[int, int]:
    """The sockets that listen on this port, by inode, each with its owner's uid; none where /proc does not say."""
    try:
        return {each.inode: each.uid for each in inet.tcp() if each.state == inet.LISTEN and each.port == port}
    except (OSError, ValueError, IndexError):
        return {}


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
