"""Connections for the units that impetusd makes itself, [gateway]'s and the observer: they act for others, within a
ceiling.

They are not identified by uid, which others may share. Each of these units has a pair of sockets, which the shim holds
and whose other end its processes inherit. A process with that end requests a connection, CONNECT, and gets one with the
answer; there it speaks the control protocol like any client, and may name the user it acts for ("on_behalf_of", see
`control`). Requests to a supervisor that has died wait for the next.

The unit speaks HTTP with strangers, so what it sends is hostile: no descriptor is ever taken from it (closing another
user's file may take for ever, and flags of a socket are shared by all its holders), and nothing that it does costs more
than a share. It can shut the pair down for its successors, who inherit it, too: then its processes are ended, and those
that follow inherit a new pair. It cannot make it deaf, which nobody would see: no filter can be attached to either end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable, Iterable

from impetusd.core.config.gateway import GATEWAY
from impetusd.core.config.model import Settings, Unit
from impetusd.core.protocol import CONNECT, FULL, TAKE, VIEWER
from impetusd.core.reasons import Reason, because
from impetusd.supervisor.api.control import Peer
from impetusd.supervisor.faults import BARE
from impetusd.supervisor.start.starter import Starter

MOST = 64  # connections of one unit
AT_ONCE = 16  # messages of a unit that are read before everything else has its turn, then a pause in seconds:
APART = 0.05
SO_LOCK_FILTER = 44  # socket(7)
PREFIX, THEIRS = "inherited:", ":theirs"  # in the shim's store, around the unit's name


class Inherited:
    """The pairs and the requests over them."""

    def __init__(
        self,
        starter: Starter,
        serve: Callable[[socket.socket, Peer], object],
        count: Callable[[str], int],
        fail: Callable[[str, Reason], object],
    ) -> None:
        """`serve` answers a connection, `count` returns how many a unit has open, `fail` ends all processes of a unit."""
        self._loop = asyncio.get_running_loop()
        self._starter = starter
        self._serve = serve
        self._count = count
        self._fail = fail
        self._socks: dict[str, socket.socket] = {}
        self._peers: dict[str, Peer] = {}
        self.faults = BARE

    def resume(self, held: Iterable[str], units: Iterable[Unit], gateway: Settings | None) -> None:
        """Take over what is `held`, as the shim names it, and make what is missing for `units`."""
        wanted = {unit.name for unit in units if unit.made is not None}
        for name in [name for name in held if name.startswith(PREFIX)]:
            if name.removeprefix(PREFIX).removesuffix(THEIRS) not in wanted:
                self._starter.outbox.drop(name)
        ceiling = gateway.values["ceiling"] if gateway is not None else VIEWER
        for unit in wanted:
            self._socks[unit] = self._pair(f"{PREFIX}{unit}")
            self._peers[unit] = Peer.unit(unit, ceiling if unit == GATEWAY else VIEWER)

    def _pair(self, name: str) -> socket.socket:
        """Our end: the one that is held, or that of a new pair where either end was lost with a shim that was killed."""
        held, theirs = (self._starter.outbox.take(each) for each in (name, name + THEIRS))
        if held is not None and theirs is not None:
            ours = socket.socket(fileno=held)
            with socket.socket(fileno=theirs) as other:
                _lock(ours, other)
            ours.setblocking(False)
            return ours
        for fd in (held, theirs):
            if fd is not None:
                os.close(fd)
        return self._new_pair(name)

    def _new_pair(self, name: str) -> socket.socket:
        """Our end; both are held under the name, in the place of those before."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                _lock(ours, theirs)
                self._starter.outbox.keep_copy(name, ours.fileno())
                self._starter.outbox.keep_copy(name + THEIRS, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return ours

    def listen(self) -> None:
        """Answer from now on."""
        for unit in self._socks:
            self._hear(unit)

    def _hear(self, unit: str) -> None:
        sock = self._socks.get(unit)
        if sock is not None:
            self.faults.hear(sock, unit, "passing a connection to it", self._asked, unit)

    def _asked(self, unit: str) -> None:
        sock = self._socks[unit]
        for _ in range(AT_ONCE):
            try:
                # Without room for descriptors: those that come along are let go by the kernel.
                message = sock.recv(len(CONNECT) + 1, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENOBUFS, errno.ENOMEM}:
                    break
                raise
            if (not message and _is_shut(sock)) or (message == CONNECT and not self._connect(unit, sock)):
                self._renew(unit, sock)
                return
        self._loop.remove_reader(sock)
        self._loop.call_later(APART, self.faults.attempt, unit, "resuming reading from it", self._hear, unit)

    def _connect(self, unit: str, sock: socket.socket) -> bool:
        """Answer with a connection. False: the pair was shut down, and takes no answer any more."""
        flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        try:
            if self._count(unit) >= MOST:
                sock.send(FULL, flags)
                return True
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    socket.send_fds(sock, [TAKE], [theirs.fileno()], flags)
                except OSError:
                    ours.close()
                    raise
        except OSError as error:  # else who asked does not take the answers of before, or no descriptor is left
            return error.errno not in {errno.EPIPE, errno.ECONNRESET}
        self._serve(ours, self._peers[unit])
        return True

    def _renew(self, unit: str, sock: socket.socket) -> None:
        """Another pair, and other processes: those that live, a template among them, have nothing but the one before."""
        self._socks[unit] = self._new_pair(f"{PREFIX}{unit}")
        self._loop.remove_reader(sock)
        sock.close()
        self._hear(unit)
        self._fail(unit, because("channel_shut"))
        self._starter.outbox.flush()

    def close(self) -> None:
        """Stop answering."""
        for sock in self._socks.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._socks.clear()


def _lock(*ends: socket.socket) -> None:
    """No filter can be attached from now on, by whoever holds them: one that drops messages would outlive its process."""
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER, 1)


def _is_shut(sock: socket.socket) -> bool:
    """Whether nothing can come any more: an empty message looks the same."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))
