"""The notify sockets: one per unit, writable only by its user.

A datagram socket's queue is short. If everybody can reach it, anybody can fill it, and then neither READY nor WATCHDOG
of a healthy program gets through. So these have a path, in a folder that only we may write to, and a mode. The folder
is in run_dir; for users who cannot reach it, root has one in /run. Without either (run_dir of an ordinary user, with
too long a path) all units share one in the abstract namespace, as they did in older versions.

The shim holds the sockets. After its death they are bound anew where they were: programs go on without noticing.
Processes that an older version started still notify the single one, which is kept until the last of them has ended; and
a version that knows only the single one can take over, too: see `merge`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
from collections.abc import Collection, Mapping

from impetusd.core.config.location import Paths
from impetusd.core.reasons import of_os_error
from impetusd.files.folders import address_of, notify_folders, open_folder, remove_sockets, unlink_socket
from impetusd.supervisor.start.childspec import CannotStart
from impetusd.supervisor.start.link import Outbox
from impetusd.supervisor.start.notify import Notify
from impetusd.supervisor.start.sockets import bind_with_mode

SINGLE = "notify"  # in the shim's store and its memory: the single socket, and its address
OLD = "notify:old"  # which processes know that: the shim's numbers [from, to), null for all since
OF_UNIT = "notify-at:"  # and the unit's name: its socket; [path, uid]
ALL = "programs without their own notify socket"
LONGEST = 107  # bytes of a unix socket's path
HASHED = 16  # characters in the place of a name that is too long


class NotifySockets:
    """The sockets. `notify` hears them."""

    def __init__(self, outbox: Outbox, paths: Paths, notify: Notify) -> None:
        self._outbox = outbox
        self._notify = notify
        self._paths = paths
        self._at: dict[str, tuple[str, int]] = {}  # unit → path, uid
        self._single = ""  # its address, while there is one
        self.old: set[int] = set()  # those that know it, of the processes that ran before us
        self._lasting = False  # and some that were started since

    def resume(self, blobs: Mapping[str, str], units: Collection[str], processes: Collection[int]) -> None:
        """Take over what the shim remembers in `blobs`, and holds, while it has these `processes`."""
        for key, text in blobs.items():
            unit = key.removeprefix(OF_UNIT)
            if unit != key:
                path, uid = json.loads(text)
                self._at[unit] = path, uid
                fd = self._outbox.take(key)
                if unit not in units:
                    self._forget(unit)
                elif fd is not None and os.path.exists(path):
                    self._notify.listen(unit, socket.socket(fileno=fd))
                    continue
                else:
                    with contextlib.suppress(CannotStart):  # its next start tries again and reports it
                        self._bind(unit, path, uid)
                if fd is not None:
                    os.close(fd)
        fd = self._outbox.take(SINGLE)
        low, high = json.loads(blobs.get(OLD, "[0, null]"))
        if high is None:
            high = max(processes, default=-1) + 1
        self.old = {process for process in processes if low <= process < high}
        if SINGLE in blobs and self.old:
            sock, address = (socket.socket(fileno=fd), blobs[SINGLE]) if fd is not None else _again(blobs[SINGLE])
            self._have_single(sock, address, [low, high], held=fd is not None)
        elif SINGLE in blobs:
            if fd is not None:
                os.close(fd)
            self._single = blobs[SINGLE]
            self._drop_single()

    def address(self, unit: str, uid: int) -> str:
        """The NOTIFY_SOCKET of a process of this unit, which runs as user `uid`. Raises CannotStart."""
        path, owner = self._at.get(unit, ("", -1))
        if owner != uid:
            folder = folder_for(self._paths, uid)
            path = folder and f"{folder}/{_name(unit, folder)}"
        if path and (owner != uid or not os.path.exists(path)):
            self._bind(unit, path, uid)
        elif not path:
            self._lasting = True
            if not self._single:
                self._have_single(*_again(""), [0, None], held=False)
            self._outbox.put(OLD, "[0, null]")
        return path or self._single

    def restore(self) -> None:
        """Somebody may have removed run_dir: bind again what is missing."""
        for unit, (path, uid) in self._at.items():
            if not os.path.exists(path):
                with contextlib.suppress(CannotStart):
                    self._bind(unit, path, uid)

    def ended(self, process: int) -> None:
        """The shim's number of a process that is gone: with the last that knows the single socket, that goes, too."""
        if process in self.old:
            self.old.discard(process)
            if not (self.old or self._lasting):
                self._drop_single()

    def merge(self, processes: Collection[int]) -> None:
        """Another version is to take over, which may know the single socket alone: have every path lead to that.

        To one that is like us the same happens as after the death of the shim: each unit gets its own again. Not while
        there are programs of an older version, whose single socket has no path. `processes`: those that there are.
        """
        if self._single or not self._at:
            return
        folders = {os.path.dirname(path) for path, _ in self._at.values()}
        shared = f"{max(folders, key=lambda folder: folder.startswith('/run/impetusd-'))}/.all"  # which all can reach
        try:
            sock = bind(shared, os.geteuid(), 0o666, aside="")
            for path, _ in self._at.values():
                os.symlink(shared, f"{path}.new")
                os.rename(f"{path}.new", path)
        except OSError:
            return  # then what has a watchdog is started anew by such a version
        for unit in self._at:
            self._notify.drain(unit)
            self._notify.unlisten(unit)
            self._outbox.drop(f"{OF_UNIT}{unit}")
        self._have_single(sock, shared, [max(processes, default=-1) + 1, None], held=False)

    def close(self) -> None:
        """At the end of everything: leave no name behind."""
        for unit in list(self._at):
            self._forget(unit)
        if self._single:
            self._drop_single()
        for folder in notify_folders(self._paths.run_dir, self._paths.state_dir):
            with contextlib.suppress(OSError):
                remove_sockets(folder)

    def _bind(self, unit: str, path: str, uid: int) -> None:
        try:
            sock = bind(path, uid, 0o600)
        except OSError as error:
            raise CannotStart("notify_socket", of_os_error(error), path) from None
        self._at[unit] = path, uid
        self._outbox.keep_now(f"{OF_UNIT}{unit}", sock.fileno(), json.dumps([path, uid]))
        self._notify.listen(unit, sock)

    def _forget(self, unit: str) -> None:
        path, _ = self._at.pop(unit)
        self._notify.unlisten(unit)
        self._outbox.drop(f"{OF_UNIT}{unit}")
        self._outbox.put(f"{OF_UNIT}{unit}", None)
        with contextlib.suppress(OSError):
            unlink_socket(path)

    def _have_single(self, sock: socket.socket, address: str, old: list[int | None], *, held: bool) -> None:
        self._single = address
        if not held:
            self._outbox.keep_now(SINGLE, sock.fileno(), address)
        self._outbox.put(OLD, json.dumps(old))
        self._notify.listen(ALL, sock)

    def _drop_single(self) -> None:
        self._notify.unlisten(ALL)
        self._outbox.drop(SINGLE)
        self._outbox.put(SINGLE, None)
        self._outbox.put(OLD, None)
        if not self._single.startswith("@"):
            with contextlib.suppress(OSError):
                unlink_socket(self._single)
        self._single = ""


