"""Check whether another user could have written or replaced a file that impetusd relies on. Pure."""

from __future__ import annotations

import stat
from collections import namedtuple

TYPE_CHECKING = False  # typing takes 2 ms to import, and `impetusd status` comes by here
if TYPE_CHECKING:
    from collections.abc import Collection
    from os import stat_result


class Trust(namedtuple("Trust", ("uid", "gids"), defaults=(0, frozenset()))):  # noqa: PYI024 (typing)
    """Whose files are trusted: root's, and those of user `uid`. The groups `gids` may write to folders on the way,
    too."""

    __slots__ = ()
    uid: int
    gids: frozenset[int]


class Fault(namedtuple("Fault", ("what", "command"))):  # noqa: PYI024 (typing)
    """Why a file is not trusted, as a clause; and the command that fixes it."""

    __slots__ = ()
    what: str
    command: str

    @property
    def fix(self) -> str:
        """What to do, as an imperative."""
        return f"run: {self.command}"


def distrusted(uid: int, gid: int, mode: int, owner: int, gids: Collection[int] = ()) -> str:
    """Why a file with these numbers is not trusted, as a clause without its object; "" if it is.

    `owner` may have it besides root; the groups `gids` may write to it. A group whose number is the owner's is his own,
    as Debian and Red Hat make one for each user. In a folder with the sticky bit others may create files but replace
    none.
    """
    if uid not in {0, owner}:
        return f"belongs to user {uid}"
    if stat.S_ISDIR(mode) and mode & stat.S_ISVTX:
        return ""
    if mode & stat.S_IWOTH:
        return "every user can write"
    if mode & stat.S_IWGRP and gid not in {0, uid, owner, *gids}:
        return f"group {gid} can write"
    return ""


def file_fault(path: str, there: stat_result, trust: Trust) -> Fault | None:
    """Why the file itself is not trusted; None if it is."""
    what = distrusted(there.st_uid, there.st_gid, there.st_mode, trust.uid)
    if there.st_uid not in {0, trust.uid}:
        return Fault(f"it {what}", f"chown {trust.uid or 'root'} {path}")
    return Fault(f"{what} it", f"chmod go-w {path}") if what else None


def folder_fault(path: str, folder: str, there: stat_result, trust: Trust) -> Fault | None:
    """The same for a folder on the way to the file at `path`: a user who may write to it can replace the file."""
    what = distrusted(there.st_uid, there.st_gid, there.st_mode, trust.uid, trust.gids)
    if there.st_uid not in {0, trust.uid}:
        return Fault(f"the folder {folder} {what}", _elsewhere(path, trust))
    return Fault(f"{what} to the folder {folder}", f"chmod go-w {folder}") if what else None


def link_fault(path: str, link: str, there: stat_result, trust: Trust) -> Fault | None:
    """The same for a symbolic link on the way: its owner can point it elsewhere."""
    if there.st_uid in {0, trust.uid}:
        return None
    return Fault(f"the link {link} belongs to user {there.st_uid}", _elsewhere(path, trust))


def second_name(path: str) -> Fault:
    """The same for a file with a second name in a folder where others may add one."""
    copied = f"cp -p {path} {path}.new && mv {path}.new {path}"
    return Fault("it has a second hard link, which another user may have created", copied)


def _elsewhere(path: str, trust: Trust) -> str:
    name = path.rpartition("/")[2]
    if trust.uid:
        return f"install -D -m 600 -o {trust.uid} {path} /etc/impetusd/{name} and use that file instead"
    return f"mkdir -p /etc/impetusd && cp {path} /etc/impetusd/ and use that file; or run impetusd as that user"
