"""Owner and mode of log files, if [impetusd] sets them (log_owner, log_mode).

Files that are open are changed at once, others when they are opened; a file that cannot be changed is reported once,
and written all the same.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import field

from impetusd.core.config.model import LogAccess, user_and_group
from impetusd.core.values import dataclass
from impetusd.files.folders import folder_of, is_shared, open_file, open_folder
from impetusd.linux import host
from impetusd.supervisor.logs import rotation

NEW = 0o640  # the mode of a new file where nothing is said


@dataclass(frozen=True, slots=True)
class Rights:
    """`mode`, `uid` and `gid` of log files; None and -1: as they are."""

    mode: int | None = None
    uid: int = -1
    gid: int = -1
    refused: set[str] = field(default_factory=set)  # paths of which it has been said

    def given(self, fd: int, path: str) -> list[str]:
        """Set them on an open log file and its rotated files. Returns messages for the operator.

        If others may create files there, a non-empty one may be another user's file under the log's name.
        """
        try:
            with folder_of(path) as (folder, _):
                shared = is_shared(folder)
            if shared and os.fstat(fd).st_size and self._lacks(os.fstat(fd)):
                text = "its folder is writable by others; they apply to the next new file"
                return self._refuse(path, f"log_owner and log_mode of {path} are not set: {text}")
            self._give(fd)
            if shared:
                return []
            for each in [name for names in rotation.numbered(path).values() for name in names]:
                with contextlib.suppress(FileNotFoundError):  # rotated or compressed meanwhile
                    old = open_file(each, os.O_RDONLY | os.O_NONBLOCK)
                    try:
                        self._give(old)
                    finally:
                        os.close(old)
        except OSError as error:
            return self._refuse(path, f"log_owner and log_mode of {path} cannot be set: {error.strerror or error}")
        return []

    def _give(self, fd: int) -> None:
        there = os.fstat(fd)
        if not stat.S_ISREG(there.st_mode) or not self._lacks(there):
            return
        try:
            os.fchown(fd, self.uid, self.gid)
        finally:
            if self.mode is not None:
                os.fchmod(fd, self.mode)

    def _lacks(self, there: os.stat_result) -> bool:
        """Whether any of them is still to be set."""
        owned = self.uid in {-1, there.st_uid} and self.gid in {-1, there.st_gid}
        return not owned or self.mode not in {None, stat.S_IMODE(there.st_mode)}

    def folder_given(self, path: str) -> list[str]:
        """Let readers of files in log_dir enter it. Returns messages for the operator.

        Only a folder owned by us and our group is changed: another, like /var/log, is not ours to open up.
        """
        mode = NEW if self.mode is None else self.mode
        try:
            folder = open_folder(path)
            try:
                there = os.fstat(folder)
                more = 0o050 if mode & 0o040 else 0
                more |= 0o005 if mode & 0o004 else 0
                gid = there.st_gid if self.gid == -1 or there.st_mode & 0o005 == 0o005 else self.gid
                if gid == there.st_gid and there.st_mode & more == more:
                    return []
                if there.st_uid != os.geteuid() or there.st_gid not in {os.getegid(), gid}:
                    return self._refuse(
                        path, f"{path} does not belong to impetusd, so log readers were not given access to it"
                    )
                opened = f"/proc/self/fd/{folder}"
                os.chown(opened, -1, gid)
                os.chmod(opened, stat.S_IMODE(there.st_mode) | more)
            finally:
                os.close(folder)
        except OSError as error:
            return self._refuse(path, f"log readers cannot be given access to {path}: {error.strerror or error}")
        return []

    def _refuse(self, path: str, text: str) -> list[str]:
        if path in self.refused:
            return []
        self.refused.add(path)
        return [text]


def rights_of(access: LogAccess) -> Rights:
    """Looks them up on the host, which may take any time. Raises KeyError, ValueError if there is no such user or
    group."""
    user, group = user_and_group(access.log_owner)
    person = host.account(user) if user else None
    gid = host.gid_of(group) if group else person.gid if person is not None else -1
    return Rights(access.log_mode, person.uid if person is not None else -1, gid)
