"""What a shim that was killed leaves for the next: a file in run_dir with all that it knew, as of its last message.

A line of JSON for each round that changed something, behind those that tell everything; when the file has grown it is begun
anew. It has to outlive processes, not the host, so nothing waits for a disk (root's run_dir is in memory anyway). A line
that was cut off by SIGKILL tells of a round that was not carried out. After an orderly end there is no file.

    version, boot      of this format, and of the host: what was written before a reboot means nothing
    life               a name for this shim and those that go on for it; its children have it in their environment
    shim, supervisor   [pid, start time] of those that wrote it
    baseline           what children get: see `main.measured`
    blobs, kept, children   by key, name and number; null where one is gone. Of a descriptor it says [device, inode, mode]
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from itertools import islice

from impetusd.shim import tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from impetusd.shim.child import Child
    from impetusd.shim.main import Shim

VERSION = 1
NAME = "table"
GROWTH = 1 << 20  # bytes added to twice what everything takes, until it is begun anew
AGAIN = 5.0  # seconds until a file that was removed, or cannot be written, is made again
PARTS = ("blobs", "kept", "children")
AT_ONCE = 50  # of a part in one line


def boot_id() -> str:
    """The kernel's name for this boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def ident(fd: int) -> list[int]:
    """What tells an open file from every other, and how it is open."""
    found = os.fstat(fd)
    return [found.st_dev, found.st_ino, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


class Table:
    """The file. What changes is noted and written with `write`, once a round."""

    def __init__(self, folder: str, life: str = "") -> None:
        self.life = life or os.urandom(8).hex()
        self._path = f"{folder}/{NAME}"
        self._fd = -1
        self._size = self._full = 0
        self._look_at = 0.0  # when (monotonic) to look whether the file is still there
        self.news: dict[str, Any] = {}

    def note(self, part: str, key: Any, value: Any) -> None:
        """`key` of a part is `value` from now on; None: it is gone."""
        self.news.setdefault(part, {})[key] = value

    def touch(self, child: Child) -> None:
        """A child has changed."""
        self.note("children", child.process, child)

    def write(self, shim: Shim) -> None:
        """Write what has changed. A failure is told once, and mended later with everything."""
        now = time.monotonic()
        looking = now >= self._look_at
        if not (self.news or looking) or (self._fd < 0 and not looking):
            return
        try:
            if self._fd < 0 or self._size > 2 * self._full + GROWTH or (looking and self._is_gone()):
                self._begin(shim, now)
                return
            if not self.news:
                return
            children = {number: child and child.dump() for number, child in self.news.pop("children", {}).items()}
            line = _line({**self.news, "children": children})
            self.news = {}
            self._add(line)
        except OSError as error:
            self._look_at = now + AGAIN
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                shim.log(f"{self._path} cannot be written: {error.strerror}; trying again every {AGAIN:g} s")

    def _is_gone(self) -> bool:
        self._look_at = time.monotonic() + AGAIN
        try:
            found, ours = os.stat(self._path), os.fstat(self._fd)
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != (ours.st_dev, ours.st_ino)

    def _begin(self, shim: Shim, now: float) -> None:
        """Everything, in a file that takes the place of the one before when it is whole."""
        own = tree.read(os.getpid())
        told = {
            "version": VERSION,
            "boot": boot_id(),
            "life": self.life,
            "shim": [os.getpid(), own.started if own else 0],
            "supervisor": [shim.supervisor.pid, shim.supervisor.started] if shim.supervisor else None,
            "baseline": shim.baseline,
            "shutdown": shim.shutdown,
            **{part: {} for part in PARTS},
        }
        os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
        aside = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        before, self._fd = self._fd, fd
        if before >= 0:
            os.close(before)
        self._size, self.news, self._look_at = 0, {}, now + AGAIN
        self._add(_line(told))
        self._add_all("blobs", shim.blobs, lambda blob: blob)
        self._add_all("kept", shim.kept, ident)
        self._add_all("children", shim.children, lambda child: child.dump())
        self._full = self._size
        os.rename(aside, self._path)

    def _add_all(self, part: str, items: dict[Any, Any], told: Callable[[Any], Any]) -> None:
        """A few a line: what is built here at once stays with the process as memory that it once had."""
        keys = iter(items)
        while some := list(islice(keys, AT_ONCE)):
            self._add(_line({part: {key: told(items[key]) for key in some}}))

    def _add(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            view = view[os.write(self._fd, view) :]
        self._size += len(line)

    def remove(self) -> None:
        """An orderly end: nothing is left to be known."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)


def read(folder: str) -> dict[str, Any] | None:
    """What the shim before us has left, if that was in this boot, by this user and in this format."""
    try:
        fd = os.open(f"{folder}/{NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    with open(fd, "rb") as file:
        if os.fstat(fd).st_uid != os.geteuid():
            return None
        lines = file.read().split(b"\n")[:-1]  # what follows the last newline is cut off
    try:
        told: dict[str, Any] = json.loads(lines[0])
        if told["version"] != VERSION or told["boot"] != boot_id():
            return None
        for line in lines[1:]:
            news = json.loads(line)
            for part in PARTS:
                told[part].update(news.pop(part, {}))
            told.update(news)
    except (ValueError, KeyError, IndexError, AttributeError, OSError):
        return None
    for part in PARTS:
        told[part] = {key: value for key, value in told[part].items() if value is not None}
    return told
