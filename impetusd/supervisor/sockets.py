"""Sockets that this instance binds: its own two, and those that units listen on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Iterator

from impetusd.core.model import Listen
from impetusd.supervisor.childspec import CannotStart


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """A socket is born with its mode: chmod afterwards would leave a moment in which anyone may connect."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def bind_unix(path: str, kind: int, mask: int = 0o177) -> socket.socket:
    """A unix socket bound at `path`, in the place of a stale one. Raises OSError (EADDRINUSE when one is alive)."""
    if kind == socket.SOCK_STREAM and _answers(path):
        raise OSError(errno.EADDRINUSE, f"another process answers on {path}")
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, kind)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with umask(mask):
            sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


def notify_socket() -> socket.socket:
    """A socket for sd_notify messages, in the abstract namespace and under a name that nobody can take before us.

    It has no path: a program with another user reaches it from below any folder, and no cleaner removes it.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(f"\0impetusd/{os.urandom(8).hex()}")
    return sock


def notify_address(sock: socket.socket) -> str:
    """What NOTIFY_SOCKET says of it: "@" stands for the abstract namespace."""
    name: str | bytes = sock.getsockname()
    text = os.fsdecode(name)
    return f"@{text[1:]}" if text.startswith("\0") else text


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:  # its queue is full: it is alive
            return True
        except OSError:
            return False
    return True


def listen_on(address: Listen, backlog: int) -> socket.socket:
    """A listening socket for a unit. Raises CannotStart."""
    try:
        if address.path:
            sock = bind_unix(address.path, socket.SOCK_STREAM, 0o117)
        else:
            family, kind, proto, _, where = socket.getaddrinfo(
                address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = socket.socket(family, kind, proto)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if not address.host else 1)
                sock.bind(where)
            except OSError:
                sock.close()
                raise
        sock.listen(backlog)
    except OSError as error:
        raise CannotStart(f"listening on {address}", f"{error.strerror or error}{_hint(error, address)}") from None
    return sock


def _hint(error: OSError, address: Listen) -> str:
    if error.errno == errno.EADDRINUSE and not address.path:
        return f" (see who has it: ss -ltnp 'sport = :{address.port}')"
    if error.errno == errno.EACCES and 0 < address.port < 1024:
        return " (a port below 1024 needs root or CAP_NET_BIND_SERVICE)"
    return ""
