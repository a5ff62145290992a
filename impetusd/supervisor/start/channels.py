"""Command channels: a socket to each worker of a pool, over which it is activated, queried, and ended."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from impetusd.supervisor.start.sockets import another

if TYPE_CHECKING:
    from impetusd.supervisor.api.measured import Measured
    from impetusd.supervisor.start.link import Outbox


class Channels:
    """By the shim's number of the worker's process."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.measured: Measured | None = None  # with one, workers write into pages that it sees

    def open(self, process: int) -> None:
        """Store the worker's end as `chan:PROCESS:theirs` for a worker that is about to be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            for name, sock, is_ours in ((f"chan:{process}", ours, True), (f"chan:{process}:theirs", theirs, False)):
                self._outbox.keep(name, sock.fileno(), ours=is_ours)
                sock.detach()

    def put_to_work(self, process: int, name: str) -> None:
        """Order a worker to accept requests as slot `name`; a repeated order has no effect."""
        self._send_with_page(process, name, {"do": "serve", "name": name})

    def go_on_measuring(self, process: int, name: str) -> None:
        """Let a worker that has served as slot `name` since before our time measure where we can see it."""
        self._send_with_page(process, name, {"do": "tell"})

    def _send_with_page(self, process: int, name: str, message: Mapping[str, Any]) -> None:
        page = self._page(process, name.partition(":")[0])
        try:
            self.send(process, {**message, "page": True} if page >= 0 else message, [page] if page >= 0 else ())
        finally:
            if page >= 0:
                os.close(page)

    def _page(self, process: int, pool: str) -> int:
        """-1 where no descriptor is left for one: the worker is put to work, and what it measures is not seen."""
        if self.measured is None:
            return -1
        try:
            return self.measured.page(process, pool)
        except OSError:
            return -1

    def send(self, process: int, message: Mapping[str, Any], fds: Sequence[int] = ()) -> bool:
        """Send a command to a worker; one that does not listen any more is about to be noticed, and False."""
        fd = self._outbox.fds.get(f"chan:{process}")
        if fd is None:
            return False
        try:
            with another(fd) as channel:
                flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
                socket.send_fds(channel, [json.dumps(message).encode()], fds, flags)
        except OSError:
            return False
        return True

    def connect(self, process: int) -> socket.socket | None:
        """A connection to one worker alone, past the listening socket that all share; None when it takes none."""
        ours, theirs = socket.socketpair()
        heard = False
        try:
            with theirs:
                heard = self.send(process, {"do": "probe"}, [theirs.fileno()])
        finally:
            if not heard:
                ours.close()
        return ours if heard else None

    def reaches(self, process: int) -> bool:
        """Whether there is a channel to this worker: it may have been lost with a shim that was killed."""
        return f"chan:{process}" in self._outbox.fds

    def forget(self, process: int) -> None:
        """The worker is gone."""
        if self.measured is not None:
            self.measured.ended(process)
        if f"chan:{process}" in self._outbox.fds:
            self._outbox.drop(f"chan:{process}")
