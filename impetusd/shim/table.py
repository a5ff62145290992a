"""What a shim that was killed leaves for the next: a file in run_dir with all that it knew, as of its last message.

A line of JSON for each round that changed something, behind those that tell everything; when the file has grown it is begun
anew. It has to outlive processes, not the host, so nothing waits for a disk (root's run_dir is in memory anyway). A line
that was cut off by SIGKILL tells of a round that was not carried out. After an orderly end there is no file. One that is
removed or changed by somebody else while the shim lives is written anew at once; a damaged one is set aside.

    version, boot      of this format, and of the host: what was written before a reboot means nothing
    instance           whose it is: see `shim.leftovers`
    life               a name for this shim and those that go on for it; its children have it in their environment
    shim, supervisor   [pid, start time] of those that wrote it
    baseline           what children get: see `main.measured`
    blobs, kept, children   by key, name and number; null where one is gone. Of a descriptor it says [device, inode, mode]
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import time
from itertools import islice

from impetusd.linux import proc
from impetusd.linux.inotify import Inotify
from impetusd.shim import leftovers
from impetusd.shim.child import Child
from impetusd.shim.leftovers import boot_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from impetusd.shim.main import Shim

VERSION = 1
NAME = "table"
DAMAGED = ".bad"  # what is appended to the name of one that cannot be used
GROWTH = 1 << 20  # bytes added to twice what everything takes, until it is begun anew
AGAIN = (
    5.0  # seconds until a file that cannot be written is tried again, and until one in no watched folder is looked at
)
WRITTEN_WITHIN = 1.0  # seconds that a disk may take at the end
PARTS = ("blobs", "kept", "children")
AT_ONCE = 50  # of a part in one line


def ident(fd: int) -> list[int]:
    """What tells an open file from every other, and how it is open."""
    found = os.fstat(fd)
    return [found.st_dev, found.st_ino, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]


def ident_of(path: str) -> list[int]:
    """What tells a folder from every other file."""
    found = os.stat(path)
    return [found.st_dev, found.st_ino, os.O_RDONLY]


def _line(told: dict[str, Any]) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


class Table:
    """The file. What changes is noted and written with `write`, once a round."""

    def __init__(self, folder: str, state_dir: str, life: str = "") -> None:
        """`state_dir`: of the instance. `life`: the one that is gone on with; "" begins another."""
        self.life = life or leftovers.new_life(state_dir)
        self.watched = Inotify()
        self._state_dir = state_dir
        self._instance = leftovers.instance(state_dir)
        self._path = path_in(folder)
        self._begun = False  # the life was remembered in state_dir
        self._fd = -1
        self._size = self._full = 0
        self._changed = 0  # st_mtime_ns as of our last write
        self._look_at = 0.0  # when (monotonic) to look whether the file is still there, and as it was written
        self.news: dict[str, Any] = {}

    @property
    def due(self) -> float:
        """When (monotonic) `write` is to be called though nothing has changed; infinity where the kernel tells."""
        return self._look_at if self._fd < 0 or not self.watched.on else math.inf

    def noticed(self) -> None:
        """Something in the folder has changed."""
        other, written = self.watched.changed(NAME)
        if other:
            self._look_at = 0.0
        if written:
            self._changed = -1  # whatever its time says: the clock of files is coarse

    def note(self, part: str, key: Any, value: Any) -> None:
        """`key` of a part is `value` from now on; None: it is gone."""
        self.news.setdefault(part, {})[key] = value

    def touch(self, child: Child) -> None:
        """A child has changed."""
        self.note("children", child.process, child)

    def write(self, shim: Shim) -> None:
        """Write what has changed. A failure is reported once, and everything is written once it can be."""
        now = time.monotonic()
        looking = now >= self._look_at
        if not (self.news or looking) or (self._fd < 0 and not looking):
            return
        reported = self._fd < 0
        for last in (False, True):
            try:
                self._write(shim, now, looking=looking)
                return
            except OSError as error:
                if self._fd >= 0:
                    os.close(self._fd)
                    self._fd = -1
                if isinstance(error, FileNotFoundError) and not last:
                    continue  # its folder went while it was made, as when somebody removes all that is in there
                fault = f"{self._path} cannot be written: {error.strerror}"
                self._look_at = now + AGAIN
                if not reported:
                    shim.log(f"{fault}; trying again every {AGAIN:g} s")
                shim.trouble(
                    NAME, f"{fault}; if impetusd is killed now, the next one may not recognize running programs"
                )
                return

    def _write(self, shim: Shim, now: float, *, looking: bool) -> None:
        grown = self._fd < 0 or self._size > 2 * self._full + GROWTH
        # Before each line, too: after it, the file's time is that of the line.
        if grown or ((looking or not self._is_as_written()) and not self._is_intact(shim)):
            self._begin(shim, now)
            return
        if not self.news:
            return
        children = {number: child and child.dump() for number, child in self.news.pop("children", {}).items()}
        line = _line({**self.news, "children": children})
        self.news = {}
        self._add(line)

    def _is_as_written(self) -> bool:
        ours = os.fstat(self._fd)
        return (ours.st_size, ours.st_mtime_ns) == (self._size, self._changed)

    def _is_intact(self, shim: Shim) -> bool:
        """Whether the file is there and holds what was written. One that somebody else has changed is set aside."""
        self._look_at = time.monotonic() + AGAIN
        if not self.watched.on:  # the folder was made anew, perhaps by us, before it was known that the other had gone
            self.watched.add(os.path.dirname(self._path))
        ours = os.fstat(self._fd)
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            shim.log(f"{self._path} was removed: written anew")
            return False
        if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino) and self._is_as_written():
            return True
        shim.log(f"{self._path} was changed by another process: {set_aside(self._path)}, and written anew")
        return False

    def _begin(self, shim: Shim, now: float) -> None:
        """Everything, in a file that takes the place of the one before when it is whole."""
        own = proc.read(os.getpid())
        told = {
            "version": VERSION,
            "boot": boot_id(),
            "life": self.life,
            "instance": self._instance,
            "shim": [os.getpid(), own.started if own else 0],
            "supervisor": [shim.supervisor.pid, shim.supervisor.started] if shim.supervisor else None,
            "baseline": shim.baseline,
            "shutdown": shim.shutdown,
            **{part: {} for part in PARTS},
        }
        if not self._begun:  # it is on a disk, which may hang later
            with contextlib.suppress(OSError):  # only the second memory
                leftovers.begin(self._state_dir, self.life)
            self._begun = True
        os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
        self.watched.add(os.path.dirname(self._path))
        aside = f"{self._path}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        before, self._fd = self._fd, fd
        try:
            self._size, self.news, self._look_at = 0, {}, now + AGAIN
            self._add(_line(told))
            self._add_all("blobs", shim.blobs, lambda blob: blob)
            self._add_all("kept", shim.kept, ident)
            self._add_all("children", shim.children, lambda child: child.dump())
            self._full = self._size
            os.rename(aside, self._path)
        finally:
            if before >= 0:  # not earlier: somebody else's closing it is what tells that it was changed
                os.close(before)
        shim.trouble(NAME, "")

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
        self._changed = os.fstat(self._fd).st_mtime_ns

    def close(self) -> None:
        """Let go of the file, which stays, and of the watch."""
        for fd in (self._fd, self.watched.fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self.watched.fd = -1

    def remove(self, lock: int) -> None:
        """An orderly end: nothing is left to be known. `lock`: the instance's."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        with contextlib.suppress(OSError):
            leftovers.end(self._state_dir, self.life, lock, WRITTEN_WITHIN)


