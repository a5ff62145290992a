"""Roles on the control socket, and whether file permissions let their users connect. Pure.

A role is granted to a user by name or number, or to a group prefixed with @. The daemon looks the names up once, when
it comes up or when its configuration changes, so no peer waits for a directory server.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from impetusd.core.protocol import ADMIN, ROLES
from impetusd.core.values import dataclass

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

# The extended attribute system.posix_acl_access: a version, then tag, permissions and id of each entry.
ACL = "system.posix_acl_access"
_VERSION, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NOBODY = 0xFFFFFFFF  # the id of entries that have none
READ, WRITE, SEARCH = 4, 2, 1


@dataclass(frozen=True, slots=True)
class Person:
    """One that the INI file gives a role to: a user with the groups it is in, or (uid None) any member of a group."""

    role: str
    said: str  # as it stands in the file: alice, 1000, @wheel
    uid: int | None
    gids: frozenset[int]


@dataclass(frozen=True, slots=True)
class Inode:
    """The attributes that decide access to a file or directory. `acl` is the extended attribute, b"" for none."""

    path: str
    uid: int
    gid: int
    mode: int
    acl: bytes = b""


def role_of(uid: int, gids: Collection[int], own: int, people: Iterable[Person]) -> str:
    """The highest of its roles; "" for a peer that has none. `own` is the user that the daemon runs as."""
    if uid in {0, own}:
        return ADMIN
    given = {
        person.role
        for person in people
        if (uid == person.uid if person.uid is not None else not person.gids.isdisjoint(gids))
    }
    return next((role for role in reversed(ROLES) if role in given), "")


def acl_of(people: Iterable[Person], own: int) -> bytes:
    """The access list of a socket that its owner and these may connect to, and nobody else."""
    people = list(people)
    uids = sorted({person.uid for person in people if person.uid is not None} - {0, own})
    gids = sorted({gid for person in people if person.uid is None for gid in person.gids})
    entries = [(_USER_OBJ, 6, _NOBODY), *((_USER, 6, uid) for uid in uids)]
    entries += [(_GROUP_OBJ, 0, _NOBODY), *((_GROUP, 6, gid) for gid in gids)]
    if uids or gids:
        entries.append((_MASK, 6, _NOBODY))
    entries.append((_OTHER, 0, _NOBODY))
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def permits(inode: Inode, want: int, uid: int | None, gids: Collection[int]) -> bool:
    """The access that the kernel grants this user (None: a user who is neither the owner nor named); acl(5)."""
    if uid == 0:
        return True
    if uid == inode.uid:
        return (inode.mode >> 6) & want == want
    entries = list(_entries(inode.acl))
    if not entries:
        bits = inode.mode >> 3 if inode.gid in gids else inode.mode
        return bits & want == want
    mask = next((allowed for tag, allowed, _ in entries if tag == _MASK), 7)
    named = next((allowed for tag, allowed, who in entries if tag == _USER and who == uid), None)
    if named is not None:
        return named & mask & want == want
    groups = [
        allowed
        for tag, allowed, who in entries
        if (tag == _GROUP and who in gids) or (tag == _GROUP_OBJ and inode.gid in gids)
    ]
    if groups:
        return any(allowed & mask & want == want for allowed in groups)
    return inode.mode & want == want


def writers(acl: bytes) -> tuple[set[int], set[int]]:
    """The users and groups that an access list names, and lets write."""
    entries = list(_entries(acl))
    mask = next((allowed for tag, allowed, _ in entries if tag == _MASK), 7)
    named = [(tag, who) for tag, allowed, who in entries if allowed & mask & WRITE]
    return {who for tag, who in named if tag == _USER}, {who for tag, who in named if tag == _GROUP}


def kept_out(people: Iterable[Person], way: Iterable[tuple[Inode, int]]) -> list[tuple[Person, Inode]]:
    """The users who cannot reach the end of the path `way` (each element with the access needed), with the first
    obstacle.
    """
    way = list(way)
    found = ((person, _obstacle(person, way)) for person in people)
    return [(person, inode) for person, inode in found if inode is not None]


def _obstacle(person: Person, way: Iterable[tuple[Inode, int]]) -> Inode | None:
    return next((inode for inode, want in way if not permits(inode, want, person.uid, person.gids)), None)


def _entries(acl: bytes) -> Iterator[tuple[int, int, int]]:
    if len(acl) >= _VERSION.size and (len(acl) - _VERSION.size) % _ENTRY.size == 0:
        yield from _ENTRY.iter_unpack(acl[_VERSION.size :])
