"""Doing something as another user, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable


def as_user(uid: int, act: Callable[[], object]) -> str:
    """Have user `uid`, of no group but its own, do it. Returns what it raised, as text; "" if nothing. Needs root."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act()
        except BaseException as error:  # nothing of the child goes on
            os.write(writer, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        told = file.read()
    os.waitpid(pid, 0)
    return told
