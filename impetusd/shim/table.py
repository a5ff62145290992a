"""The state of the shim in a file in run_dir, as of its last message, from which a killed shim is restored.

The first lines have all of it; each round that changes something adds a line of JSON. When the file has grown, it is begun
anew. It has to outlive processes, not the host, so nothing waits for a disk (root's run_dir is in memory anyway). A line
that was cut off by SIGKILL belongs to a round that was not carried out. After an orderly end there is no file. One that is
removed or changed by somebody else while the shim lives is written anew at once; a damaged one is set aside.

    version, boot      of this format, and of the host: what was written before a reboot means nothing
    instance           whose it is: see `shim.leftovers`
    life               a name for this shim and those that take over from it; its children have it in their environment
    shim, supervisor   [pid, start time] of those that wrote it
    baseline           what children get: see `startup.measured`
    blobs, kept, children   by key, name and number; null where one is gone. A descriptor is [device, inode, mode]
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from itertools import islice

from impetusd import bare
from impetusd.linux import proc
from impetusd.linux.errors import suppress
from impetusd.linux.inotify import Inotify
from impetusd.linux.procfs import boot_id
from impetusd.shim import leftovers
from impetusd.shim.child import Child
from impetusd.shim.log import log
from impetusd.shim.tableline import NAME, encode, path_in

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from impetusd.shim.state import ShimState

VERSION = 1
DAMAGED = ".bad"  # what is appended to the name of one that cannot be used
GROWTH = 1 << 20  # bytes added to twice what everything takes, until it is begun anew
AGAIN = 5.0  # seconds until a file that cannot be written is tried again, or one in no watched folder is looked at
WRITTEN_WITHIN = 1.0  # seconds that a disk may take at the end
PARTS = ("blobs", "kept", "children")
AT_ONCE = 50  # of a part in one line


def ident(fd: int) -> list[int]:
    """[device, inode, access mode] of an open file."""
    found = os.fstat(fd)
    return [found.st_dev, found.st_ino, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE]


def ident_of(path: str) -> list[int]:
    """The same of a folder, as it is open for reading."""
    found = os.stat(path)
    return [found.st_dev, found.st_ino, os.O_RDONLY]


class Table:
    """The file. `write`, once a round, adds the state's `changes`."""

    def __init__(self, folder: str, state_dir: str) -> None:
        """`state_dir`: of the instance."""
        self.watched = Inotify()
        self._state_dir = state_dir
        self._instance = leftovers.instance(state_dir)
        self._path = path_in(folder)
        self._is_life_noted = False  # in state_dir
        self._fd = -1
        self._size = self._full = 0
        self._changed = 0  # st_mtime_ns as of our last write
        self._look_at = 0.0  # when (monotonic) to look whether the file is still there, and as it was written

    @property
    def due(self) -> float:
        """When (monotonic) to call `write` though nothing has changed; infinity where the kernel reports changes of the file."""
        return self._look_at if self._fd < 0 or not self.watched.on else math.inf

    def noticed(self) -> None:
        """Something in the folder has changed."""
        other, written = self.watched.changed(NAME)
        if other:
            self._look_at = 0.0
        if written:
            self._changed = -1  # whatever its time says: the clock of files is coarse

    def write(self, state: ShimState) -> None:
        """Write what has changed. A failure is reported once, and everything is written once it can be."""
        now = time.monotonic()
        looking = now >= self._look_at
        if not (state.changes or looking) or (self._fd < 0 and not looking):
            return
        reported = self._fd < 0
        for last in (False, True):
            try:
                self._write(state, now, looking=looking)
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
                    log(f"{fault}; retrying every {AGAIN:g} s")
                state.trouble(
                    NAME, f"{fault}; if impetusd is killed now, the next one may not recognize running programs"
                )
                return

    def _write(self, state: ShimState, now: float, *, looking: bool) -> None:
        grown = self._fd < 0 or self._size > 2 * self._full + GROWTH
        # Before each line, too: after it, the file's time is that of the line.
        if grown or ((looking or not self._is_as_written()) and not self._is_intact()):
            self._begin(state, now)
            return
        if not state.changes:
            return
        children = {number: child and child.dump() for number, child in state.changes.pop("children", {}).items()}
        line = encode({**state.changes, "children": children})
        state.changes = {}
        self._add(line)

    def _is_as_written(self) -> bool:
        ours = os.fstat(self._fd)
        return (ours.st_size, ours.st_mtime_ns) == (self._size, self._changed)

    def _is_intact(self) -> bool:
        """Whether the file is there and holds what was written. One that somebody else has changed is set aside."""
        self._look_at = time.monotonic() + AGAIN
        if not self.watched.on:  # the folder was made anew, perhaps by us, before it was known that the other had gone
            self.watched.add(os.path.dirname(self._path))
        ours = os.fstat(self._fd)
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            log(f"{self._path} was deleted and has been rewritten")
            return False
        if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino) and self._is_as_written():
            return True
        log(f"{self._path} was changed by another process; {set_aside(self._path)}; it has been rewritten")
        return False

    def _begin(self, state: ShimState, now: float) -> None:
        """Everything, in a file that takes the place of the one before when it is whole."""
        own = proc.read(os.getpid())
        content = {
            "version": VERSION,
            "boot": boot_id(),
            "life": state.life,
            "instance": self._instance,
            "shim": [os.getpid(), own.started if own else 0],
            "supervisor": [state.supervisor.pid, state.supervisor.started] if state.supervisor else None,
            "baseline": state.baseline,
            "shutdown": state.shutdown,
            **{part: {} for part in PARTS},
        }
        if not self._is_life_noted:  # it is on a disk, which may hang later
            with suppress(OSError):  # only the second memory
                leftovers.begin(self._state_dir, state.life)
            self._is_life_noted = True
        os.makedirs(os.path.dirname(self._path), 0o755, exist_ok=True)
        self.watched.add(os.path.dirname(self._path))
        aside = f"{self._path}.new"
        with suppress(FileNotFoundError):
            os.unlink(aside)
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        before, self._fd = self._fd, fd
        try:
            self._size, state.changes, self._look_at = 0, {}, now + AGAIN
            self._add(encode(content))
            self._add_all("blobs", state.blobs, lambda blob: blob)
            self._add_all("kept", state.kept, ident)
            self._add_all("children", state.children, lambda child: child.dump())
            self._full = self._size
            os.rename(aside, self._path)
        finally:
            if before >= 0:  # not earlier: it is by its being closed that a change of somebody else is seen
                os.close(before)
        state.trouble(NAME, "")

    def _add_all(self, part: str, items: dict[Any, Any], saved: Callable[[Any], Any]) -> None:
        """A few a line: the process keeps as much memory as was ever needed for one."""
        keys = iter(items)
        while some := list(islice(keys, AT_ONCE)):
            self._add(encode({part: {key: saved(items[key]) for key in some}}))

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

    def remove(self, state: ShimState) -> None:
        """After an orderly end nothing is left to be known."""
        with suppress(OSError):
            os.unlink(self._path)
        with suppress(OSError):
            leftovers.end(self._state_dir, state.life, state.kept["lock"], WRITTEN_WITHIN)


