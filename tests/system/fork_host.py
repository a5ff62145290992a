"""Processes whose interpreter has been started, and has imported, before: each is a fork of this one, and a child of whoever
asks. `commanding.Host` asks; argument 1 is the descriptor of its connection.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import socket
import sys
from typing import Any

from impetusd.linux import clone, libc

CLONE_PARENT = 0x8000
PR_SET_DUMPABLE = 4
MOST = 253  # descriptors that the kernel takes in one message (SCM_MAX_FD)


def serve() -> None:
    """Returns in each child, which has the user, folder, environment, arguments and descriptors that were asked for; this process
    ends when nobody asks any more.
    """
    gc.collect()
    gc.freeze()
    asked = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, fds, _, _ = socket.recv_fds(asked, 1 << 20, MOST)
        if not message:
            os._exit(0)
        # By the system call: a fork of Python's would be this process's child, and whoever asked could not wait for it.
        pid = clone._clone3(clone._Arguments(flags=CLONE_PARENT), "")
        if pid == 0:
            break
        for fd in fds:
            os.close(fd)
        asked.send(b"%d" % pid)
    asked.close()
    _become(json.loads(message), fds)


def _become(wanted: dict[str, Any], fds: list[int]) -> None:
    numbers = wanted["fds"]
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, max(numbers) + 1) for fd in fds]  # none is where another is to be
    for fd in fds:
        os.close(fd)
    for fd, number in zip(high, numbers, strict=True):
        os.dup2(fd, number)
        os.close(fd)
    # As Python makes them, for what they are now: those from before took note of whether one can seek there.
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, encoding="utf-8", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    if wanted.get("user") is not None:
        _become_user(*wanted["user"])
    os.chdir(wanted["cwd"])
    for name in {*os.environ} - {"LC_CTYPE"}:  # which Python sets in the C locale, as this one did (PEP 538)
        del os.environ[name]
    os.environ.update(wanted["env"])
    sys.argv[:] = wanted["argv"]


def _become_user(uid: int, gid: int, groups: list[int]) -> None:
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    libc.function("prctl")(PR_SET_DUMPABLE, 1)  # as an exec does: its files in /proc are its user's
