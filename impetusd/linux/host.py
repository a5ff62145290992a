"""Facts about this machine for checking a configuration: the impure side of `core.config.model.Host`."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import sys
from importlib.machinery import PathFinder
from typing import NamedTuple

import impetusd
from impetusd.core.access import Person
from impetusd.core.config.model import Access, Host, number_of
from impetusd.core.protocol import ADMIN, OPERATOR, VIEWER


def this_host() -> Host:
    """The machine and the user that this process runs as; `cpus` are those that it may run on, not all there are."""
    return Host(
        euid=os.geteuid(),
        cpus=len(os.sched_getaffinity(0)),
        user_exists=_user_exists,
        group_exists=_group_exists,
        has_watch=PathFinder.find_spec("watchfiles") is not None,
        closed=closed_to_others(sys.executable) or closed_to_others(impetusd.__file__),
    )


def closed_to_others(path: str, needed: int = stat.S_IROTH) -> str:
    """A folder on the path to a file that users without special rights may not enter, or the file itself if they lack
    the `needed` access; "" if there is none. Of a path with links both ways are looked at. Raises OSError.
    """
    for place in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        rights = needed
        while place != "/":
            if not os.stat(place).st_mode & rights:
                return place
            place, rights = os.path.dirname(place), stat.S_IXOTH  # the way up
    return ""


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
    """The users and groups in `access`, as this host knows them now; unknown ones are left out."""
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


class Account(NamedTuple):
    """A user, whether the host knows it or not."""

    uid: int
    gid: int
    name: str  # "" if the host knows none
    home: str
    shell: str


def account(user: str) -> Account:
    """By name or by number; a number needs no name, and its group is the same number then. Raises KeyError."""
    try:
        found = _user(user)
    except (KeyError, ValueError, OverflowError):
        number = number_of(user)
        if number is None:
            raise KeyError(user) from None
        return Account(number, number, "", "/", "/bin/sh")
    return Account(found.pw_uid, found.pw_gid, found.pw_name, found.pw_dir, found.pw_shell or "/bin/sh")


def gid_of(group: str) -> int:
    """By name or by number. Raises KeyError."""
    number = number_of(group)
    return grp.getgrnam(group).gr_gid if number is None else number


def groups_of(account: Account, gid: int) -> list[int]:
    """Those that a process of this user has, with `gid` as its first."""
    return sorted(set(os.getgrouplist(account.name, gid))) if account.name else [gid]


def _user(name: str) -> pwd.struct_passwd:
    return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)


def _user_exists(name: str) -> bool:
    """Whether it can have a process: a user by name, or any number."""
    try:
        account(name)
    except (KeyError, ValueError):
        return False
    return True


def _group_exists(name: str) -> bool:
    """The same of a group."""
    try:
        gid_of(name)
    except (KeyError, ValueError):
        return False
    return True
