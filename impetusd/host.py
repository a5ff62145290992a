"""What this machine is, as checking a configuration needs to know it: the impure counterpart of `core.model.Host`."""

from __future__ import annotations

import grp
import os
import pwd
from importlib.util import find_spec

from impetusd.core.access import Person
from impetusd.core.model import Access, Host
from impetusd.core.protocol import ADMIN, OPERATOR, VIEWER


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


def people(access: Access) -> list[Person]:
    """Those of whom `access` speaks, as this host knows them now; who is unknown by now is left out."""
    found = []
    for role, words in ((VIEWER, access.viewers), (OPERATOR, access.operators), (ADMIN, access.admins)):
        for word in words:
            name = word.removeprefix("@")
            try:
                if name != word:
                    gid = int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
                    found.append(Person(role, word, None, frozenset({gid})))
                    continue
                user = _user(name)
                gids = os.getgrouplist(user.pw_name, user.pw_gid)
                found.append(Person(role, word, user.pw_uid, frozenset(gids)))
            except (KeyError, ValueError, OverflowError):
                if name == word and name.isdecimal():  # a number that has no name
                    found.append(Person(role, word, int(name), frozenset()))
    return found


def _user(name: str) -> pwd.struct_passwd:
    return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)


def _user_exists(name: str) -> bool:
    """Whether `name` is a user, by name or by number."""
    try:
        _user(name)
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