def path_in(folder: str) -> str:
    """Where the table is, of a run_dir."""
    return f"{folder}/{NAME}"


def set_aside(path: str) -> str:
    """Rename a file that cannot be used; what became of it, for a sentence."""
    aside = f"{path}{DAMAGED}"
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"it cannot be set aside ({error.strerror})"
    return f"set aside as {aside}"


class Found:
    """What the shim before us has left in `folder`. `told` is None where there is nothing that can be used.

    `fault`: why the file cannot be used, "" where there is none of this boot. `other`: the table, if it is another
    instance's. `written`: time.time() of its last line.
    """

    __slots__ = ("fault", "other", "told", "written")

    def __init__(
        self,
        told: dict[str, Any] | None,
        fault: str = "",
        *,
        written: float = 0.0,
        other: dict[str, Any] | None = None,
    ) -> None:
        self.told = told
        self.fault = fault
        self.written = written
        self.other = other


def examine(folder: str, state_dir: str) -> Found:
    """The table in `folder`, of the instance that lives in `state_dir`."""
    path = path_in(folder)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return Found(None)
    except OSError as error:
        return Found(None, f"its table {path} cannot be read ({error.strerror})")
    with open(fd, "rb") as file:
        there = os.fstat(fd)
        if there.st_uid != os.geteuid():
            return Found(None, f"its table {path} belongs to another user (uid {there.st_uid})")
        try:
            told = _parse(file.read().split(b"\n")[:-1])  # what follows the last newline is cut off
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError) as error:
            return Found(None, f"its table {path} is damaged ({_brief(error)})")
    if told["boot"] != boot_id():
        return Found(None)
    if told.get("instance", leftovers.instance(state_dir)) != leftovers.instance(state_dir):
        return Found(None, f"the table {path} is of another instance than that in {state_dir}", other=told)
    return Found(told, written=there.st_mtime)