def set_aside(path: str) -> str:
    """Rename a file that cannot be used; what became of it, for a sentence."""
    aside = f"{path}{DAMAGED}"
    try:
        os.rename(path, aside)
    except OSError as error:
        return f"it cannot be renamed ({error.strerror})"
    return f"renamed to {aside}"


class Found:
    """What the shim before us has left in `folder`. `saved`: the table's content, None where there is none that can be used.

    `fault`: why the file cannot be used, "" where there is none of this boot. `other`: the table, if it is another
    instance's. `written`: time.time() of its last line.
    """

    __slots__ = ("fault", "other", "saved", "written")

    def __init__(
        self,
        saved: dict[str, Any] | None,
        fault: str = "",
        *,
        written: float = 0.0,
        other: dict[str, Any] | None = None,
    ) -> None:
        self.saved = saved
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
            saved = _parse(file.read().split(b"\n")[:-1])  # what follows the last newline is cut off
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError) as error:
            return Found(None, f"its table {path} is damaged ({_brief(error)})")
    if saved["boot"] != boot_id():
        return Found(None)
    if saved.get("instance", leftovers.instance(state_dir)) != leftovers.instance(state_dir):
        return Found(
            None, f"the table {path} belongs to a different instance, not to the one in {state_dir}", other=saved
        )
    return Found(saved, written=there.st_mtime)


def read(folder: str, state_dir: str) -> dict[str, Any] | None:
    """The content of the table in `folder`, if it is of this boot, user, format and instance."""
    return examine(folder, state_dir).saved


def _brief(error: Exception) -> str:
    if isinstance(error, IndexError):
        return "it is empty or cut off"
    return f"{type(error).__name__}: {str(error)[:100]}"


def _parse(lines: list[bytes]) -> dict[str, Any]:
    """The content of a table of these lines, unknown fields included. Raises all sorts of errors for what no shim has written."""
    saved: dict[str, Any] = bare.loads(lines[0])
    if saved["version"] != VERSION:
        raise ValueError(f"format {saved['version']!r}; this impetusd supports {VERSION}")
    for number, line in enumerate(lines):
        try:
            changes = saved if number == 0 else bare.loads(line)
            for part in PARTS:
                entries = changes[part] if number == 0 else changes.pop(part, {})
                for key, value in entries.items():
                    if value is not None:
                        CHECKS[part](key, value)
                if number:
                    saved[part].update(entries)
            saved.update(changes)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"line {number + 1} is malformed: {error!r}") from None
        except ValueError as error:
            raise ValueError(f"line {number + 1}: {error}") from None
    if not (isinstance(saved["boot"], str) and isinstance(saved["life"], str) and saved["life"]):
        raise TypeError("boot and life are not strings")
    _numbers(saved["shim"], 2)
    if saved["supervisor"] is not None:
        _numbers(saved["supervisor"], 2)
    _numbers([saved["baseline"]["oom_score"], *saved["baseline"]["nofile"]], 3)
    saved["shutdown"] = bool(saved["shutdown"])
    for part in PARTS:
        saved[part] = {key: value for key, value in saved[part].items() if value is not None}
    return saved


def _numbers(found: Any, count: int) -> None:
    if not isinstance(found, list) or [type(each) for each in found] != [int] * count:
        raise TypeError(f"{found!r} are not {count} numbers")


def _check_blob(_: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")


def _check_child(key: str, value: Any) -> None:
    if str(Child.load(value).process) != key:
        raise ValueError(f"child {key} has the name {value['process']}")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    "blobs": _check_blob,
    "kept": lambda _, value: _numbers(value, 3),
    "children": _check_child,
}
