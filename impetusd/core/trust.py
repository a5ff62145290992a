"""Who else could have written a file that impetusd goes by."""

from __future__ import annotations

import stat


def distrusted(uid: int, gid: int, mode: int, owner: int) -> str:
    """Why not to go by a file with these numbers; "" if one may. `owner` is who may have files besides root.

    A group whose number is the owner's is his own, as Debian and Red Hat make one for each user. In a folder with the
    sticky bit others may make files, and not replace this one.
    """
    if uid not in {0, owner}:
        return f"it belongs to user {uid}"
    if stat.S_ISDIR(mode) and mode & stat.S_ISVTX:
        return ""
    if mode & stat.S_IWOTH:
        return "every user may write it"
    if mode & stat.S_IWGRP and gid not in {0, uid}:
        return f"the group {gid} may write it"
    return ""
