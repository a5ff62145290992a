"""The control socket itself: creation, handover between supervisors, restoration after its removal, and access to
it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from impetusd.core import access
from impetusd.core.config.model import Access
from impetusd.files.folders import folder_of, open_folder, unlink_socket
from impetusd.linux.host import people
from impetusd.linux.priority import WARNING
from impetusd.linux.watch import watch
from impetusd.supervisor.faults import AGAIN
from impetusd.supervisor.start.sockets import bind_unix, set_acl
from impetusd.supervisor.threads import NoAnswer, Threads

if TYPE_CHECKING:
    from impetusd.core.config.location import Paths
    from impetusd.supervisor.api.control import ControlServer, Peer
    from impetusd.supervisor.faults import Faults
    from impetusd.supervisor.logs.writer import Writer
    from impetusd.supervisor.start.link import Outbox

CONTROL = "control"  # the socket's name in the shim's store
WITHIN = 20.0  # seconds to look up users and groups
FIRST_WITHIN = 2.0  # seconds without service while the permitted users are unknown


class ControlSocket:
    """A name in run_dir, and who may use it."""

    def __init__(
        self, paths: Paths, outbox: Outbox, writer: Writer, faults: Faults, *, allowed: Access, threads: Threads
    ) -> None:
        """`allowed`: who besides root and the owner may connect. What waits for the host waits in one of `threads`."""
        self._paths = paths
        self._path = paths.control_socket
        self._outbox = outbox
        self._log = writer.line
        self._faults = faults
        self._allowed = allowed
        self._threads = threads
        self._people: list[access.Person] = []
        self._watches = contextlib.ExitStack()
        self.server: ControlServer  # which answers
        self.over: Callable[[], bool] = lambda: False  # whether to stop restoring it
        self.missing: Callable[[], object] = lambda: None  # called when what is in run_dir may be gone, too

    def role_of(self, peer: Peer) -> str:
        """The peer's role; "" is none."""
        return access.role_of(peer.uid, peer.groups, os.geteuid(), self._people)

    async def open(self) -> None:
        """Answer on it once the permitted users are known, or cannot be looked up soon."""
        await self._know_people(FIRST_WITHIN)
        await self._open()

    def remove(self) -> None:
        """Stop answering."""
        with contextlib.suppress(OSError):
            unlink_socket(self._path)

    def close(self) -> None:
        """Let go of the watch on its folder."""
        self._watches.close()

    async def _open(self, *, watched: bool = False, failed: bool = False) -> None:
        """While it cannot be made, what runs goes on, and it is tried again."""
        try:
            await self._bind()
        except OSError as error:
            if not failed:
                again = f"retrying every {AGAIN:g} s; commands get no response until then"
                self._log(f"cannot create {self._path}: {error.strerror}; {again}")
            watched = watched and os.path.isdir(self._paths.run_dir)  # the watch went with the folder
            self._make(functools.partial(self._open_later, watched=watched))
            return
        if failed:
            self._log(f"{self._path} was created: commands work again")
        if not watched:
            self._watches.callback(watch(self._paths.run_dir, {"control.sock"}, self._gone))

    def _make(self, work: Callable[[], Awaitable[None]]) -> None:
        self._opening = asyncio.create_task(self._faults.attend("the control socket", "creating it", work))

    async def _open_later(self, *, watched: bool) -> None:
        await asyncio.sleep(AGAIN)
        if not self.over():
            await self._open(watched=watched, failed=True)

    async def _bind(self) -> None:
        """The socket that the supervisor before us had, unless its file was removed; else a new one."""
        fd, path = self._outbox.take(CONTROL), self._path
        if fd is not None and os.path.exists(path):
            sock = socket.socket(fileno=fd)
        else:
            if fd is not None:
                os.close(fd)
            with contextlib.suppress(FileNotFoundError), folder_of(path) as (folder, name):
                os.unlink(name, dir_fd=folder)  # any kind of file: the name in run_dir is ours
            sock = bind_unix(path)
            self._outbox.keep_copy(CONTROL, sock.fileno())  # for the supervisor after us
            self._outbox.flush()
        self._admit()
        await self.server.listen(sock)

    def _gone(self) -> None:
        self._faults.attempt("the control socket", "recreating it", self._remake)

    def _remake(self) -> None:
        """Somebody removed the socket (a cleaner of temporary files, say): it is made again."""
        if self.over() or os.path.exists(self._path):
            return
        self._log(f"{self._path} was deleted and has been recreated", WARNING)
        with contextlib.suppress(OSError):
            os.close(open_folder(self._paths.run_dir, make=0o755))  # run now: it must be watched again
        self.missing()
        self._make(functools.partial(self._open, watched=True))

    # Who may connect.

    async def _know_people(self, within: float) -> None:
        """Look up who besides root and the owner may ask; where that is not answered, until it is."""
        if self._allowed == Access():
            return
        try:
            self._people = await self._threads.run(lambda: people(self._allowed), within)
        except NoAnswer as error:
            self._log(f"supervisor: looking up the users and groups in [impetusd]: {error}; retrying", WARNING)
            attended = self._faults.attend("[impetusd]", "looking up users and groups", self._know_people_later)
            self._asking = asyncio.create_task(attended)

    async def _know_people_later(self) -> None:
        await asyncio.sleep(AGAIN)
        await self._know_people(WITHIN)
        self._admit()

    def _admit(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # removed: it is about to be made again
            if left_out := set_acl(self._path, self._people):
                self._log(f"supervisor: {left_out}", WARNING)