def read(folder: str, state_dir: str) -> dict[str, Any] | None:
    """What the shim before us has left, if that was in this boot, by this user, in this format and of this instance."""
    return examine(folder, state_dir).told


def _brief(error: Exception) -> str:
    if isinstance(error, IndexError):
        return "it is empty or cut off"
    return f"{type(error).__name__}: {str(error)[:100]}"


def _parse(lines: list[bytes]) -> dict[str, Any]:
    """The table of its lines. Raises much for anything that this code does not write; unknown fields are left alone."""
    told: dict[str, Any] = json.loads(lines[0])
    if told["version"] != VERSION:
        raise ValueError(f"format {told['version']!r}; this impetusd knows {VERSION}")
    for number, line in enumerate(lines):
        try:
            news = told if number == 0 else json.loads(line)
            for part in PARTS:
                entries = news[part] if number == 0 else news.pop(part, {})
                for key, value in entries.items():
                    if value is not None:
                        CHECKS[part](key, value)
                if number:
                    told[part].update(entries)
            told.update(news)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number + 1} does not have its shape: {error!r}") from None
        except ValueError as error:
            raise ValueError(f"line {number + 1}: {error}") from None
    if not (isinstance(told["boot"], str) and isinstance(told["life"], str) and told["life"]):
        raise TypeError("boot and life are no strings")
    _numbers(told["shim"], 2)
    if told["supervisor"] is not None:
        _numbers(told["supervisor"], 2)
    _numbers([told["baseline"]["oom_score"], *told["baseline"]["nofile"]], 3)
    told["shutdown"] = bool(told["shutdown"])
    for part in PARTS:
        told[part] = {key: value for key, value in told[part].items() if value is not None}
    return told


def _numbers(found: Any, count: int) -> None:
    if not isinstance(found, list) or [type(each) for each in found] != [int] * count:
        raise TypeError(f"{found!r} are not {count} numbers")


def _check_blob(_: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")


def _check_child(key: str, value: Any) -> None:
    if str(Child.load(value).process) != key:
        raise ValueError(f"child {key} calls itself {value['process']}")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "blobs": _check_blob,
    "kept": lambda _, value: _numbers(value, 3),
    "children": _check_child,
}
