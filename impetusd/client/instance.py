"""Which daemon a command means: which INI file it was started for, and where on this host it lives.

An instance is its state directory, with a daemon that was started for an INI file. When that file is edited, replaced by
another of its name, moved or reached by a link, it is still the same file. Another file that names the same folders is not:
no command may act on the daemon of another file, or on what it has left.

A daemon reports its file (`report`), and records it in its folders for when it does not run. An older version does neither;
then its command line has the path.

Imports stay few: `impetusd status` comes by here.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import namedtuple
from posixpath import basename, dirname, normpath

from impetusd import bare
from impetusd.core.config import ini
from impetusd.core.config.location import PLAIN, SYSTEM, Paths, is_users_own

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    Report = Mapping[str, Any]

NAME = "instance"  # a file in state_dir, and a blob of the shim's: which INI file the daemon was started for
SHIM, SUPERVISOR = "shim", "supervisor"
DIRS = ("run_dir", "state_dir", "log_dir")


# Files.


def stamp(path: str) -> list[int]:
    """Device, inode and mtime in ns: which file it is, and whether it was written to since. [] if it cannot be seen."""
    try:
        there = os.stat(path)
    except (OSError, ValueError):
        return []
    return [there.st_dev, there.st_ino, there.st_mtime_ns]


def report(conf: str, read: list[int]) -> dict[str, Any]:
    """What a daemon reports of its INI file; `read` is the file's stamp when it was read last."""
    return {"conf": conf, "file": read}


def record(told: Report, state_dir: str) -> dict[str, Any]:
    """The same for a file in state_dir, with the folder's device and inode: in a copy of the folder it does not count."""
    return {**told, "state_dir": stamp(state_dir)[:2]}


def is_path(one: str, other: str) -> bool:
    """True if both are the same path."""
    return normpath(one) == normpath(other)


def is_meant(conf: str, theirs: Report) -> bool:
    """Whether `conf` is the file of the daemon that reports `theirs`. True if it reports none."""
    other, read = theirs.get("conf"), theirs.get("file")
    if not isinstance(other, str) or is_path(conf, other):
        return True
    mine, now = stamp(conf), stamp(other)
    if not mine or mine[:2] == now[:2]:
        return bool(mine)
    # It may be the file that was read, renamed. If that one was replaced, the kernel may have given its inode number to a
    # newer file, which has a later mtime.
    return isinstance(read, list) and read[:2] == mine[:2] and (not now or read[2:] == mine[2:])


