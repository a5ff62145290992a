"""What this machine is, as checking a configuration needs to know it: the impure counterpart of `core.model.Host`."""

from __future__ import annotations

import grp
import os
import pwd
from importlib.util import find_spec

from impetusd.core.model import Host


def this_host() -> Host:
    """The machine and the user that this process runs as; `cpus` are those that it may run on, not all there are."""
    return Host(
        euid=os.geteuid(),
        cpus=len(os.sched_getaffinity(0)),
        user_exists=_user_exists,
        group_exists=_group_exists,
        has_watch=find_spec("watchfiles") is not None,
    )


def user_name(uid: int) -> str:
    """The name of a user; its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """The name of a group; its number where it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _user_exists(name: str) -> bool:
    """Whether `name` is a user, by name or by number."""
    try:
        pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, ValueError, OverflowError):
        return False
    return True


def _group_exists(name: str) -> bool:
    """Whether `name` is a group, by name or by number."""
    try:
        grp.getgrgid(int(name)) if name.isdecimal() else grp.getgrnam(name)
    except (KeyError, ValueError, OverflowError):
        return False
    return True
