"""One TCP port, two sockets: the old manager's and ours, and which of the two gets the connections.

The old socket gets SO_REUSEPORT through a copy of its descriptor (pidfd_getfd(2)), so that a second one can be bound beside
it. A program of the kernel's (cBPF) then picks, for each new connection, the old one until ours is ready, and ours from then
on. Nothing that was accepted, or is queued, is touched: the old process answers it in peace before it is stopped.

Tried on Linux 6.18; needs 5.6 for the copy. The copy needs what ptrace(2) needs: Yama may forbid it.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct

from impetusd.linux import getfd, inet

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
SO_ATTACH_REUSEPORT_CBPF, SO_DETACH_REUSEPORT_BPF = 51, 68
BPF_RET = 0x06  # linux/bpf_common.h
NOTHING = 0  # bytes of a packet that a filter lets in
THEIRS, OURS = 0, 1  # places in the group: in the order in which they began to listen
BACKLOG = 4096  # the kernel caps it; a start sets that of the unit


class Share:
    """`theirs`: a copy of the socket that listens now; `ours`: the second one."""

    def __init__(self, pid: int, number: int) -> None:
        """Take the copy of descriptor `number` of process `pid`. Raises OSError."""
        self.theirs = _socket(getfd.of(pid, number))
        try:
            self._alone = not self.theirs.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
            self.ours = socket.socket(self.theirs.family, socket.SOCK_STREAM)
        except BaseException:
            self.theirs.close()
            raise

    def open(self) -> None:
        """Listen beside it; all connections go there still. Raises OSError."""
        owner = os.fstat(self.theirs.fileno()).st_uid
        if owner != os.geteuid():
            os.fchown(self.ours.fileno(), owner, -1)  # a port is shared among sockets of one user
        self.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            self.ours.setsockopt(socket.SOL_SOCKET, option, 1)
        if self.ours.family == socket.AF_INET6:
            v6only = self.theirs.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            self.ours.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        self.ours.bind(self.theirs.getsockname())
        # Between these two steps the kernel spreads connections: a client whose packet is dropped sends it again after 1 s.
        # An ordinary user may not drop any (seen: EPERM on 6.18): whoever comes in this moment waits until ours is ready.
        with contextlib.suppress(OSError):
            _attach(self.ours, SO_ATTACH_FILTER, NOTHING)
        self.ours.listen(BACKLOG)
        self.to_theirs()
        with contextlib.suppress(OSError):  # there is none
            self.ours.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def to_ours(self) -> None:
        """From now on new connections are ours."""
        _attach(self.theirs, SO_ATTACH_REUSEPORT_CBPF, OURS)

    def to_theirs(self) -> None:
        """From now on new connections are theirs."""
        _attach(self.theirs, SO_ATTACH_REUSEPORT_CBPF, THEIRS)

    def let_go(self) -> None:
        """Close both, and change nothing."""
        self.ours.close()
        self.theirs.close()

    def close(self, *, undone: bool) -> None:
        """Let go of both. `undone`: theirs goes on, as it was; else ours is an ordinary socket from now on."""
        left = self.theirs if undone else self.ours
        with contextlib.suppress(OSError):
            if not undone:
                self.ours.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
            if self._alone or not undone:
                left.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        self.let_go()


def _socket(fd: int) -> socket.socket:
    try:
        return socket.socket(fileno=fd)
    except BaseException:
        os.close(fd)
        raise


def _attach(sock: socket.socket, option: int, answer: int) -> None:
    """A program of one instruction, which always gives `answer`."""
    program = array.array("B", struct.pack("HBBI", BPF_RET, 0, 0, answer))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", 1, program.buffer_info()[0]))


def look(pid: int, number: int) -> tuple[str, bool]:
    """(why the socket at descriptor `number` of process `pid` cannot be shared, "" if it can; whether it takes IPv6 alone)."""
    try:
        with _socket(getfd.of(pid, number)) as copy:
            return "", inet.is_v6only(copy)
    except PermissionError:
        return "this host does not let processes access each other's sockets (kernel.yama.ptrace_scope)", False
    except OSError as error:
        return f"its socket cannot be shared: {error.strerror}", False