def of_state(paths: Paths) -> Report:
    """The record in state_dir; {} if there is none, or this user may not read it."""
    try:
        fd = os.open(f"{paths.state_dir}/{NAME}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        told = _report(os.read(fd, 1 << 16))
    except OSError:
        return {}
    finally:
        os.close(fd)
    return told if told.get("state_dir", stamp(paths.state_dir)[:2]) == stamp(paths.state_dir)[:2] else {}


def of_leftovers(paths: Paths) -> Report:
    """The report on its file in the table that a killed daemon left in run_dir; {} if there is none."""
    from impetusd.shim import table

    told = table.read(paths.run_dir, paths.state_dir)
    if told is None:
        return {}
    return _report(told["blobs"].get(NAME) or b"{}")


def _report(data: bytes | str) -> Report:
    try:
        told = bare.loads(data)
    except ValueError:
        return {}
    return told if isinstance(told, dict) and isinstance(told.get("conf"), str) else {}


def of_daemon(pong: Report) -> Report:
    """What a daemon reports in its answer to `ping` or `status`; for an older version, the path on its command line."""
    if "conf" in pong:
        return pong
    try:
        found = daemon(int(pong["shim"]["pid"]))
    except (KeyError, TypeError, ValueError):
        found = None
    return {} if found is None else report(found.conf, [])


# Daemons on this host, as /proc shows them.


class Daemon(namedtuple("Daemon", ("pid", "kind", "conf", "paths"))):  # noqa: PYI024  # typing takes 2 ms to import
    """A process of impetusd's own, SHIM or SUPERVISOR; `conf` and `paths` are as its command line has them."""

    __slots__ = ()
    pid: int
    kind: str
    conf: str
    paths: Paths


def process(pid: int) -> Daemon | None:
    """The role of this process by its command line, whatever its user; None if it has none, or this user may not see
    it.

    Both are started with CONF and PATHS, the latter as JSON.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = os.fsdecode(file.read()).split("\0")[:-1]
        for at, word in enumerate(words):
            kind = SHIM if word.endswith("/impetusd/shim/__main__.py") else ""
            kind = SUPERVISOR if word == "impetusd.supervisor" and len(words) == at + 3 else kind
            if kind:
                conf, fields = words[at + 1], bare.loads(words[at + 2])
                return Daemon(pid, kind, conf, Paths(conf, fields["base_dir"], *(fields[name] for name in DIRS)))
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None


def daemon(pid: int) -> Daemon | None:
    """The daemon whose shim has this pid; None if it is not a shim, or this user may not see it."""
    found = process(pid)
    return found if found is not None and found.kind == SHIM else None


def daemons() -> Iterator[Daemon]:
    """Every daemon of this user and of root that this user may see. Other users' processes could say anything: they do not count."""
    for name in os.listdir("/proc"):
        if name.isdecimal() and (found := daemon(int(name))) is not None and _uid(found.pid) in {0, os.geteuid()}:
            yield found


def _uid(pid: int) -> int:
    """The effective user of a process; the owner of its folder in /proc may be another. -1 if it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return next((int(line.split()[2]) for line in file if line.startswith(b"Uid:")), -1)
    except OSError:
        return -1


def by_same_file(conf: str) -> Iterator[Daemon]:
    """Every daemon that was started for this file, also under another name."""
    mine = stamp(conf)[:2]
    for found in daemons():
        # Through its own root: in a container the same path is another file.
        if mine and stamp(f"/proc/{found.pid}/root{found.conf}")[:2] == mine:
            yield found


def is_in(found: Daemon, state_dir: str) -> bool:
    """True if a daemon was started with this state directory."""
    return stamp(f"/proc/{found.pid}/root{found.paths.state_dir}")[:2] == stamp(state_dir)[:2] != []


def _held(pid: int) -> Iterator[str]:
    """The folders that a process has open, by the paths that they have now."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for number in numbers:
        try:
            path = os.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        if path.startswith("/") and os.path.isdir(path):
            yield path


def where_it_is(found: Daemon) -> Paths | None:
    """The folders of a daemon that was started through a link that may have been switched since.

    Its shim holds the state directory open, which shows its path; the folders behind the same link are beside it. None
    if this user may not see that.
    """
    said = found.paths.state_dir
    for path in _held(found.pid):
        if basename(path) != basename(said) or not _seems_locked(path):
            continue
        link, target = said, path
        while link != "/" and basename(link) == basename(target):
            link, target = dirname(link), dirname(target)

        def moved(folder: str, link: str = link, target: str = target) -> str:
            return target + folder[len(link) :] if folder.startswith(f"{link}/") else folder

        return found.paths._replace(**{name: moved(getattr(found.paths, name)) for name in DIRS})
    return None


def present(paths: Paths, shim: int) -> Paths:
    """Where the supervisor of this shim lives: in `paths`, unless a link on the way was switched since the shim started."""
    if _seems_locked(paths.state_dir) or not link_on_the_way(paths.conf):
        return paths
    return where_it_is(Daemon(shim, SHIM, paths.conf, paths)) or paths


def is_locked(folder: str) -> bool:
    """Whether a process holds the folder's lock (flock), as a daemon does its state directory's. Raises OSError.

    The probe takes the lock shared for an instant: a shim that starts in that very instant may believe itself the second
    one, and ends with `launch.TAKEN`, which has it started again.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _seems_locked(folder: str) -> bool:
    """The same; False where this user may not look."""
    try:
        return is_locked(folder)
    except OSError:
        return False


# Links that somebody switches.

# Links in these lead to where the host has put a disk, or are a part of the system; releases are not switched there.
FIRM = frozenset({"/", "/home", "/usr", "/var"})


def link_on_the_way(conf: str) -> str:
    """The first link on the path to the INI file that may be switched to another folder; "" if there is none."""
    folder = dirname(conf)
    if conf.startswith(SYSTEM) or os.path.realpath(folder) == folder:
        return ""
    way = ""
    for part in folder.strip("/").split("/"):
        above, way = way or "/", f"{way}/{part}"
        if above not in FIRM and os.path.islink(way):
            return way
    return ""


def behind_link(paths: Paths) -> str:
    """Why the instance must not live behind a link that may be switched, and what to write instead; "" if it does not."""
    link = link_on_the_way(paths.conf)
    behind = [name for name in DIRS if getattr(paths, name).startswith(f"{link}/")] if link else []
    if not behind:
        return ""
    said = ", ".join(f"{name} {getattr(paths, name)}" for name in behind)
    instead = "".join(
        f"\n    {name} = {dirname(link).rstrip('/')}{getattr(paths, name)[len(link) :]}" for name in behind
    )
    return (
        f"{said}: the path leads through the symbolic link {link} -> {os.readlink(link)}. When the link is switched,"
        " commands can no"
        " longer reach the running impetusd, and another start would run everything twice. Use folders outside of"
        f" the link: write in [impetusd] of {paths.conf}:{instead}"
    )


# The folders of older versions' daemons.


def residence(paths: Paths, former: Paths, ask: Callable[[Paths], Report | None]) -> Paths:
    """Where the instance of this INI file lives: in `paths`, or still in the folders of older versions (`former`).

    `ask` returns the answer of the daemon in such folders to `ping`, None if none runs. It raises OSError if it cannot ask.
    """
    if paths != former and _lives_in_former(paths, former, ask):
        return former
    # Of a user's own file: cron and others that have no XDG_RUNTIME_DIR would look for the socket elsewhere.
    own = is_users_own(paths.conf, os.environ) and not os.path.exists(paths.control_socket)
    if own or not _reachable(paths):
        linked = link_on_the_way(paths.conf)
        for found in daemons():
            there = None
            if is_path(found.conf, paths.conf):
                there = where_it_is(found) if linked else found.paths if own else None
            elif _has_moved(found, paths.conf):
                there = found.paths
            if there is not None:
                return there._replace(conf=paths.conf)
    return paths


def _has_moved(found: Daemon, conf: str) -> bool:
    """Whether `conf` is the file that the daemon has read, renamed since, and the old name no longer exists."""
    root = f"/proc/{found.pid}/root"
    if os.path.lexists(f"{root}{found.conf}") or not is_in(found, found.paths.state_dir):
        return False
    read = of_state(found.paths).get("file")
    return isinstance(read, list) and len(read) > 1 and read[:2] == stamp(conf)[:2]


def _reachable(paths: Paths) -> bool:
    return os.path.exists(paths.control_socket) or _seems_locked(paths.state_dir)


def _lives_in_former(paths: Paths, former: Paths, ask: Callable[[Paths], Report | None]) -> bool:
    if _is_given(former):
        return True
    if _reachable(paths) or os.path.exists(f"{paths.state_dir}/{NAME}"):
        return False
    if _reachable(former):
        try:
            pong = ask(former)
        except OSError:
            return False
        if pong is not None:
            return is_meant(paths.conf, of_daemon(pong))
    theirs = of_state(former) or of_leftovers(former)
    return is_meant(paths.conf, theirs) if theirs else _state_is_ours(paths, former)


def _is_given(former: Paths) -> bool:
    """Whether systemd made that state directory for this service and lets it write to no other: systemd.exec(5)."""
    return former.state_dir in os.environ.get("STATE_DIRECTORY", "").split(":")


def _state_is_ours(paths: Paths, former: Paths) -> bool:
    """Whether state without a record of its file belongs to this file: it has its units, and no impetusd.ini is beside
    it."""
    if os.path.exists(f"{dirname(paths.conf)}/{PLAIN}"):
        return False
    try:
        with open(f"{former.state_dir}/state.json", encoding="utf-8") as file:
            slots = bare.loads(file.read())["slots"]
        return not _units(paths.conf).isdisjoint(name.partition(":")[0] for name in slots)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _units(conf: str) -> set[str]:
    """The names of its sections: units, timers, checks."""
    with open(conf, encoding="utf-8-sig", errors="replace") as file:
        sections, _ = ini.parse(file.read(), conf)
    return {section.name.partition(":")[2].strip() for section in sections} - {""}


def move(paths: Paths, former: Paths, *, everything: bool) -> bool:
    """Move the files in the former folders to `paths`, before a daemon is started. False if they have to stay.

    They stay while processes run that a killed daemon has left, and where this user may not write. `everything`: all that
    is in the state directory, not only impetusd's own files, because the INI file lets programs keep files in
    ${STATE_DIR}.
    """
    from impetusd.client import reaper

    if _is_given(former) or reaper.left_behind(former).members:
        return False
    try:
        lock = os.open(former.state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    moved: list[tuple[str, str]] = []
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _move_files(former.log_dir, paths.log_dir, 0o750, _logs(_units(paths.conf)), moved)
        _move_files(former.state_dir, paths.state_dir, 0o700, "" if everything else STATE, moved)
    except OSError:
        for source, target in reversed(moved):
            os.rename(target, source)
        return False
    finally:
        os.close(lock)
    return True


# Prefixes of the names in state_dir.
STATE = r"(state\.json|ledger\.jsonl|disabled|profile|instance|life$)"


def _logs(units: set[str]) -> str:
    """Names of log files as they are by default, rotated ones too: the daemon's own and those of `units`."""
    names = "|".join(map(re.escape, units))
    return rf"(impetusd|({names})(-([0-9]+|template|standby(-[0-9]+)?))?-(out|error))\.log"


def _move_files(source: str, target: str, mode: int, names: str, moved: list[tuple[str, str]]) -> None:
    from impetusd.files.folders import open_folder

    if source == target or not os.path.isdir(source):
        return
    os.close(open_folder(target, make=mode))
    # These two say where the instance lives: moved last, so that after a kill in between the next start moves the rest.
    for name in sorted(
        filter(re.compile(names).match, os.listdir(source)), key=lambda name: name in {NAME, "state.json"}
    ):
        os.rename(f"{source}/{name}", f"{target}/{name}")
        moved.append((f"{source}/{name}", f"{target}/{name}"))