def folder_for(paths: Paths, uid: int) -> str:
    """The folder for sockets of this user's units, which the user can reach; "" for none."""
    own, *shared = notify_folders(paths.run_dir, paths.state_dir)
    if _fits(own) and (uid == os.geteuid() or _open_to_all(paths.run_dir)):
        return own
    return shared[0] if shared and os.geteuid() == 0 and _open_to_all("/run") else ""


def _name(unit: str, folder: str) -> str:
    room = LONGEST - len(os.fsencode(f"{folder}/.new"))
    if len(unit) <= room:
        return unit
    import hashlib  # brings libcrypto: 0.6 MB

    return hashlib.sha256(unit.encode()).hexdigest()[:HASHED]


def bind(path: str, uid: int, mode: int, aside: str = ".new") -> socket.socket:
    """A datagram socket at `path`, of this user; bound `aside` and then moved there, so that there is always one.

    Raises OSError.
    """
    folder, name = os.path.split(path)
    fd = open_folder(folder, make=0o711)
    try:
        if stat.S_IMODE(os.fstat(fd).st_mode) != 0o711:
            os.chmod(f"/proc/self/fd/{fd}", 0o711)  # noqa: S103  # not to be listed, but to be reached
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{name}{aside}", dir_fd=fd)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            with address_of(f"{path}{aside}") as address:
                bind_with_mode(sock, address, mode)
            os.chmod(f"/proc/self/fd/{fd}/{name}{aside}", mode)  # nobody else puts anything there
            os.chown(f"{name}{aside}", uid, -1, dir_fd=fd, follow_symlinks=False)
            os.rename(f"{name}{aside}", name, src_dir_fd=fd, dst_dir_fd=fd)
        except BaseException:
            sock.close()
            raise
    finally:
        os.close(fd)
    return sock


def _again(before: str) -> tuple[socket.socket, str]:
    """The single socket and its address: the one `before`, which programs know, if it is free; else another."""
    if before and not before.startswith("@"):
        return bind(before, os.geteuid(), 0o666, aside=""), before
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    for name in filter(None, (before[1:], f"impetusd/{os.urandom(8).hex()}")):  # "@" stands for the abstract namespace
        with contextlib.suppress(OSError):
            sock.bind(f"\0{name}")
            return sock, f"@{name}"
    raise OSError("no free name for a notify socket")


def _fits(folder: str) -> bool:
    return len(os.fsencode(folder)) + 1 + HASHED + len(".new") <= LONGEST


def _open_to_all(folder: str) -> bool:
    """Whether every user can reach its contents; missing folders on the way will be made so."""
    folder = os.path.realpath(folder)
    while True:
        try:
            if not os.stat(folder).st_mode & stat.S_IXOTH:
                return False
        except FileNotFoundError:
            pass
        except OSError:
            return False
        if folder == "/":
            return True
        folder = os.path.dirname(folder)
